"""The lesson of EAR's released code, which compares single tokens: that loop, reorganised, not an approximation of it.

The authors' training loop (github.com/immc-lab/ear) passes only the newest image token to the model after the first
step, without a cache. So every later state is a function of one code: h(v) = trunk([embed(v)]), at position 0, without
prompt, the same in both rows, so that guidance changes nothing. Hence h*(v) is computed once for every code, pictures
are chains over that table, and a window is a batch of sequences of length one. A test holds it to the loop written out,
in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ..concepts import PromptPair
from ..errors import UserError
from ..generators import picture_seeds
from ..generators.base import NextToken, PromptBatch
from ..generators.sampling import choose
from .matching import WindowLesson
from .objective import target_states, token_loss
from .recipe import Recipe

if TYPE_CHECKING:
    from .lessons import Lessons


class SingleToken(WindowLesson):
    """A lesson of the released loop: step 0 reads the prompts, with a loss on all their positions; step t reads token t
    - 1, and nothing else."""

    def __init__(self, lessons: Lessons, number: int, pairs: list[PromptPair], prefix: dict[str, Any]):
        super().__init__(lessons, number, pairs, prefix)
        [[self.prompts, self.target_2PD, self.tokens_T, self.target_TD]] = prefix["released"]

    def losses(self, start: int, stop: int) -> torch.Tensor:
        """L_t, in the number format of the model, as the loop adds them up in it."""
        parts = []
        if start == 0:
            h_2PD = read_prompt(self.generator, self.prompts)
            parts.append(token_loss(h_2PD, self.target_2PD).mean(0, keepdim=True))
        first = max(start, 1)
        read_W = self.tokens_T[:-1][first - 1 : stop - 1]
        if len(read_W):
            h_1WD = read_codes(self.generator, read_W)[None]  # both rows of the loop are this one
            parts.append(token_loss(h_1WD, self.target_TD[None, first:stop]))
        return torch.cat(parts).to(self.target_TD.dtype)


def read_prompt(generator: NextToken, rows: PromptBatch) -> torch.Tensor:
    """States h_BPD at every position of the prompts; everything is attended to, padding too."""
    h = generator.trunk(inputs_embeds=generator.trunk.get_input_embeddings()(rows.ids_BP), use_cache=False)
    return h.last_hidden_state


def read_codes(generator: NextToken, codes_N: torch.Tensor) -> torch.Tensor:
    """States h_ND of single codes at position 0, without anything before them."""
    assert generator.embed_image_tokens is not None, "`single_tokens` has looked at this"
    x_N1D = generator.embed_image_tokens(codes_N[:, None])
    return generator.trunk(inputs_embeds=x_N1D, use_cache=False).last_hidden_state[:, 0]


def raw_rows(generator: NextToken, prompt: str, length: int | None = None) -> PromptBatch:
    """Both rows of a prompt as the released training encodes it: no conversation format, no begin-of-image token.

    With `length` the prompt is cut or filled with padding at its right, and the padding is attended to. The
    unconditional row keeps its first and last token, whatever they are.
    """
    tokenizer = generator.tokenizer_of_words
    ids, pad = tokenizer(prompt)["input_ids"], tokenizer.pad_token_id
    if length is not None:
        ids = (ids + [pad] * length)[:length]
    null = ids[:1] + [pad] * (len(ids) - 2) + ids[-1:] if len(ids) > 1 else ids
    ids_2P = torch.tensor([ids, null], device=generator.device)
    return PromptBatch(ids_2P, torch.ones_like(ids_2P))


@torch.no_grad()
def single_tokens(
    generator: NextToken, pairs: list[PromptPair], recipe: Recipe, seed: int, chunk: int = 4096
) -> dict[str, list[tuple]]:
    """The teacher's side of the released loop for all pairs at once: three chains a pair (concept, replacement, origin)
    and the targets along them.

    Returns:
        "released": for each pair its prompt's rows, their targets [2, P, D], the concept's chain of tokens [T], and the
        targets [T, D] along it.
    """
    if generator.embed_image_tokens is None:
        line = (
            f"context=single is what the code released for Janus does; '{generator.name}' reads more than image tokens"
        )
        raise UserError(f"{line}: use context=full")
    T, device = generator.num_codes, generator.device
    codes_V = torch.arange(generator.codebook_size, device=device)
    table_VD = torch.cat([read_codes(generator, part) for part in codes_V.split(chunk)])
    logits_VV = torch.cat([generator.image_logits(part[:, None])[:, 0] for part in table_VD.split(chunk)])

    prompts = [raw_rows(generator, pair.target) for pair in pairs]
    others = [raw_rows(generator, p.replacement, own.ids_BP.shape[1]) for p, own in zip(pairs, prompts)]
    h_c, h_r = ([read_prompt(generator, rows) for rows in side] for side in (prompts, others))

    def chain(role: str, texts: list[str], h: list[torch.Tensor]) -> torch.Tensor:
        """Tokens [B, T], each drawn from what a model says that has read nothing but the one before."""
        seeds = picture_seeds(seed, [f"released/{role}/{i}/{text}" for i, text in enumerate(texts)])
        seeds_B = torch.tensor(seeds, device=device)
        first_2BV = torch.stack([generator.image_logits(h_2PD[:, -1:])[:, 0] for h_2PD in h], 1)
        tokens = [choose(first_2BV.flatten(0, 1), seeds_B, 0, recipe.guidance, 1.0)]
        for t in range(1, T):
            tokens.append(choose(logits_VV[tokens[-1]], seeds_B, t, 1.0, 1.0))
        return torch.stack(tokens, 1)

    c_BT = chain("concept", [pair.target for pair in pairs], h_c)
    r_BT, origin_BT = (chain(role, [p.replacement for p in pairs], h_r) for role in ("replacement", "origin"))
    # the state of step t has read token t - 1; row 0 stands for the prompt and is not used
    states = lambda tokens_T: F.pad(table_VD[tokens_T[:-1]], (0, 0, 1, 0))
    target = lambda c, r, origin: target_states(c, r, origin, recipe.objective, recipe.eta)
    along = [target(*map(states, tokens)) for tokens in zip(c_BT, r_BT, origin_BT)]
    at_prompts = [target(c, r, r) for c, r in zip(h_c, h_r)]
    return {"released": list(zip(prompts, at_prompts, c_BT, along))}
