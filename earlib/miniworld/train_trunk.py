"""Stage three: the language model of MiniJanus learns to draw (caption to image tokens) and to see (picture to
caption).

Both tasks share one forward pass of the trunk: drawing rows are `prompt, begin-of-image, tokens`, seeing rows are
`image features, question, answer`. A tenth of the drawing prompts is blanked, as guidance needs a model of pictures
without a prompt.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .captions import QUESTION, describe
from .fit import fit
from .models import GRID
from .scenes import Scenes, render, sample_scenes
from .train_vq import to_pixels

PROMPT = 24  # tokens kept for a prompt; longer captions are told plainly
ANSWER = 22
BLANK = 0.1  # share of drawing prompts that are blanked


@torch.no_grad()
def tokenize_pool(vq, pool: Scenes, device: str, chunk: int = 64) -> torch.Tensor:
    """Image tokens of every scene of `pool`: int64 [N, 144]."""
    vq.to(device).eval()
    parts = []
    for i in range(0, len(pool), chunk):
        pixels = to_pixels(render(pool[slice(i, i + chunk)])).to(device)
        parts.append(vq.encode(pixels).image_tokens.view(len(pixels), -1).cpu())
    return torch.cat(parts)


def chat(processor, text: str, image: bool = False) -> str:
    """`text` as the user's turn of Janus's conversation format, ready for the model's."""
    content = ([{"type": "image"}] if image else []) + [{"type": "text", "text": text}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


class Batches:
    """Token batches for both tasks, drawn from a pool of pictures that was tokenized once."""

    def __init__(self, processor, vq, seed: int, pool: int, device: str):
        self.tok, self.seed, self.device = processor.tokenizer, seed, device
        self.scenes = sample_scenes(pool, [seed, 21])
        self.tokens = tokenize_pool(vq, self.scenes, device)
        self.head, self.tail = chat(processor, "@").split("@")
        self.question = chat(processor, QUESTION, image=True).replace(
            "<image_placeholder>",
            processor.image_start_token + processor.image_token * GRID**2 + processor.image_end_token,
        )

    def drawing(self, rng: np.random.Generator, n: int):
        """ids [n, PROMPT], mask [n, PROMPT], image tokens [n, 144]; left-padded."""
        rows = rng.integers(0, len(self.scenes), n)
        scenes = self.scenes[rows]
        wrap = lambda texts: [f"{self.head}{t}{self.tail}<begin_of_image>" for t in texts]
        texts = wrap(describe(scenes, rng))
        ids = self.tok(texts)["input_ids"]
        plain = wrap(describe(scenes, rng, plain=True))
        ids = [a if len(a) <= PROMPT else self.tok(b)["input_ids"][:PROMPT] for a, b in zip(ids, plain)]
        out = torch.full((n, PROMPT), self.tok.pad_token_id)
        mask = torch.zeros(n, PROMPT, dtype=torch.long)
        for i, (row, blank) in enumerate(zip(ids, rng.random(n) < BLANK)):
            row = torch.tensor(row)
            if blank:
                keep = (row == self.tok.bos_token_id) | (row == self.tok.boi_token_id)
                row = torch.where(keep, row, self.tok.pad_token_id)
            out[i, -len(row) :] = row
            mask[i, -len(row) :] = 1  # blanked words stay visible as pads, as in transformers' own guidance
        return out.to(self.device), mask.to(self.device), self.tokens[rows].to(self.device)

    def seeing(self, rng: np.random.Generator, n: int):
        """pixels [n, 3, 48, 48], ids [n, Q + ANSWER], labels (-100 except the answer); right-padded."""
        scenes = sample_scenes(n, rng)
        question = self.tok(self.question)["input_ids"]
        answers = self.tok(describe(scenes, rng, plain=True), add_special_tokens=False)["input_ids"]
        ids = torch.full((n, len(question) + ANSWER), self.tok.pad_token_id)
        labels = torch.full_like(ids, -100)
        for i, answer in enumerate(answers):
            row = torch.tensor(question + (answer + [self.tok.eos_token_id])[:ANSWER])
            ids[i, : len(row)] = row
            labels[i, len(question) : len(row)] = row[len(question) :]
        return to_pixels(render(scenes)).to(self.device), ids.to(self.device), labels.to(self.device)


def train_trunk(
    model,
    processor,
    folder: Path,
    steps: int,
    batch: int = 24,
    seeing: int = 6,
    lr: float = 2e-3,
    matrix_lr: float = 4e-3,
    seed: int = 0,
    device: str = "cpu",
    pool: int = 20_000,
    fresh: bool = True,
):
    """Train everything of `model` but its picture tokenizer, in place; returns the log. Losses are nats a token."""
    model.to(device).train()
    inner = model.model
    inner.vqmodel.requires_grad_(False)
    batches = Batches(processor, inner.vqmodel, seed, pool, device)
    with torch.no_grad():  # tokens start where the tokenizer's own codes lie
        if fresh:
            inner.generation_embeddings.weight.copy_(inner.vqmodel.quantize.embedding.weight)
    trunk = inner.language_model if device == "cpu" else torch.compile(inner.language_model)

    def forward(ids_DP, mask_DP, image_DT, pixels_S3HW, ids_SQ, labels_SQ):
        text = inner.get_input_embeddings()
        draw = torch.cat([text(ids_DP), model.prepare_embeddings_for_image_generation(image_DT[:, :-1])], 1)
        features = inner.get_image_features(pixels_S3HW, return_dict=True).pooler_output
        see = text(ids_SQ)
        see = see.masked_scatter((ids_SQ == model.config.image_token_id).unsqueeze(-1), features.to(see.dtype))
        length = max(draw.shape[1], see.shape[1])
        rows = torch.cat([F.pad(draw, (0, 0, 0, length - draw.shape[1])), F.pad(see, (0, 0, 0, length - see.shape[1]))])
        mask = torch.ones(len(rows), length, dtype=torch.long, device=rows.device)
        mask[: len(draw), :PROMPT] = mask_DP  # what lies right of a row is hidden by causality
        h = trunk(inputs_embeds=rows, attention_mask=mask, use_cache=False).last_hidden_state
        logits_DTV = inner.generation_head(h[: len(draw), PROMPT - 1 : draw.shape[1]])
        drawn = F.cross_entropy(logits_DTV.flatten(0, 1).float(), image_DT.flatten())
        answer = slice(ids_SQ.shape[1] - ANSWER - 1, ids_SQ.shape[1] - 1)
        said = F.cross_entropy(
            model.lm_head(h[len(draw) :, answer]).flatten(0, 1).float(),
            labels_SQ[:, -ANSWER:].flatten(),
            ignore_index=-100,
        )
        return drawn, said

    def loss_at(step):
        rng = np.random.default_rng([seed, 22, step])
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            drawn, said = forward(*batches.drawing(rng, batch), *batches.seeing(rng, seeing))
        return drawn + 0.2 * said, {"draw": drawn.item(), "see": said.item()}

    matrices = [p for p in inner.language_model.layers.parameters() if p.dim() == 2]
    log = fit(
        {"janus": model},
        loss_at,
        folder=folder,
        steps=steps,
        lr=lr,
        weight_decay=0.05,
        seed=seed,
        matrices=matrices,
        matrix_lr=matrix_lr,
    )
    model.eval()
    return log
