"""The updates of a run on a next-scale model: what student and teacher read in each, and its two losses.

The teacher's pictures never depend on the student: all are drawn ahead, in large batches. Nothing is kept on disk: a
mini model draws them in seconds. The terms of the losses are in `svare.py`, the loop that takes the steps in
`train.py`.

Letters: B pictures, L positions, N those up to the last scale that learns, C parts of a code, V values of a part.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from ..device import check_finite
from ..errors import UserError
from ..generators import picture_seeds
from ..generators.base import PromptBatch
from .scale_terms import (
    entropy_of,
    is_wrong,
    kl_of,
    learning_span,
    log_probabilities,
    nats_of,
    square_of,
    weights,
    wrong_tokens,
)


@dataclass(frozen=True)
class Pictures:
    """The teacher's pictures of some prompts, drawn ahead of training: `codes` [N, L] or [N, L, C] on the CPU."""

    prompts: list[str]
    seeds: list[int]
    codes: torch.Tensor


class Lessons:
    """All updates of a run: what student and teacher read in each. Pictures of the teacher are drawn here, ahead of
    training."""

    def __init__(self, generator, pairs, recipe, seed: int, others: list[str] = (), progress: bool = False):
        if recipe.filter.parts == "wrong" and not generator.quantiser.code_shape:
            raise UserError(
                f"filter.parts=wrong is about bits, and the codes of {generator.name} have none; use filter.parts=all"
            )
        if recipe.reads_others and not others:
            raise UserError(
                f"retain.prompts={recipe.retain.prompts} needs prompts of other concepts, and there are none; use retain.prompts=neutral"
            )
        self.generator, self.recipe, self.seed = generator, recipe, seed
        self.weight_N = weights(generator, recipe.scales)
        self.span = learning_span(generator, recipe.scales)
        self.pairs = list(pairs)[: recipe.pairs] * recipe.pictures
        self.neutral = self._draw("replacement", [pair.replacement for pair in self.pairs], progress)
        self.target = (
            self._draw("target", [pair.target for pair in self.pairs], progress) if recipe.prefix == "target" else None
        )
        self.others = self._draw("retain", list(others), progress) if recipe.reads_others else None

    def _draw(self, role: str, prompts: list[str], progress: bool) -> Pictures:
        """Pictures with noise of the role's own, as the next-token family's trajectories."""
        seeds = picture_seeds(self.seed, [f"trajectory/{role}/{i}/{prompt}" for i, prompt in enumerate(prompts)])
        drawn = self.generator.sample(prompts, seeds, self.recipe.guidance, self.recipe.temperature, progress=progress)
        return Pictures(prompts, seeds, drawn)

    def __len__(self) -> int:
        return -(-len(self.pairs) * self.recipe.passes // self.recipe.batch)

    def begin(self, i: int, student=nullcontext) -> Lesson:
        """Update `i`; `student()` is a context in which the generator computes as the student does."""
        start, last = i * self.recipe.batch, len(self.pairs) * self.recipe.passes
        return Lesson(
            self, [j % len(self.pairs) for j in range(start, min(start + self.recipe.batch, last))], i, student
        )


class Lesson:
    """One update. `erase()` and `retain()` are its losses, to be called with the student's change switched on; `report`
    holds what was seen on the way."""

    def __init__(self, lessons: Lessons, rows: list[int], i: int, student):
        self.lessons, self.generator, self.recipe, self.report = lessons, lessons.generator, lessons.recipe, {}
        g, recipe, neutral = self.generator, self.recipe, lessons.neutral
        self.chance = torch.Generator().manual_seed(lessons.seed * 1_000_003 + i)
        targets, replacements = ([getattr(lessons.pairs[j], side) for j in rows] for side in ("target", "replacement"))
        rolls = recipe.prefix == "student"
        seeds = [
            neutral.seeds[j] for j in rows
        ]  # with the noise of the teacher's picture: what differs is what was learnt
        if recipe.rollouts and torch.rand((), generator=self.chance) < recipe.rollouts:
            rolls, seeds = True, picture_seeds(lessons.seed, [f"student/{i}/{j}" for j in rows])
        if rolls:
            with student():
                self.history = g.sample(targets, seeds, recipe.guidance, recipe.temperature)
        else:
            self.history = (neutral if recipe.prefix == "replacement" else lessons.target).codes[rows]
        theirs = (
            neutral.codes[rows] if recipe.teacher_states == "independent" else self.history
        )  # what the teacher reads
        self.history, theirs = (codes[:, : lessons.span.stop].to(g.device) for codes in (self.history, theirs))
        self.told, self.c = self._blanked(g.encode(targets)), g.encode(replacements)
        self._teach(
            theirs,
            theirs_is_drawn=recipe.teacher_states == "independent" or not rolls and recipe.prefix == "replacement",
            seeds=seeds,
        )
        self._prepare_retain(rows)

    def _blanked(self, prompts: PromptBatch) -> PromptBatch:
        """The prompts, each blanked by chance."""
        if not self.recipe.blank:
            return prompts
        blank_B1 = (torch.rand(len(prompts), 1, generator=self.chance) < self.recipe.blank).to(prompts.ids_BP.device)
        null = self.generator.null_like(prompts)
        return PromptBatch(
            torch.where(blank_B1, null.ids_BP, prompts.ids_BP), torch.where(blank_B1, null.mask_BP, prompts.mask_BP)
        )

    @torch.no_grad()
    def _logits(self, prompts: PromptBatch, codes: torch.Tensor, guidance: float) -> torch.Tensor:
        """The teacher's, guided, float32."""
        g = self.generator
        z = g.logits(prompts, codes).float()
        if guidance != 1:
            null = g.logits(g.null_like(prompts), codes).float()
            z = null + guidance * (z - null)
        return check_finite(z, f"the teacher's logits for '{self.lessons.pairs[0].replacement}'")

    def _teach(self, codes: torch.Tensor, theirs_is_drawn: bool, seeds: list[int]) -> None:
        """The teacher's labels along `codes`, told of c, and its distributions where anything is compared to them."""
        g, recipe, rule = self.generator, self.recipe, self.recipe.filter
        of_codebook = rule.kind == "wrong" and not g.quantiser.code_shape
        compared = recipe.divergence != "ce" or rule.kind == "kl" or of_codebook
        self.p_BNCV = log_probabilities(g, self._logits(self.c, codes, recipe.soft_guidance)) if compared else None
        if (
            recipe.labels == "sampled" and theirs_is_drawn
        ):  # the teacher drew this picture of c: its codes are such labels
            self.labels = codes
        else:
            seeds_B = torch.tensor(seeds, device=g.device)
            temperature = recipe.temperature if recipe.labels == "sampled" else 0.0
            self.labels = g.quantiser.choose(self._logits(self.c, codes, recipe.guidance), seeds_B, 0, temperature)

    def _prepare_retain(self, rows: list[int]) -> None:
        """What preservation compares: prompts with the teacher's own pictures of them, and the teacher's distributions
        there."""
        recipe, lessons = self.recipe, self.lessons
        self.kept_prompts, self.kept_p = None, None
        if not recipe.retain.weight and recipe.filter.kind != "kl":
            return
        prompts, codes = [], []
        if recipe.retain.prompts != "others" or not recipe.retain.weight:
            prompts += [lessons.neutral.prompts[j] for j in rows]
            codes.append(lessons.neutral.codes[rows])
        if lessons.others:
            others = torch.randint(
                len(lessons.others.prompts), (recipe.retain.pictures,), generator=self.chance
            ).tolist()
            prompts += [lessons.others.prompts[j] for j in others]
            codes.append(lessons.others.codes[others])
        self.kept_codes = torch.cat(codes)[:, : lessons.span.stop].to(self.generator.device)
        exact = self.generator.encode(prompts)
        self.kept_p = log_probabilities(self.generator, self._logits(exact, self.kept_codes, recipe.retain.guidance))
        self.kept_prompts = self._blanked(exact)

    # ---------------------------------------------------------------- the losses

    def compare(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss of every token, float [B, N], with a gradient; which the filter keeps, bool [B, N]) at the positions up
        to the last scale that learns."""
        recipe, rule = self.recipe, self.recipe.filter
        q_BNCV = log_probabilities(self.generator, self.generator.logits(self.told, self.history))
        if recipe.divergence == "ce":
            loss_BNC = nats_of(q_BNCV, self.labels)
        else:
            loss_BNC = (kl_of if recipe.divergence == "kl" else square_of)(self.p_BNCV, q_BNCV)
        with torch.no_grad():
            if rule.kind == "wrong":
                kept_BN = wrong_tokens(self.generator, q_BNCV, self.p_BNCV, self.labels, rule)
            elif rule.kind == "kl":
                kept_BN = kl_of(self.p_BNCV, q_BNCV).mean(-1) > torch.quantile(
                    self._retained()[:, self.lessons.span], rule.quantile
                )
            else:
                kept_BN = torch.ones(q_BNCV.shape[:2], dtype=torch.bool, device=q_BNCV.device)
            kept_BN = kept_BN & (self.lessons.weight_N > 0)
        if recipe.entropy:
            loss_BNC = loss_BNC + recipe.entropy * entropy_of(q_BNCV)
        if rule.parts == "wrong":
            loss_BNC = loss_BNC * is_wrong(q_BNCV.detach(), self.labels, rule.gamma)
        return loss_BNC.mean(-1), kept_BN

    def erase(self) -> torch.Tensor:
        """The erasing loss, in nats a part (for mse: squared probability), a scalar:

            mean_B sum_t w_t F_t l_t  ( / mean_B sum_t w_t F_t, where it is divided by what is kept )

        l_t = mean_b of what `divergence` says, plus beta times the student's entropy; w_t sum to 1 over the scales that
        learn; F_t is the filter. With nothing kept it is 0, and has no gradient. (S-VARE: L_FCE = mean_B 1/L sum_t F_t
        mean_b -log p_student(y_b | r_ori_<, c*).)
        """
        loss_BN, kept_BN = self.compare()
        weight_N = self.lessons.weight_N
        self._count(loss_BN.detach(), kept_BN)
        if not kept_BN.any():
            self.report["erase"] = 0.0
            return loss_BN.new_zeros(())
        loss = (loss_BN * kept_BN * weight_N).sum() / len(loss_BN)
        if self.recipe.filter.divisor == "kept":
            loss = loss / ((kept_BN * weight_N).sum() / len(loss_BN))
        self.report["erase"] = loss.item()
        return loss

    def retain(self) -> torch.Tensor:
        """lambda L_Pre, a scalar: lambda mean_B sum_t w_t mean_b KL( p_teacher(. | r_<i, c) || p_student(. | r_<i, c)
        ). Where lambda is 0, so is it, without a gradient."""
        if not self.recipe.retain.weight:
            return self.lessons.weight_N.new_zeros(())
        loss = self.recipe.retain.weight * (self._retained() * self.lessons.weight_N).sum(-1).mean()
        self.report["retain"] = loss.item()
        return loss

    def _retained(self) -> torch.Tensor:
        """KL( teacher || student ) of every token of the prompts to keep, a mean over its parts: float [B, N]."""
        q_BNCV = log_probabilities(self.generator, self.generator.logits(self.kept_prompts, self.kept_codes))
        return kl_of(self.kept_p, q_BNCV).mean(-1)

    def _count(self, loss_BN: torch.Tensor, kept_BN: torch.Tensor) -> None:
        """Into the report: tokens looked at and kept, the loss of all of them, and both by scale."""
        learning = self.lessons.weight_N > 0
        self.report |= {"kept": int(kept_BN.sum()), "tokens": int(learning.sum()) * len(loss_BN)}
        self.report["unfiltered"] = (loss_BN * self.lessons.weight_N).sum().item() / len(loss_BN)
        for k, span in enumerate(self.generator.spans):
            if learning[span].any():
                self.report |= {
                    f"kept{k}": kept_BN[:, span].float().mean().item(),
                    f"loss{k}": loss_BN[:, span].mean().item(),
                }


@torch.no_grad()
def looked_at(generator, pairs, recipe, seed: int = 0, erasure=None, batch: int = 50) -> dict[str, torch.Tensor]:
    """What a recipe sees of its pairs, with an erasure or on the base model, without learning: for pictures of the
    filter.

    Returns, for every picture of every pair, `kept` bool [N, L'], `loss` float [N, L'] (before the filter) and `codes`
    (what was read, [N, L', ...]), L' the positions up to the last scale that learns.
    """
    student = (lambda: erasure.on(generator)) if erasure is not None else nullcontext
    lessons = Lessons(generator, pairs, replace(recipe, batch=batch, passes=1), seed)
    found = {"kept": [], "loss": [], "codes": []}
    for i in range(len(lessons)):
        lesson = lessons.begin(i, student)
        with student():
            loss_BN, kept_BN = lesson.compare()
        for name, value in (("kept", kept_BN), ("loss", loss_BN), ("codes", lesson.history)):
            found[name].append(value.cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}
