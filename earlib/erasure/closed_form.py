"""Changes of a model that are solved for, not trained: UCE's matrices and LEACE's projections. Nothing is drawn here.

Both read the base model at the words of prompts. Letters: N positions, D what a matrix or a layer reads there. Sums and
solutions are in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from difflib import SequenceMatcher
from typing import Any

import torch
import torch.nn.functional as F

from ..concepts import PromptPair
from ..generators.base import Generator, NextToken, PromptBatch
from .change import PARTS, applied, hooked, layer_range
from .recipe import TrainingFree
from .recipe_scale import ScaleEdit

AT_ONCE = 32  # prompts in one forward pass
CONSTANT = 1e-3  # a share of the spread of states below which they count as equal
Read = dict[str, torch.Tensor]  # module -> what it reads, [B, S, D]


# ---------------------------------------------------------------- UCE


@torch.no_grad()
def uce(
    generator: Generator,
    pairs: list[PromptPair],
    recipe: TrainingFree | ScaleEdit,
    retain: list[str],
    tokens_NT: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Unified Concept Editing (Gandikota et al. 2024, arXiv 2308.14761, Eq. 7) of every chosen matrix W:

        W' = ( sum_e v*_e k_e^T + sum_p v_p k_p^T + lambda W ) ( sum_e k_e k_e^T + sum_p k_p k_p^T + lambda I )^-1

    k_e is what the matrix reads at a word of a target, v*_e what it makes, in the base model, of the word that stands
    there in the replacement (0 where none does); k_p and v_p the same for the words of retained prompts. The sums are
    means, the second times `recipe.preserve`; lambda is `recipe.ridge` times the mean square of k.

    In a next-token model layers are edited one after the other. As those before are changed already, k is read anew for
    each layer (as MEMIT does), while v stays the base model's. In a next-scale model cross-attention and the start
    token read the text encoder's states and nothing else, so that all matrices are edited at once.

    Args:
        generator: of either family.
        pairs: of the concept.
        recipe: which matrices, `preserve` and `ridge`; for next-scale models also the strength.
        retain: prompts that stay what they are.
        tokens_NT: pictures of `retain`, for positions="all": then every position of those prompts counts, of their
            unconditional twins and of their pictures.

    Returns:
        The new matrices by name.
    """
    reader = OfScales(generator, recipe) if isinstance(recipe, ScaleEdit) else OfTokens(generator, recipe)
    changed: dict[str, torch.Tensor] = {}
    for names in reader.stages():
        erased, preserved = ({name: Moments() for name in names} for _ in range(2))
        for target, replacement in _encoded(generator, pairs):
            now, base = reader.read(names, target, changed), reader.read(names, replacement)
            for b, (own, other) in enumerate(zip(reader.words(target), reader.words(replacement))):
                places_NM = standing_for(target.ids_BP[b, own].tolist(), replacement.ids_BP[b, other].tolist())
                places_NM = places_NM.to(generator.device)
                for name in names:
                    erased[name].add(now[name][b, own], places_NM @ base[name][b, other].double())
        for rows in _batches(len(retain)):
            prompts, tokens_BT = generator.encode(retain[rows]), None
            where_BP = reader.words(prompts)
            if tokens_NT is not None:
                prompts = prompts.stack(generator.null_like(prompts))
                tokens_BT, where_BP = tokens_NT[rows].repeat(2, 1).to(generator.device), prompts.mask_BP.bool()
            now = reader.read(names, prompts, changed, tokens_BT)
            base = reader.read(names, prompts, {}, tokens_BT) if changed else now
            for name in names:  # after the prompts all is read: image tokens, and line ends where a model has them
                where_BS = F.pad(where_BP, (0, now[name].shape[1] - where_BP.shape[1]), value=True)
                preserved[name].add(now[name][where_BS], base[name][where_BS])
        for name in names:
            weight = generator.trunk.get_parameter(f"{name}.weight")
            new = edited(weight.double(), erased[name], preserved[name], recipe.preserve, recipe.ridge)
            if isinstance(recipe, ScaleEdit):
                new = weight + recipe.strength * (new - weight)
            changed[f"{name}.weight"] = new.to(weight.dtype).contiguous()
    return changed


class OfTokens:
    """What matrices of a next-token model read: layer after layer, at the prompts' words."""

    def __init__(self, generator: Any, recipe: TrainingFree):
        self.generator, self.recipe, self.words = generator, recipe, generator.word_mask

    def stages(self) -> Iterator[list[str]]:
        """The matrices that are edited together: those of a layer."""
        for i in layer_range(self.recipe.layers, len(self.generator.decoder_layers)):
            yield [f"layers.{i}.{part}" for part in PARTS[self.recipe.modules]]

    def read(
        self,
        names: Sequence[str],
        prompts: PromptBatch,
        changed: Mapping[str, torch.Tensor] = {},
        tokens_BT: torch.Tensor | None = None,
    ) -> Read:
        return reads(self.generator, names, prompts, changed, self.recipe.positions, tokens_BT)


class OfScales:
    """What matrices of a next-scale model read of words: keys and values of every block's cross-attention
    ("attention"), and what makes the start token ("start"), which modulates every norm too."""

    def __init__(self, generator: Any, recipe: ScaleEdit):
        self.generator, self.routes = generator, recipe.routes

    def stages(self) -> Iterator[list[str]]:
        """All of them at once, as each reads the text encoder's states and nothing else."""
        yield list(self.read((), self.generator.encode(["a"])))

    def read(self, names: Sequence[str], prompts: PromptBatch, *unused: Any) -> Read:
        trunk = self.generator.trunk
        start, attention = trunk.words_read(prompts.ids_BP, prompts.mask_BP)
        blocks = {f"blocks.{i}.cross_attention.kv": attention for i in range(len(trunk.blocks))}
        return (blocks if self.routes != "start" else {}) | (start if self.routes != "attention" else {})

    def words(self, prompts: PromptBatch) -> torch.Tensor:
        return prompts.mask_BP.bool()


class Moments:
    """Means of (k* - k) k^T and k k^T over what was added, [D, D]; k is what a matrix reads, W k* what it shall make of
    it."""

    def __init__(self) -> None:
        self.count, self.shift_DD, self.square_DD = 0, torch.zeros(()), torch.zeros(())

    def add(self, k_ND: torch.Tensor, wanted_ND: torch.Tensor) -> None:
        k_ND, wanted_ND = k_ND.double(), wanted_ND.double()
        self.count += len(k_ND)
        self.shift_DD = self.shift_DD + (wanted_ND - k_ND).T @ k_ND
        self.square_DD = self.square_DD + k_ND.T @ k_ND

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.shift_DD / max(1, self.count), self.square_DD / max(1, self.count)


def edited(weight_OD: torch.Tensor, erased: Moments, preserved: Moments, preserve: float, ridge: float) -> torch.Tensor:
    """Eq. 7 as a change: W' = W + W S (C + lambda I)^-1, with S and C the two means' sums, as all v are W k*."""
    (shift, square), (more_shift, more_square) = erased.means(), preserved.means()
    shift_DD, square_DD = shift + preserve * more_shift, square + preserve * more_square
    identity_DD = torch.eye(len(square_DD), dtype=square_DD.dtype, device=square_DD.device)
    square_DD = square_DD + ridge * square_DD.diagonal().mean() * identity_DD
    return weight_OD + weight_OD @ torch.linalg.solve(square_DD, shift_DD, left=False)


def standing_for(target: list[int], replacement: list[int]) -> torch.Tensor:
    """Which words of a replacement stand for each word of its target: weights float64 [words, words], by the alignment
    of their token ids.

    Equal words stand for each other, and so do words that differ, one by one, where there are as many; otherwise all of
    them for each. A row of zeros is a word for which nothing stands.
    """
    weights = torch.zeros(len(target), len(replacement), dtype=torch.float64)
    for _, a, b, c, d in _aligned(target, replacement):
        weights[a:b, c:d] = torch.eye(b - a, dtype=torch.float64) if b - a == d - c else 1 / max(1, d - c)
    return weights


def differing(target: list[int], replacement: list[int]) -> torch.Tensor:
    """Which words of a replacement stand where its target has others: bool [words]."""
    found = torch.zeros(len(replacement), dtype=torch.bool)
    for kind, _, _, c, d in _aligned(target, replacement):
        found[c:d] = kind != "equal"
    return found


def _aligned(target: list[int], replacement: list[int]) -> Sequence[tuple[str, int, int, int, int]]:
    return SequenceMatcher(None, target, replacement, autojunk=False).get_opcodes()


# ---------------------------------------------------------------- LEACE


@torch.no_grad()
def leace(generator: NextToken, pairs: list[PromptPair], recipe: TrainingFree) -> dict[str, torch.Tensor]:
    """LEACE (Belrose et al. 2023, arXiv 2306.03819, Theorem 4.2) on what every chosen layer reads at words, layer after
    layer: see `eraser`.

    The concept's states are those at words that no replacement holds, one set for each such word; the others those at
    words of the replacements that stand in place of something else (at all of them, where none does). Each layer is
    read with the layers before already changed. The change acts on all words of all prompts.
    """
    encoded = list(_encoded(generator, pairs))
    common = {i for _, replacement in encoded for i in replacement.ids_BP.flatten().tolist()}
    changed: dict[str, torch.Tensor] = {}
    for layer in (f"layers.{i}" for i in layer_range(recipe.layers, len(generator.decoder_layers))):
        concept, ids, others, rest = [], [], [], []
        for target, replacement in encoded:
            x, y = (reads(generator, [layer], side, changed)[layer] for side in (target, replacement))
            for b, (own, other) in enumerate(zip(generator.word_mask(target), generator.word_mask(replacement))):
                target_ids, other_ids = target.ids_BP[b, own].tolist(), replacement.ids_BP[b, other].tolist()
                named = torch.tensor([i not in common for i in target_ids], dtype=torch.bool)
                concept.append(x[b, own][named])
                ids += [i for i in target_ids if i not in common]
                others.append(y[b, other][differing(target_ids, other_ids)])
                rest.append(y[b, other])
        if ids:  # else the targets are their own replacements
            other_ND = torch.cat(others)
            parts = eraser(torch.cat(concept), torch.tensor(ids), other_ND if len(other_ND) else torch.cat(rest))
            changed |= {f"{layer}.leace.{name}": t.float().contiguous() for name, t in parts.items()}
    return changed


def eraser(concept_ND: torch.Tensor, ids_N: torch.Tensor, other_ND: torch.Tensor) -> dict[str, torch.Tensor]:
    """The change x -> x - left (right (x - mean)), float64, after which no linear classifier tells any of the concept's
    sets (rows of one id) from the others:

        P = W^+ U U^T W,  W = Sigma^(-1/2),  U an orthonormal basis of W (mean of a set - mean of the others), over all
        sets

    Sigma is the covariance of all states together: of all projections that do this, P moves them least. Where the paper
    has the mean of all states, `mean` is that of the others, who stay where they are on average. left [D, R], right [R,
    D], mean [D], R the number of sets or less.
    """
    concept_ND, other_ND = concept_ND.double(), other_ND.double()
    both_ND, mean_D = torch.cat([concept_ND, other_ND]), other_ND.mean(0)
    delta_RD = torch.stack([concept_ND[(ids_N == i).to(concept_ND.device)].mean(0) - mean_D for i in ids_N.unique()])
    spread_ND = (both_ND - both_ND.mean(0)) / len(both_ND) ** 0.5
    _, root_K, axes_KD = torch.linalg.svd(spread_ND, full_matrices=False)  # Sigma = axes^T root^2 axes
    kept = root_K > CONSTANT * root_K[0]
    root_K, axes_KD = root_K[kept], axes_KD[kept]
    along_KR = (delta_RD @ axes_KD.T / root_K).T  # W delta, along the axes
    basis_KR, length_R, _ = torch.linalg.svd(along_KR, full_matrices=False)
    u_KR = basis_KR[:, length_R > CONSTANT]  # sets that do not differ: nothing to erase
    return {
        "left": ((root_K[:, None] * u_KR).T @ axes_KD).T,
        "right": (u_KR / root_K[:, None]).T @ axes_KD,
        "mean": mean_D,
    }


# ---------------------------------------------------------------- reading


@torch.no_grad()
def reads(
    generator: NextToken,
    modules: Sequence[str],
    prompts: PromptBatch,
    changed: Mapping[str, torch.Tensor] = {},
    positions: str = "words",
    tokens_BT: torch.Tensor | None = None,
) -> Read:
    """What each of `modules` of the trunk reads, [B, S, D]: at the positions of the prompts, and of `tokens_BT` but the
    last, with `changed` switched on."""
    found: Read = {}

    def keep(name: str, args: tuple) -> None:
        found[name] = args[0]
        if len(found) == len(modules):
            raise _AllRead

    if tokens_BT is None:  # one token is predicted and none is read
        tokens_BT = torch.zeros(len(prompts), 1, dtype=torch.long, device=generator.device)
    with ExitStack() as stack:
        stack.enter_context(applied(generator, changed, positions))
        for name in modules:  # after `applied`, whose own hooks come first
            hook = lambda module, args, name=name: keep(name, args)
            stack.enter_context(hooked(generator.trunk.get_submodule(name).register_forward_pre_hook(hook)))
        with suppress(_AllRead):  # what lies deeper is not computed
            generator.hidden_states(prompts, tokens_BT)
    return found


class _AllRead(Exception):
    """All that was asked for has been read."""


def _batches(count: int) -> list[slice]:
    return [slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE)]


def _encoded(generator: Generator, pairs: list[PromptPair]) -> Iterator[tuple[PromptBatch, PromptBatch]]:
    """Targets and replacements of the pairs, in batches."""
    for rows in _batches(len(pairs)):
        target, replacement = ([getattr(pair, side) for pair in pairs[rows]] for side in ("target", "replacement"))
        yield generator.encode(target), generator.encode(replacement)
