"""What trains: which tensors of the trunk, in which form, where they act, and how student and teacher share all the
others.

There is one copy of the weights. The teacher is the model as loaded; the student is the same modules with a few
parameters exchanged for others, or with a small adapter beside them. Exchanging is by reference, so switching an
erasure off gives back the very same tensors: the base model, bit for bit.

A change is a dictionary of tensors. `layers.0.self_attn.q_proj.weight` stands in for the parameter of that name;
`layers.0.self_attn.q_proj.lora_A.weight` [r, in] and `...lora_B.weight` [out, r] are an adapter of rank r beside that
module, y = W x + B A x (peft's names; alpha = r, so that no scale is left). `layers.0.leace.left` [D, R], `.right` [R,
D] and `.mean` [D] change what layer 0 reads where words stand, x - left right (x - mean): LEACE's, made without
training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError
from .recipe import Recipe
from .recipe_scale import ScaleRecipe

if TYPE_CHECKING:
    from ..generators.base import Generator, NextToken

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
KV = ("self_attn.k_proj", "self_attn.v_proj")
PARTS = {  # of a next-token model: modules -> which linear layers of a decoder layer change
    "attention": ATTENTION,
    "mlp": MLP,
    "both": ATTENTION + MLP,
    "kv": KV,
    "no-kv": tuple(part for part in ATTENTION + MLP if part not in KV),
    "down": MLP[2:],
}
CROSS = ("cross_attention.q", "cross_attention.kv", "cross_attention.out")
FFN = ("ffn.up", "ffn.down")
SELF = ("self_attention.qkv", "self_attention.out")
SCALE_PARTS = {  # of a next-scale model: modules -> which linear layers of a block change
    "cross": CROSS,
    "kv": CROSS[1:2],
    "ffn": FFN,
    "self": SELF,
    "both": CROSS + FFN,
    "all": CROSS + FFN + SELF,
    "no-kv": (CROSS[0], CROSS[2], *FFN),
}


def layer_range(layers: tuple[float, float], depth: int) -> range:
    """Layers from `layers[0]` to `layers[1]` of the depth, as shares; never empty. (0, 1/6) is 0-4 of 30, 0-3 of 24, 0
    of 8."""
    first = min(round(layers[0] * depth), depth - 1)
    return range(first, max(first + 1, round(layers[1] * depth)))


def tensor_names(recipe: Recipe | ScaleRecipe, depth: int, trunk: nn.Module | None = None) -> list[str]:
    """Names of the tensors that a recipe trains, relative to the trunk: `layers.0.self_attn.q_proj.weight`,
    `blocks.0.ffn.up.weight`, ...

    Args:
        recipe: of either family.
        depth: number of the model's layers.
        trunk: a next-scale model's; where its whole layers train everywhere, their biases do, too.

    Raises:
        UserError: the recipe leaves none.
    """
    chosen = layer_range(recipe.layers, depth)
    if isinstance(recipe, ScaleRecipe):
        modules = [f"blocks.{i}.{part}" for i in chosen for part in SCALE_PARTS[recipe.modules]]
        if trunk is None or recipe.rank or recipe.positions == "scales":
            return [f"{module}.weight" for module in modules]
        own = dict(trunk.named_parameters())
        return [name for module in modules for name in (f"{module}.weight", f"{module}.bias") if name in own]
    mlps = layer_range(recipe.mlp_layers, depth)[:: recipe.mlp_every]
    parts = [(i, part) for i in chosen for part in PARTS[recipe.modules] if part not in MLP or i in mlps]
    if not parts:
        shares = f"layers={recipe.layers} and mlp_layers={recipe.mlp_layers} have no layer in common"
        raise UserError(f"recipe '{recipe.name}' trains nothing in {depth} layers: {shares}")
    return [f"layers.{i}.{part}.weight" for i, part in parts]


def student_parameters(
    trunk: nn.Module, names: list[str], masters: str = "float32", rank: int = 0, seed: int = 0
) -> dict[str, nn.Parameter]:
    """Fresh parameters with which the student computes what the teacher does: in float32 at least, or (masters "own")
    as the frozen weights are.

    rank 0: copies of the matrices. rank r: for each of them A, drawn at random as a linear layer's weights are, and B =
    0.
    """
    student, chance = {}, torch.Generator().manual_seed(seed)
    for name in names:
        own = trunk.get_parameter(name).detach()
        dtype = own.dtype if masters == "own" else torch.promote_types(own.dtype, torch.float32)
        if rank == 0:
            student[name] = nn.Parameter(own.to(dtype, copy=True))
            continue
        module, (out, wide_in) = name.removesuffix(".weight"), own.shape
        a = torch.empty(rank, wide_in)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=chance)
        student[f"{module}.lora_A.weight"] = nn.Parameter(a.to(own.device, dtype))
        student[f"{module}.lora_B.weight"] = nn.Parameter(own.new_zeros(out, rank, dtype=dtype))
    return student


def adapters(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A [r, in] and B [out, r] of every adapter in a change, by the module that it stands beside. UserError if
    one of the two is missing."""
    modules = dict.fromkeys(name.rpartition(".lora_")[0] for name in tensors if ".lora_" in name)
    try:
        return {module: (tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]) for module in modules}
    except KeyError as error:
        raise UserError(f"an adapter needs both lora_A and lora_B, and there is no {error.args[0]}") from None


def frozen(tensors: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The tensors of a change as parameters that do not train, on a device."""
    return {name: nn.Parameter(t.to(device), requires_grad=False) for name, t in tensors.items()}


@contextmanager
def applied(
    generator: Generator,
    tensors: Mapping[str, torch.Tensor],
    positions: str | slice = "all",
    opened: Mapping[str, Callable[[], torch.Tensor | None]] | None = None,
) -> Iterator[Any]:
    """Within the context the generator's trunk computes with a change; afterwards it is its own self.

    Args:
        generator: whose trunk; with positions "all" anything with a `trunk` will do.
        tensors: the change.
        positions: "all", or where alone it acts, as `Generator.acting` has it: at the "words" of prompts, or at a slice
            of a next-scale model's codes. Elsewhere the trunk computes with its own weights.
        opened: module -> function that says how far an adapter is open; called when the module runs, it gives gamma_BR
            of its rows and ranks for y = W x + B (gamma * A x), or None for an adapter that is shut.

    Raises:
        UserError: positions "scales", which name no codes.
    """
    if positions == "scales":  # which ones is in the recipe: `store.py` makes a slice of them
        line = f"a change that acts at positions={positions} only cannot be composed with others; switch it on alone"
        raise UserError(line)
    acting = None if positions == "all" else partial(generator.acting, positions)
    whole = {name: t for name, t in tensors.items() if ".lora_" not in name and ".leace." not in name}
    with ExitStack() as stack:
        if acting is None:
            stack.enter_context(switched(generator.trunk, whole))
        else:
            for name, t in whole.items():
                module = generator.trunk.get_submodule(name.removesuffix(".weight"))
                stack.enter_context(_changed(module, partial(_exchanged, acting, t)))
        for name, (a, b) in adapters(tensors).items():
            change = partial(_adapted, acting, a, b, (opened or {}).get(name))
            stack.enter_context(_changed(generator.trunk.get_submodule(name), change))
        for layer in dict.fromkeys(name.partition(".leace.")[0] for name in tensors if ".leace." in name):
            left, right, mean = (tensors[f"{layer}.leace.{part}"] for part in ("left", "right", "mean"))
            erased = partial(_erased, partial(generator.acting, "words"), left, right, mean)
            stack.enter_context(hooked(generator.trunk.get_submodule(layer).register_forward_pre_hook(erased)))
        yield generator


@contextmanager
def switched(trunk: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Within the context the trunk computes with `tensors` in place of its own; afterwards its own objects are back."""
    homes: dict[str, tuple[Any, str]] = {}
    for name in tensors:
        module, _, leaf = name.rpartition(".")
        homes[name] = trunk.get_submodule(module)._parameters, leaf
    own = {name: parameters[leaf] for name, (parameters, leaf) in homes.items()}
    try:
        for name, (parameters, leaf) in homes.items():
            # a frozen trunk in half precision computes with half-precision copies; gradients reach the float32 masters
            # through the cast
            parameters[leaf] = tensors[name].to(own[name].dtype)
        yield
    finally:
        for name, (parameters, leaf) in homes.items():
            parameters[leaf] = own[name]


@contextmanager
def hooked(*handles: Any) -> Iterator[None]:
    """The context at whose end hooks are removed, by their handles."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def spoken(generator: NextToken, place_RP: torch.Tensor, vectors_KD: torch.Tensor) -> Iterator[None]:
    """Within the context prompts have the vector k in the place of the word's own where `place_RP` is k, and -1 is none
    (int64, R rows, P positions of prompts, K vectors)."""

    def replace(module: Any, args: Any, out_RSD: torch.Tensor) -> torch.Tensor:
        place_RS = F.pad(place_RP, (0, out_RSD.shape[1] - place_RP.shape[1]), value=-1)
        return torch.where((place_RS >= 0)[..., None], vectors_KD.to(out_RSD.dtype)[place_RS.clamp(min=0)], out_RSD)

    with hooked(generator.word_embeddings.register_forward_hook(replace)):
        yield


@contextmanager
def _changed(module: Any, change: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Within the context `module(x)` is `change(x, y, module)`, y what it was before."""
    before, patched = module.forward, "forward" in module.__dict__  # several adapters may stand beside one module
    module.forward = lambda x: change(x, before(x), module)
    try:
        yield
    finally:
        if patched:
            module.forward = before
        else:
            del module.forward


Acting = Callable[[], torch.Tensor | None]  # where a change acts now: bool [B, S], or None for nowhere


def _exchanged(
    acting: Acting, weight: torch.Tensor, x_BSD: torch.Tensor, y_BSD: torch.Tensor, module: Any
) -> torch.Tensor:
    """Another weight at the positions that `acting` gives."""
    acting_BS = acting()
    if acting_BS is None:
        return y_BSD
    return torch.where(acting_BS[..., None], F.linear(x_BSD, weight.to(x_BSD.dtype), module.bias), y_BSD)


def _adapted(
    acting: Acting | None,
    a: torch.Tensor,
    b: torch.Tensor,
    opened: Acting | None,
    x_BSD: torch.Tensor,
    y_BSD: torch.Tensor,
    module: Any,
) -> torch.Tensor:
    """A low-rank term beside the weight, everywhere or at the positions that `acting` gives; `opened` may say how far
    for each row."""
    acting_BS = acting() if acting else None
    if acting and acting_BS is None:
        return y_BSD
    reduced_BSR = F.linear(x_BSD, a.to(x_BSD.dtype))
    if opened:
        if (gamma_BR := opened()) is None:
            return y_BSD
        reduced_BSR = reduced_BSR * gamma_BR[:, None].to(x_BSD.dtype)
    change = F.linear(reduced_BSR, b.to(x_BSD.dtype))
    return y_BSD + (change if acting_BS is None else change * acting_BS[..., None])


def _erased(
    acting: Acting, left_DR: torch.Tensor, right_RD: torch.Tensor, mean_D: torch.Tensor, layer: Any, args: tuple
) -> tuple | None:
    """A few directions taken out of what a layer reads at the positions that `acting` gives."""
    acting_BS = acting()
    if acting_BS is None:
        return None
    x_BSD, *others = args
    change_BSD = (x_BSD.to(mean_D.dtype) - mean_D) @ right_RD.T @ left_DR.T
    return (x_BSD - (change_BSD * acting_BS[..., None]).to(x_BSD.dtype), *others)


def merged(trunk: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The change with every adapter added into its matrix, W + B A: the same function, without the adapter's cost, and
    as large as full training's."""
    out = {name: t for name, t in tensors.items() if ".lora_" not in name}
    for module, sides in adapters(tensors).items():
        weight = trunk.get_parameter(f"{module}.weight").detach()
        a, b = (t.to(weight.device, torch.promote_types(weight.dtype, torch.float32)) for t in sides)
        out[f"{module}.weight"] = (weight + b @ a).to(weight.dtype)
    return out


def scaled(trunk: nn.Module, tensors: Mapping[str, torch.Tensor], strength: float) -> dict[str, torch.Tensor]:
    """The change times `strength`: W + s (W' - W) for whole matrices, s B for adapters, s left for erasers. 0 is the
    base model, 1 the change itself, bit for bit."""
    if strength == 1:  # W + (W' - W) is not W' where numbers are rounded
        return dict(tensors)
    out = {}
    for name, t in tensors.items():
        if ".lora_" not in name and ".leace." not in name:
            own = trunk.get_parameter(name).detach().to(t.device)
            t = own + strength * (t - own)
        elif name.endswith((".lora_B.weight", ".leace.left")):
            t = strength * t
        out[name] = t
    return out


def change_size(trunk: nn.Module, tensors: Mapping[str, torch.Tensor]) -> float:
    """How large a change of weights is: the Frobenius norm of all W' - W together, of B A for adapters. UserError for
    erasers, which change no matrix."""
    if any(".leace." in name for name in tensors):
        raise UserError("a projection of states changes no weights; it has no size to compare")
    square = 0.0
    for a, b in adapters(tensors).values():
        square += ((b.double().T @ b.double()) * (a.double() @ a.double().T)).sum().item()
    for name, t in tensors.items():
        if ".lora_" not in name:
            square += (t.double() - trunk.get_parameter(name).detach().to(t.device).double()).square().sum().item()
    return math.sqrt(max(0.0, square))  # rounding may leave less than nothing
