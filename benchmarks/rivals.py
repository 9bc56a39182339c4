"""The rivals, written plainly: what one would write down first from the paper, the released code's loop, and
transformers' own `generate`.

They draw with the same noise as earlib and start from the same weights, so that what is equal in theory can be checked
to be equal: the tests hold both training loops to earlib's in float64.
"""

from __future__ import annotations

import torch
from transformers import DynamicCache

from earlib.erasure.change import switched, tensor_names
from earlib.erasure.trajectories import both_rows
from earlib.generators import picture_seeds
from earlib.generators.base import Past
from earlib.generators.sampling import choose


def _student(generator, recipe):
    names = tensor_names(recipe, len(generator.decoder_layers))
    student = {n: torch.nn.Parameter(generator.trunk.get_parameter(n).detach().clone()) for n in names}
    return student, torch.optim.Adam(student.values(), lr=recipe.lr)


def plain_ear(generator, pairs, recipe, seed: int) -> dict[str, torch.Tensor]:
    """EAR with full context, one image token at a time: three frozen streams draw while the student follows the first,
    each over its own cache.

    The sum of a window's losses is stepped on at its end. Returns the trained tensors.
    """
    student, optimizer = _student(generator, recipe)
    T = generator.num_codes
    for i, pair in enumerate(pairs):
        texts = {"concept": pair.target, "replacement": pair.replacement, "origin": pair.replacement}
        seeds = {
            role: torch.tensor(picture_seeds(seed, [f"trajectory/{role}/{i}/{text}"]), device=generator.device)
            for role, text in texts.items()
        }
        prompts = {role: both_rows(generator, text) for role, text in texts.items()}
        pasts = {role: Past(cache=DynamicCache()) for role in texts}
        follower, total = Past(cache=DynamicCache()), 0.0
        last = {}
        for t in range(T):
            frozen = {}
            with torch.no_grad():
                for role, past in pasts.items():
                    if t:
                        past.pending_B1 = last[role]
                    frozen[role] = generator.hidden_states(
                        prompts[role], torch.zeros(2, 1, dtype=torch.long, device=generator.device), past
                    )
            if t:
                follower.pending_B1 = last["concept"]
            with switched(generator.trunk, student):
                h = generator.hidden_states(
                    prompts["concept"], torch.zeros(2, 1, dtype=torch.long, device=generator.device), follower
                )
            target = frozen["replacement"] - recipe.eta * (frozen["concept"] - frozen["origin"])
            total = total + (h - target).square().mean()
            with torch.no_grad():
                for role, states in frozen.items():
                    logits = generator.image_logits(states)[:, 0]
                    token = choose(logits, seeds[role], t, recipe.guidance, generator.temperature)
                    last[role] = token[:, None].repeat(2, 1)
            if (t + 1) % recipe.windows.length == 0 or t + 1 == T:
                if total.item() > recipe.gate.threshold:
                    optimizer.zero_grad()
                    total.backward()
                    optimizer.step()
                follower.detach_()
                total = 0.0
    return {n: p.detach() for n, p in student.items()}


def released_loop(generator, pairs, recipe, seed: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The authors' loop (github.com/immc-lab/ear): after the first step every call sees one image token. Returns
    trained tensors, loss of each window."""
    student, optimizer = _student(generator, recipe)
    tok, T = generator.tokenizer, generator.num_codes
    losses = []
    for i, pair in enumerate(pairs):
        ids = tok(pair.target)["input_ids"]
        other = tok(pair.replacement)["input_ids"][: len(ids)]
        other = other + [tok.pad_token_id] * (len(ids) - len(other))
        streams, seeds = {}, {}
        for role, row, text in (
            ("concept", ids, pair.target),
            ("replacement", other, pair.replacement),
            ("origin", other, pair.replacement),
        ):
            null = [row[0]] + [tok.pad_token_id] * (len(row) - 2) + [row[-1]]
            streams[role] = generator.model.get_input_embeddings()(torch.tensor([row, null], device=generator.device))
            seeds[role] = torch.tensor(picture_seeds(seed, [f"released/{role}/{i}/{text}"]), device=generator.device)
        total = 0.0
        for t in range(T):
            with torch.no_grad():
                frozen = {
                    role: generator.trunk(inputs_embeds=x, use_cache=False).last_hidden_state
                    for role, x in streams.items()
                }
            with switched(generator.trunk, student):
                h = generator.trunk(inputs_embeds=streams["concept"], use_cache=False).last_hidden_state
            target = frozen["replacement"] - recipe.eta * (frozen["concept"] - frozen["origin"])
            total = total + (h - target).square().mean()
            with torch.no_grad():
                for role, states in frozen.items():
                    token = choose(generator.image_logits(states[:, -1:])[:, 0], seeds[role], t, recipe.guidance, 1.0)
                    streams[role] = generator.model.prepare_embeddings_for_image_generation(token[:, None].repeat(2, 1))
            if (t + 1) % recipe.windows.length == 0:
                losses.append(total.item())
                if total.item() > recipe.gate.threshold:
                    optimizer.zero_grad()
                    total.backward()
                    optimizer.step()
                total = 0.0
    return {n: p.detach() for n, p in student.items()}, losses


def own_cache(generator, prompts) -> dict:
    """Keys and values for `generate`, as it makes them itself; transformers 5.15 forgets an argument when it does."""
    from transformers import StaticCache

    config = generator.model.config.get_text_config()
    return {"past_key_values": StaticCache(config=config, max_cache_len=prompts.ids_BP.shape[1] + generator.num_codes)}


@torch.no_grad()
def transformers_generate(generator, prompts: list[str], guidance: float, do_sample: bool = True) -> torch.Tensor:
    """Image tokens [B, T] from `JanusForConditionalGeneration.generate`, all prompts in one batch."""
    batch = generator.encode(prompts)
    more = dict(generation_mode="image", guidance_scale=guidance, **own_cache(generator, batch))
    more |= dict(do_sample=True, top_k=0) if do_sample else dict(do_sample=False)
    return generator.model.generate(batch.ids_BP, attention_mask=batch.mask_BP, **more)
