"""How far an erased model is from an oracle: a model trained alike that was never shown the concept.

Rates say how rarely the concept is seen. The oracle says what should be drawn instead, code by code, and a model that
was ruined is as far from it as one that still knows. (After FADE, arXiv 2510.12981, which measures erasures against
models trained without the data.)

With p(x | c) and q(x | c) what two models draw for a prompt c, and x a picture of L codes, the chain rule gives

    1/L KL( p || q ) = E_{x ~ p}  1/L sum_t KL( p(. | x_<t, c) || q(. | x_<t, c) )

which is exact in every code, as these models tell all of their probabilities; only the mean over pictures x is one of
samples, p's own. `Distance` has it both ways, in nats a code: `missed` is large where the oracle draws what the erased
model would not, `strange` where the erased model draws what the oracle would not. Means are over codes first and over
prompts last; intervals are bootstrapped over prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ..concepts import Concept
from ..errors import UserError
from ..generators.base import Generator, NextToken
from .drift import Model, draw_tokens, kl_by_code
from .rate import Estimate

PICTURES = 2e-2  # a share of the codes of two models' pictures that may differ by rounding


@dataclass(frozen=True)
class Distance:
    """How far two models' pictures of the same prompts lie apart, in nats a code; 0 for a model and itself.

    Attributes:
        prompts: of each picture.
        missed_N: 1/L KL( oracle || erased ) along the oracle's picture of each prompt, float64 [N].
        strange_N: 1/L KL( erased || oracle ) along the erased model's picture of each prompt, float64 [N].
    """

    prompts: tuple[str, ...]
    missed_N: np.ndarray
    strange_N: np.ndarray

    @property
    def missed(self) -> Estimate:
        """Mean of what the oracle draws and the erased model would not."""
        return Estimate.mean(self.missed_N, self.prompts)

    @property
    def strange(self) -> Estimate:
        """Mean of what the erased model draws and the oracle would not."""
        return Estimate.mean(self.strange_N, self.prompts)

    @property
    def both(self) -> Estimate:
        """The sum of both, which is the same whichever of the models is called the oracle."""
        return Estimate.mean(self.missed_N + self.strange_N, self.prompts)

    def beyond(self, other: Distance) -> Estimate:
        """How much larger `both` is than another distance's, on the same prompts."""
        return Estimate.paired(other.missed_N + other.strange_N, self.missed_N + self.strange_N, self.prompts)


@dataclass(frozen=True)
class AgainstOracle:
    """An erased model's distance to the oracle with what it is to be compared to.

    Attributes:
        erased: of the erased model.
        ceiling: of the base model: what erasing nothing comes to.
        floor: of a second oracle, of another seed: nearer than two oracles are to each other no erasure needs to be.
            None without one.
    """

    erased: Distance
    ceiling: Distance
    floor: Distance | None = None

    @property
    def share(self) -> float | None:
        """Where the erased model stands between floor (0) and ceiling (1); above 1 it is farther from the oracle than
        the base model was. None where the ceiling is not clearly above the floor, as on prompts without the concept."""
        low = self.floor.both.value if self.floor else 0.0
        if self.floor is not None and not self.ceiling.beyond(self.floor).differs:
            return None
        room = (self.ceiling.both.value or 0.0) - (low or 0.0)
        return ((self.erased.both.value or 0.0) - (low or 0.0)) / room if room > 0 else None


def check_oracle(oracle: Generator, generator: Generator) -> None:
    """Raises UserError if the oracle draws with another picture tokenizer than `generator`: divergences code by code
    mean nothing then."""
    one, other = generator, oracle
    same = isinstance(one, NextToken) == isinstance(other, NextToken) and one.outputs == other.outputs
    if same and (one.num_codes, one.code_shape) == (other.num_codes, other.code_shape):
        shape, noise = (4, one.num_codes, *one.code_shape), torch.Generator().manual_seed(0)
        codes = torch.randint(2 if one.code_shape else one.outputs, shape, generator=noise)
        same = float(np.mean(one.decode(codes) != other.decode(codes))) < PICTURES
    else:
        same = False
    if not same:
        raise UserError(f"the oracle {other.name} draws with another picture tokenizer than {one.name}: another world")


def distance(
    erased: Model,
    oracle: Model,
    prompts: Sequence[str],
    seed: int = 0,
    guidance: float | None = None,
    drawn: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Distance:
    """The distance of `erased` to `oracle` on prompts, one picture of each by either model, with the same noise.

    Args:
        prompts: N prompts; one may occur several times.
        seed: of the pictures.
        guidance: None for each model's own.
        drawn: the pictures (erased, oracle), if they have been drawn with this seed and guidance.

    Raises:
        UserError: the models do not spell pictures in the same codes.
    """
    check_oracle(oracle.generator, erased.generator)
    prompts = list(prompts)
    mine, its = drawn or (pictures(erased, prompts, seed, guidance), pictures(oracle, prompts, seed, guidance))
    missed_NL = kl_by_code(oracle, erased, prompts, its, guidance)
    strange_NL = kl_by_code(erased, oracle, prompts, mine, guidance)
    return Distance(tuple(prompts), missed_NL.mean(1).numpy(), strange_NL.mean(1).numpy())


@lru_cache(maxsize=1)
def load_oracle(where: str) -> Generator:
    """An oracle by profile or folder, on the CPU; the last one stays loaded."""
    from ..generators import load_generator

    return load_generator(where, device="cpu")


def pictures(model: Model, prompts: list[str], seed: int = 0, guidance: float | None = None) -> torch.Tensor:
    """What a model draws for prompts: int64 [N, L, ...]."""
    return draw_tokens(model.generator, prompts, seed, model.erasure, guidance)


def prompts_of(concept: Concept, n: int = 48) -> dict[str, list[str]]:
    """At most `n` prompts each: `concept` (direct tests), `neighbours` (of each as many), `benign`."""
    each = -(-n // max(1, len(concept.neighbours)))
    near = [prompt for group in concept.neighbours.values() for prompt in group[:each]]
    return {"concept": list(concept.tests["direct"][:n]), "neighbours": near[:n], "benign": list(concept.benign[:n])}


def against_oracle(
    erased: Model,
    oracle: Generator,
    prompts: Mapping[str, Sequence[str]],
    base: Generator | None = None,
    second: Generator | None = None,
    seed: int = 0,
    guidance: float | None = None,
) -> dict[str, AgainstOracle]:
    """How far an erased model is from the oracle on each group of prompts, with floor and ceiling.

    Args:
        erased: with its erasure.
        oracle: of the concept.
        prompts: group to prompts, such as `prompts_of(concept)`.
        base: the model before erasing; that of `erased` without its erasure by default.
        second: another oracle of the concept, of another seed.
        seed, guidance: as of `distance`.
    """
    models = {"erased": erased, "ceiling": Model(base or erased.generator)}
    models |= {"floor": Model(second)} if second is not None else {}
    found = {}
    for group, texts in prompts.items():
        its = pictures(Model(oracle), list(texts), seed, guidance)
        found[group] = AgainstOracle(
            **{
                name: distance(
                    model, Model(oracle), texts, seed, guidance, (pictures(model, list(texts), seed, guidance), its)
                )
                for name, model in models.items()
            }
        )
    return found
