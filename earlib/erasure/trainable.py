"""What trains: which tensors of the trunk, and how student and teacher share all the others.

There is one copy of the weights. The teacher is the model as loaded; the student is the same modules with a few parameters exchanged
for others. Exchanging is by reference, so switching an erasure off gives back the very same tensors: the base model, bit for bit.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import nn

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def layer_range(layers: tuple[float, float], depth: int) -> range:
    """Layers from `layers[0]` to `layers[1]` of the depth, as shares; never empty. (0, 1/6) is 0-4 of 30, 0-3 of 24, 0 of 8."""
    first = min(round(layers[0] * depth), depth - 1)
    return range(first, max(first + 1, round(layers[1] * depth)))


def tensor_names(recipe, depth: int) -> list[str]:
    """Names of the trained tensors, relative to the trunk: `layers.0.self_attn.q_proj.weight`, ..."""
    parts = {"attention": ATTENTION, "mlp": MLP, "both": ATTENTION + MLP}[recipe.modules]
    return [f"layers.{i}.{part}.weight" for i in layer_range(recipe.layers, depth) for part in parts]


def student_parameters(trunk: nn.Module, names: list[str], masters: str = "float32") -> dict[str, nn.Parameter]:
    """Fresh parameters that start as the teacher's tensors: in float32 at least, whatever the frozen weights are in, or (masters "own") in theirs."""
    tensors = {name: trunk.get_parameter(name).detach() for name in names}
    wide = lambda t: t.dtype if masters == "own" else torch.promote_types(t.dtype, torch.float32)
    return {n: nn.Parameter(t.to(wide(t), copy=True)) for n, t in tensors.items()}


@contextmanager
def switched(trunk: nn.Module, tensors: dict[str, torch.Tensor]):
    """Within the context the trunk computes with `tensors` in place of its own; afterwards its own objects are back."""
    homes = {name: (trunk.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in tensors}
    own = {name: module._parameters[leaf] for name, (module, leaf) in homes.items()}
    try:
        for name, (module, leaf) in homes.items():
            # a frozen trunk in half precision computes with half-precision copies; gradients reach the float32 masters through the cast
            tensor = tensors[name]
            module._parameters[leaf] = tensor if tensor.dtype == own[name].dtype else tensor.to(own[name].dtype)
        yield
    finally:
        for name, (module, leaf) in homes.items():
            module._parameters[leaf] = own[name]
