"""Preservation: what the student should leave as it is, and how that is asked for in each update of training.

SPM calls it latent anchoring (Lyu et al. 2024, arXiv 2312.16145, Eq. 5-8): lambda times how far student and teacher are
apart on other concepts. There the measure is a squared error of noise predictions; here it is KL(teacher || student) of
the next token, summed over the tokens of a picture. The erasing part of an update is in `lessons.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..generators.base import NextToken, PromptBatch
from .change import hooked, spoken
from .objective import divergence
from .trajectories import draw_trajectories

if TYPE_CHECKING:
    from ..concepts import PromptPair
    from .recipe import Recipe


class Retained:
    """Prompts to stay what they are, with pictures that the teacher drew of them ahead of training. By
    `recipe.retain.kind`:

        prompts    lambda sum_t KL_t on prompts without the concept, drawn alike
        weighted   the same, drawn with P(p) ~ (1 - |cos(e(p), e(c))|)^alpha (SPM, Eq. 7-8); e is the mean input
                   embedding of a prompt's words, or of the words that only the concept's targets have
        noise      the same on the concept's targets, with a random direction of the same length in place of the
                   embedding of each of their own words, so that any other name may stand there (SPM's released code has
                   noise for the whole prompt); the pictures are those of the targets
        sparsity   lambda T mean (A x)^2 over the adapters' modules and positions, on prompts without the concept:
                   membranes that stay shut change nothing

    A quarter of the rows is read without its prompt, as guidance needs the unconditional distribution too.
    """

    BLANK = 4  # every fourth row

    def __init__(
        self,
        generator: NextToken,
        prompts: list[str],
        recipe: Recipe,
        progress: bool = False,
        pairs: Sequence[PromptPair] = (),
    ):
        self.generator, self.recipe, self.kind = generator, recipe, recipe.retain.kind
        self.pairs, role = list(pairs), "retain"
        if self.kind == "noise":
            prompts, role = [pair.target for pair in self.pairs], "concept"
        self.prompts = list(prompts) if recipe.retain.weight else []
        if self.prompts:  # seed 0 in every run: what is retained is a data set
            self.tokens_NT = draw_trajectories(generator, {role: self.prompts}, 0, recipe.guidance, progress)[role]
            if self.kind == "weighted":
                self.chance_N = chances(generator, self.prompts, self.pairs, recipe.retain.alpha)

    def preservation(
        self, seed: int, step: int, student: Mapping[str, torch.Tensor]
    ) -> Callable[[float], torch.Tensor] | None:
        """The teacher's part of an update; returns a function that gives lambda times the loss of a window's share of a
        picture, for the student; None where nothing is retained."""
        if not self.prompts:
            return None
        g, R, weight = self.generator, self.recipe.retain.pictures, self.recipe.retain.weight
        seed = seed * 1_000_003 + step
        chance = torch.Generator().manual_seed(seed)
        if self.kind == "weighted":
            rows = torch.multinomial(self.chance_N, R, replacement=True, generator=chance).tolist()
        else:
            rows = torch.randint(len(self.prompts), (R,), generator=chance).tolist()
        batch, tokens_RT = g.encode([self.prompts[i] for i in rows]), self.tokens_NT[rows].to(g.device)
        blank_R1 = ((torch.arange(R, device=g.device) + step * R) % self.BLANK == 0)[:, None]
        noise = None
        if self.kind == "noise":
            names_RP = own_words(g, batch, [self.pairs[i] for i in rows]) & g.word_mask(batch) & ~blank_R1
            noise = noised(g, batch, names_RP, seed)
        batch = PromptBatch(torch.where(blank_R1, g.null_like(batch).ids_BP, batch.ids_BP), batch.mask_BP)
        if self.kind == "sparsity":
            many = weight * g.num_codes
            return lambda share: many * share * gate_square(g, student, batch, tokens_RT, self.recipe.positions)

        def read() -> torch.Tensor:
            with spoken(g, *noise) if noise else nullcontext():
                return g.image_logits(g.hidden_states(batch, tokens_RT))

        with torch.no_grad():
            target_RTV = read()
        return lambda share: weight * share * divergence(read(), target_RTV, "kl").mean(0).sum()


def own_words(generator: NextToken, targets: PromptBatch, pairs: Sequence[PromptPair]) -> torch.Tensor:
    """Where in the encoded `targets` of `pairs` tokens stand that their replacement does not have: bool [B, P]. All of
    them where there is no such token."""
    ids_BP = targets.ids_BP
    others = [set(generator.encode([pair.replacement]).ids_BP[0].tolist()) for pair in pairs]
    own = [[i not in other for i in row] for row, other in zip(ids_BP.tolist(), others)]
    own_BP = torch.tensor(own, device=ids_BP.device)
    return own_BP | ~own_BP.any(1, keepdim=True)


@torch.no_grad()
def chances(generator: NextToken, prompts: list[str], pairs: Sequence[PromptPair], alpha: float) -> torch.Tensor:
    """How likely each prompt is drawn, float64 [N], sum 1: (1 - |cos(e(p), e(c))|)^alpha (SPM, Eq. 8), c being all
    words that only `pairs`' targets have."""
    embed = generator.trunk.get_input_embeddings()
    e_ND = []
    for prompt in prompts:
        batch = generator.encode([prompt])
        e_ND.append(embed(batch.ids_BP[generator.word_mask(batch)]).double().mean(0))
    targets = generator.encode([pair.target for pair in pairs])
    names_BP = own_words(generator, targets, pairs) & generator.word_mask(targets)
    c_D = embed(targets.ids_BP[names_BP]).double().mean(0)
    near_N = F.cosine_similarity(torch.stack(e_ND), c_D[None]).abs().clamp(max=1)
    chance_N = (1 - near_N) ** alpha
    return (chance_N / chance_N.sum()).cpu()


def noised(
    generator: NextToken, batch: PromptBatch, where_RP: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(places int64 [R, P], vectors [K, D]) that `spoken` takes: random directions where `where_RP` says so, each as
    long as the embedding that it stands for; the same for a seed."""
    own_KD = generator.word_embeddings(batch.ids_BP[where_RP]).detach()
    noise_KD = torch.randn(own_KD.shape, generator=torch.Generator().manual_seed(seed)).to(own_KD)
    place_RP = torch.where(where_RP, where_RP.flatten().cumsum(0).view_as(where_RP) - 1, -1)
    return place_RP, F.normalize(noise_KD, dim=-1) * own_KD.norm(dim=-1, keepdim=True)


def gate_square(
    generator: NextToken,
    student: Mapping[str, torch.Tensor],
    batch: PromptBatch,
    tokens_RT: torch.Tensor,
    positions: str,
) -> torch.Tensor:
    """Mean of (A x)^2 over the adapters' modules, ranks and the positions where they act, along prompts and pictures,
    with the student switched on."""
    where_RP = generator.word_mask(batch) if positions == "words" else batch.mask_BP.bool()
    found: list[torch.Tensor] = []

    def keep(a: torch.Tensor, x_RSD: torch.Tensor) -> None:
        where_RS = F.pad(where_RP, (0, x_RSD.shape[1] - where_RP.shape[1]), value=positions == "all")
        found.append(F.linear(x_RSD[where_RS], a.to(x_RSD.dtype)).float().square().mean())

    hooks = []
    for name, a in student.items():
        if name.endswith(".lora_A.weight"):
            module = generator.trunk.get_submodule(name.removesuffix(".lora_A.weight"))
            hooks.append(module.register_forward_pre_hook(lambda module, args, a=a: keep(a, args[0])))
    with hooked(*hooks):
        generator.hidden_states(batch, tokens_RT)
    return torch.stack(found).mean()
