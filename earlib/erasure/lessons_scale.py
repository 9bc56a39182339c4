"""What student and teacher read while a next-scale model learns to erase, and its two losses. A lesson
(`lesson.py`) is one update; its steps are one on the sum of both losses, or one on each.

p_t(. | c) is the distribution of the code at position t, given prompt c and the scales before t's own in some picture.
c* is a pair's target prompt, c its replacement.

    naive   sum_i | p_student(r_i | r_<i, c*) - p_teacher(r'_i | r'_<i, c) |^2     r the student's picture of c*, r' the
            teacher's of c    (VARE, Eq. 6)
    VARE    sum_i | p_student(r_i | r'_<i, c*) - p_teacher(r_i | r'_<i, c) |^2     one history for both
            (VARE, Eq. 7)
    S-VARE  L_FCE + lambda L_Pre, cross entropy behind a filter and preservation   `gate` and `preservation`

(arXiv 2509.22400; Eq. 6 and 7 with one distribution for all codes of a scale, here a mean over the parts of a code and
a weighted mean over positions.)

Letters: B pictures, L positions, N those up to the last scale that learns, C parts of a code (bits, or one part for a
codebook), V values of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..concepts import PromptPair
from ..device import check_finite
from ..errors import UserError
from ..generators import picture_seeds
from ..generators.base import NextScale, PromptBatch
from ..generators.sampling import guided
from .gates import is_wrong, wrong_tokens
from .lesson import AllLessons, AsStudent, Lesson, Step
from .objective import entropy, kl, log_probabilities, nats_of, square
from .recipe_scale import ScaleRecipe
from .spans import learning_span, weights


def of_parts(generator: NextScale, logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of every value of every part, float32 [B, L, C, V], from logits [B, L, C, 2] (bits) or [B, L,
    V] (codebook)."""
    return log_probabilities(logits if generator.quantiser.code_shape else logits.unsqueeze(2))


@dataclass(frozen=True)
class Pictures:
    """The teacher's pictures of some prompts, drawn ahead of training: `codes` [N, L] or [N, L, C] on the CPU."""

    prompts: list[str]
    seeds: list[int]
    codes: torch.Tensor


class ScaleLessons(AllLessons):
    """All updates of a next-scale model's run."""

    unit = "update"
    counted = ("updates", "updates_empty", "updates_in_conflict", "tokens_kept", "tokens_seen")
    generator: NextScale
    recipe: ScaleRecipe

    def prepare(self, retain: list[str]) -> None:
        generator, recipe = self.generator, self.recipe
        if recipe.filter.parts == "wrong" and not generator.quantiser.code_shape:
            line = (
                f"filter.parts=wrong picks single bits of a code, and the codes of {generator.name} are whole "
                "numbers; use "
            )
            raise UserError(line + "filter.parts=all")
        if recipe.reads_others and not retain:
            line = f"retain.prompts={recipe.retain.prompts} needs prompts of other concepts, and there are none; "
            raise UserError(line + "use retain.prompts=neutral")
        self.weight_N, self.span = weights(generator, recipe.scales), learning_span(generator, recipe.scales)
        self.positions = "all" if recipe.positions == "all" else self.span
        self.neutral = self._draw("replacement", [pair.replacement for pair in self.pairs])
        targets = [pair.target for pair in self.pairs]
        self.target = self._draw("target", targets) if recipe.prefix == "target" else self.neutral
        self.others = self._draw("retain", retain) if recipe.reads_others else None

    def _draw(self, role: str, prompts: list[str]) -> Pictures:
        """Pictures with noise of the role's own, as the next-token family's trajectories."""
        seeds = picture_seeds(self.seed, [f"trajectory/{role}/{i}/{prompt}" for i, prompt in enumerate(prompts)])
        guidance, temperature = self.recipe.guidance, self.recipe.temperature
        drawn = self.generator.sample(prompts, seeds, guidance, temperature, progress=self.progress)
        return Pictures(prompts, seeds, drawn)

    def begin(self, i: int, as_student: AsStudent = nullcontext) -> ScaleLesson:
        """Update i: what both read, what is right, and what is to stay as it is."""
        lesson, rows = ScaleLesson(self, i), self.of(i)
        lesson.read(rows, as_student)
        lesson.prepare_preservation(rows)
        return lesson

    def summary(self, counts: dict[str, int]) -> dict[str, float]:
        return {"share_kept": round(counts["tokens_kept"] / counts["tokens_seen"], 6)}


class ScaleLesson(Lesson):
    """One update; `report` holds what was seen on the way."""

    def __init__(self, lessons: ScaleLessons, number: int):
        super().__init__(number)
        self.lessons, self.generator, self.recipe = lessons, lessons.generator, lessons.recipe
        self.chance = torch.Generator().manual_seed(lessons.seed * 1_000_003 + number)
        both = Step(0, lessons.span.stop)
        alone = [Step(0, lessons.span.stop, preserves=False), Step(0, 0)]
        self.steps = alone if self.recipe.update == "two-steps" else [both]
        self.report: dict[str, float] = {}

    # ---------------------------------------------------------------- before the steps

    def read(self, rows: list[int], as_student: AsStudent) -> None:
        """Choose what student and teacher read of the pairs `rows`, and ask the teacher what is right there."""
        recipe, lessons, neutral = self.recipe, self.lessons, self.lessons.neutral
        targets, replacements = ([getattr(lessons.pairs[j], side) for j in rows] for side in ("target", "replacement"))
        # the student draws with the noise of the teacher's picture: what differs is what was learnt
        rolls, seeds = recipe.prefix == "student", [neutral.seeds[j] for j in rows]
        if recipe.rollouts and torch.rand((), generator=self.chance) < recipe.rollouts:
            rolls, seeds = True, picture_seeds(lessons.seed, [f"student/{self.number}/{j}" for j in rows])
        if rolls:
            with as_student():
                history = self.generator.sample(targets, seeds, recipe.guidance, recipe.temperature)
        else:  # for prefix=replacement both are one
            history = lessons.target.codes[rows]
        independent = recipe.teacher_states == "independent"
        theirs = neutral.codes[rows] if independent else history
        self.history, theirs = self._learning(history), self._learning(theirs)
        self.told, self.c = self._blanked(self.generator.encode(targets)), self.generator.encode(replacements)
        drawn_for_c = independent or (not rolls and recipe.prefix == "replacement")
        self.labels = self._labels(theirs, drawn_for_c, seeds)
        self.p_BNCV = torch.empty(0)  # the teacher's distributions, where something looks at them
        of_codebook = recipe.filter.kind == "wrong" and not self.generator.quantiser.code_shape
        if recipe.divergence != "ce" or recipe.filter.kind == "kl" or of_codebook:
            self.p_BNCV = of_parts(self.generator, self._logits(self.c, theirs, recipe.soft_guidance))

    def _learning(self, codes: torch.Tensor) -> torch.Tensor:
        """The codes up to the last scale that learns, on the model's device."""
        return codes[:, : self.lessons.span.stop].to(self.generator.device)

    def _blanked(self, prompts: PromptBatch) -> PromptBatch:
        """The prompts, each blanked by chance."""
        if not self.recipe.blank:
            return prompts
        blank_B1 = (torch.rand(len(prompts), 1, generator=self.chance) < self.recipe.blank).to(prompts.ids_BP.device)
        null = self.generator.null_like(prompts)
        ids_BP = torch.where(blank_B1, null.ids_BP, prompts.ids_BP)
        return PromptBatch(ids_BP, torch.where(blank_B1, null.mask_BP, prompts.mask_BP))

    @torch.no_grad()
    def _logits(self, prompts: PromptBatch, codes: torch.Tensor, guidance: float) -> torch.Tensor:
        """The teacher's, guided, float32."""
        asked = [prompts] if guidance == 1 else [prompts, self.generator.null_like(prompts)]
        z = guided([self.generator.logits(rows, codes).float() for rows in asked], guidance, None)
        return check_finite(z, f"the teacher's logits for '{self.lessons.pairs[0].replacement}'")

    def _labels(self, codes: torch.Tensor, drawn_for_c: bool, seeds: list[int]) -> torch.Tensor:
        """What the teacher, told of c, would draw at each position along `codes`; in its own picture of c those
        codes."""
        recipe = self.recipe
        if recipe.labels == "sampled" and drawn_for_c:
            return codes
        seeds_B = torch.tensor(seeds, device=self.generator.device)
        temperature = recipe.temperature if recipe.labels == "sampled" else 0.0
        return self.generator.quantiser.choose(self._logits(self.c, codes, recipe.guidance), seeds_B, 0, temperature)

    def prepare_preservation(self, rows: list[int]) -> None:
        """Choose what preservation compares: prompts with the teacher's own pictures of them, and its distributions."""
        recipe, lessons = self.recipe, self.lessons
        if not recipe.retain.weight and recipe.filter.kind != "kl":
            return
        prompts, codes = [], []
        if recipe.retain.prompts != "others" or not recipe.retain.weight:
            prompts += [lessons.neutral.prompts[j] for j in rows]
            codes.append(lessons.neutral.codes[rows])
        if lessons.others:
            many, size = len(lessons.others.prompts), (recipe.retain.pictures,)
            others = torch.randint(many, size, generator=self.chance).tolist()
            prompts += [lessons.others.prompts[j] for j in others]
            codes.append(lessons.others.codes[others])
        self.retained_codes, exact = self._learning(torch.cat(codes)), self.generator.encode(prompts)
        self.retained_p = of_parts(self.generator, self._logits(exact, self.retained_codes, recipe.retain.guidance))
        self.retained_prompts = self._blanked(exact)

    # ---------------------------------------------------------------- the losses

    def losses(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Of every token up to the last scale that learns, float [B, N]; of none for a step that only preserves."""
        if start == stop:
            return self.lessons.weight_N.new_zeros(len(self.history), 0)
        loss_BN, self.taught_BN = self.compare()
        return loss_BN

    def compare(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss of every token, float [B, N], with a gradient; which the filter keeps, bool [B, N])."""
        recipe, rule = self.recipe, self.recipe.filter
        q_BNCV = of_parts(self.generator, self.generator.logits(self.told, self.history))
        if recipe.divergence == "ce":
            loss_BNC = nats_of(q_BNCV, self.labels)
        else:
            loss_BNC = (kl if recipe.divergence == "kl" else square)(self.p_BNCV, q_BNCV)
        with torch.no_grad():
            if rule.kind == "wrong":
                kept_BN = wrong_tokens(q_BNCV, self.p_BNCV, self.labels, rule)
            elif rule.kind == "kl":
                usual = torch.quantile(self._retained()[:, self.lessons.span], rule.quantile)
                kept_BN = kl(self.p_BNCV, q_BNCV).mean(-1) > usual
            else:
                kept_BN = torch.ones(q_BNCV.shape[:2], dtype=torch.bool, device=q_BNCV.device)
            kept_BN = kept_BN & (self.lessons.weight_N > 0)
        if recipe.entropy:
            loss_BNC = loss_BNC + recipe.entropy * entropy(q_BNCV)
        if rule.parts == "wrong":
            loss_BNC = loss_BNC * is_wrong(q_BNCV.detach(), self.labels, rule.gamma)
        return loss_BNC.mean(-1), kept_BN

    def gate(self, loss_BN: torch.Tensor) -> tuple[torch.Tensor, bool, int]:
        """The erasing loss, in nats a part (for mse: squared probability):

            mean_B sum_t w_t F_t l_t  ( / mean_B sum_t w_t F_t, where it is divided by what is kept )

        l_t = mean_b of what `divergence` says, plus beta times the student's entropy; w_t sum to 1 over the scales that
        learn; F_t is the filter. (S-VARE: L_FCE = mean_B 1/L sum_t F_t mean_b -log p_student(y_b | r_ori_<, c*).)

        Returns:
            The loss, a scalar, 0 without a gradient where nothing is kept; True, as preservation always teaches; how
            many tokens are kept.
        """
        if not loss_BN.shape[1]:
            return loss_BN.new_zeros(()), True, 0
        kept_BN, weight_N = self.taught_BN, self.lessons.weight_N
        self._describe(loss_BN.detach(), kept_BN)
        loss = loss_BN.new_zeros(())
        if kept_BN.any():
            loss = (loss_BN * kept_BN * weight_N).sum() / len(loss_BN)
            if self.recipe.filter.divisor == "kept":
                loss = loss / ((kept_BN * weight_N).sum() / len(loss_BN))
        return loss, True, int(self.report["kept"])

    def preservation(self, step: Step, student: Mapping[str, torch.Tensor]) -> Callable[[], torch.Tensor] | None:
        """What gives lambda L_Pre = lambda mean_B sum_t w_t mean_b KL( p_teacher(. | r_<i, c) || p_student(. | r_<i, c)
        ); None where a step has none."""
        weight = self.recipe.retain.weight
        if not weight or not step.preserves:
            return None
        return lambda: weight * (self._retained() * self.lessons.weight_N).sum(-1).mean()

    def _retained(self) -> torch.Tensor:
        """KL( teacher || student ) of every token of the prompts to keep, a mean over its parts: float [B, N]."""
        logits = self.generator.logits(self.retained_prompts, self.retained_codes)
        return kl(self.retained_p, of_parts(self.generator, logits)).mean(-1)

    # ---------------------------------------------------------------- what happened

    def _describe(self, loss_BN: torch.Tensor, kept_BN: torch.Tensor) -> None:
        """Into the report: tokens looked at and kept, the loss of all of them, and both by scale."""
        learning = self.lessons.weight_N > 0
        self.report |= {"kept": int(kept_BN.sum()), "tokens": int(learning.sum()) * len(loss_BN)}
        self.report["unfiltered"] = (loss_BN * self.lessons.weight_N).sum().item() / len(loss_BN)
        for k, span in enumerate(self.generator.spans):
            if learning[span].any():
                self.report[f"kept{k}"] = kept_BN[:, span].float().mean().item()
                self.report[f"loss{k}"] = loss_BN[:, span].mean().item()

    def note(self, step: Step, losses: list[float], teaches: bool, kept: int, against: bool) -> None:
        if step.stop:
            self.report["erase"] = losses[0]
            self.counts.update(
                updates=1, updates_empty=int(not kept), tokens_kept=kept, tokens_seen=int(self.report["tokens"])
            )
        if len(losses) > 1:
            self.report["retain"] = losses[1]
        self.counts["updates_in_conflict"] += against
        self.rows = [{"lesson": self.number, "loss": self.report["unfiltered"], **self.report}]


@torch.no_grad()
def looked_at(
    generator: NextScale,
    pairs: Iterable[PromptPair],
    recipe: ScaleRecipe,
    seed: int = 0,
    erasure: Any = None,
    batch: int = 50,
) -> dict[str, torch.Tensor]:
    """What a recipe sees of its pairs, with an erasure or on the base model, without learning: for pictures of the
    filter.

    Returns:
        For every picture of every pair, `kept` bool [N, L'], `loss` float [N, L'] (before the filter) and `codes` (what
        was read, [N, L', ...]), L' the positions up to the last scale that learns.
    """
    as_student = (lambda: erasure.on(generator)) if erasure is not None else nullcontext
    lessons = ScaleLessons(generator, pairs, replace(recipe, batch=batch, passes=1), seed)
    seen: dict[str, list[torch.Tensor]] = {"kept": [], "loss": [], "codes": []}
    for i in range(len(lessons)):
        lesson = lessons.begin(i, as_student)
        with as_student():
            loss_BN, kept_BN = lesson.compare()
        for name, value in (("kept", kept_BN), ("loss", loss_BN), ("codes", lesson.history)):
            seen[name].append(value.cpu())
    return {name: torch.cat(parts) for name, parts in seen.items()}
