"""The language model of MiniJanus learns to draw (caption to image tokens) and to see (picture to caption).

Both tasks share one forward pass of the trunk: drawing rows are `prompt, begin-of-image, tokens`, seeing rows are
`image features, question, answer`. A tenth of the drawing prompts is blanked, as guidance needs a model of pictures
without a prompt. No picture is shown twice: they are drawn and tokenized a chunk at a time, between two steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .captions import QUESTION, describe, plain_caption
from .fit import fit
from .models import GRID
from .scenes import render, sample_scenes
from .tokenizer import halves, to_pixels

PROMPT = 32  # tokens of a drawing row before its picture; LONGEST and what the conversation format adds fit
ANSWER = 24
BLANK = 0.1  # share of drawing prompts that are blanked


def chat(processor, text: str, image: bool = False) -> str:
    """`text` as the user's turn of Janus's conversation format, ready for the model's."""
    content = ([{"type": "image"}] if image else []) + [{"type": "text", "text": text}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


@dataclass(frozen=True)
class Sizes:
    """Of a training step: rows that draw, rows that see, and steps whose pictures are drawn and tokenized at once."""

    drawing: int = 56
    seeing: int = 6
    chunk: int = 32


def scenes_without(n: int, rng: np.random.Generator, without=None):
    """`n` scenes of which none is what `without` says must not be shown; those that are, are replaced."""
    scenes = sample_scenes(n, rng, seen=True)
    while without is not None and (bad := np.flatnonzero(without(scenes))).size:
        scenes = scenes.replaced(bad, sample_scenes(len(bad), rng, seen=True))
    return scenes


class Pictures:
    """The scenes of every lesson, always new, and their image tokens.

    Args:
        vq: a trained picture tokenizer.
        seed: of everything.
        sizes: of a step.
        without: a function of scenes that says which of them must not be shown (bool [N]), for oracles; they are
            replaced by others.
    """

    def __init__(self, vq, seed: int, sizes: Sizes, without=None):
        self.vq, self.seed, self.sizes, self.without = vq.eval(), seed, sizes, without
        self.number, self.ready = None, None  # the chunk at hand
        self.encode = halves(vq)[0]

    def scenes(self, n: int, rng: np.random.Generator):
        """`n` scenes that may be shown."""
        return scenes_without(n, rng, self.without)

    @torch.no_grad()
    def tokens(self, images: np.ndarray, part: int = 64) -> torch.Tensor:
        """Image tokens of pictures: int64 [N, 144]."""
        unit, ids = F.normalize(self.vq.quantize.embedding.weight, dim=1), []
        for i in range(0, len(images), part):
            with torch.autocast("cpu", torch.bfloat16):
                z = self.encode(to_pixels(images[i : i + part]).contiguous(memory_format=torch.channels_last))
            z = F.normalize(z.float(), dim=1).permute(0, 2, 3, 1).reshape(-1, z.shape[1])
            ids.append((z @ unit.T).argmax(1).view(-1, GRID**2))
        return torch.cat(ids)

    def shown(self, step: int):
        """(scenes, their image tokens) that are drawn in `step`."""
        number, place = divmod(step, self.sizes.chunk)
        n = self.sizes.drawing
        if self.number != number:
            scenes = chunk_of(self.seed, number, self.sizes, self.without)
            self.number, self.ready = number, (scenes, self.tokens(render(scenes)))
        rows = np.arange(place * n, (place + 1) * n)
        return self.ready[0][rows], self.ready[1][rows]


def chunk_of(seed: int, number: int, sizes: Sizes, without=None):
    """The scenes that a model is shown in its `number`-th chunk of steps."""
    return scenes_without(sizes.chunk * sizes.drawing, np.random.default_rng([seed, 21, number]), without)


def trained_on(steps: int, seed: int = 0, sizes: Sizes | None = None, without=None) -> Iterator[np.ndarray]:
    """The pictures that MiniJanus was shown in its first `steps` steps of drawing, made anew: in parts, uint8 [N, 48,
    48, 3]."""
    sizes = sizes or Sizes()
    for number in range(-(-steps // sizes.chunk)):
        here = min(sizes.chunk, steps - number * sizes.chunk) * sizes.drawing
        yield render(chunk_of(seed, number, sizes, without)[np.arange(here)])


class Batches(Pictures):
    """Token batches for both tasks of MiniJanus; arguments as of `Pictures`, and the model's processor."""

    def __init__(self, processor, vq, seed: int, sizes: Sizes, without=None):
        super().__init__(vq, seed, sizes, without)
        self.tok = processor.tokenizer
        self.head, self.tail = chat(processor, "@").split("@")
        image = processor.image_start_token + processor.image_token * GRID**2 + processor.image_end_token
        question = chat(processor, QUESTION, image=True).replace("<image_placeholder>", image)
        self.question = self.tok(question)["input_ids"]

    def drawing(self, step: int):
        """ids [n, PROMPT], mask [n, PROMPT], image tokens [n, 144]; left-padded."""
        (scenes, image_DT), rng = self.shown(step), np.random.default_rng([self.seed, 22, step])
        texts, n = describe(scenes, rng), len(scenes)
        ids = self.tok([f"{self.head}{text}{self.tail}<begin_of_image>" for text in texts])["input_ids"]
        out = torch.full((n, PROMPT), self.tok.pad_token_id)
        mask = torch.zeros(n, PROMPT, dtype=torch.bool)
        for i, (row, blank) in enumerate(zip(ids, rng.random(n) < BLANK)):
            row = torch.tensor(row)
            if blank:
                keep = (row == self.tok.bos_token_id) | (row == self.tok.boi_token_id)
                row = torch.where(keep, row, self.tok.pad_token_id)
            out[i, -len(row) :] = row
            mask[i, -len(row) :] = True  # blanked words stay visible as pads, as in transformers' own guidance
        return out, mask, image_DT

    def seeing(self, step: int):
        """pixels [n, 3, 48, 48], ids [n, Q + ANSWER], labels (-100 except the answer); right-padded."""
        rng = np.random.default_rng([self.seed, 23, step])
        scenes = self.scenes(self.sizes.seeing, rng)
        answers = [plain_caption(scenes.record(i)) for i in range(len(scenes))]
        ids = torch.full((len(scenes), len(self.question) + ANSWER), self.tok.pad_token_id)
        labels = torch.full_like(ids, -100)
        for i, answer in enumerate(self.tok(answers, add_special_tokens=False)["input_ids"]):
            row = torch.tensor(self.question + (answer + [self.tok.eos_token_id])[:ANSWER])
            ids[i, : len(row)] = row
            labels[i, len(self.question) : len(row)] = row[len(self.question) :]
        return to_pixels(render(scenes)), ids, labels


def side_by_side(draw: torch.Tensor, see: torch.Tensor, mask_DP: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both tasks in one batch: embeddings [D + S, length, width], and their causal mask in numbers, as eager attention
    adds it: [D + S, 1, length, length]. `mask_DP` says where the prompts of drawing rows are."""
    length = max(draw.shape[1], see.shape[1])
    rows = torch.cat([F.pad(x, (0, 0, 0, length - x.shape[1])) for x in (draw, see)])
    mask = torch.ones(length, length, dtype=torch.bool).tril().repeat(len(rows), 1, 1, 1)
    mask[: len(draw), ..., : mask_DP.shape[1]] &= mask_DP[:, None, None]
    mask |= torch.eye(length, dtype=torch.bool)  # a pad sees itself, or its softmax would be of nothing
    return rows, torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.bfloat16).min).bfloat16()


def compiled(language_model):
    """The trunk as both lessons call it: (embeddings, mask) to states."""
    return torch.compile(lambda x, mask: language_model(inputs_embeds=x, attention_mask=mask, use_cache=False)[0])


class Lesson:
    """The losses of a step: nats a drawn token, nats a spoken word."""

    def __init__(self, model, batches: Batches):
        self.model, self.batches, self.trunk = model, batches, compiled(model.model.language_model)

    def losses(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(drawn, said) of the batches of `step`."""
        model, inner = self.model, self.model.model
        ids_DP, mask_DP, image_DT = self.batches.drawing(step)
        pixels, ids_SQ, labels_SQ = self.batches.seeing(step)
        text = inner.get_input_embeddings()
        draw = torch.cat([text(ids_DP), model.prepare_embeddings_for_image_generation(image_DT[:, :-1])], 1)
        features = inner.get_image_features(pixels, return_dict=True).pooler_output
        see = text(ids_SQ)
        see = see.masked_scatter((ids_SQ == model.config.image_token_id).unsqueeze(-1), features.to(see.dtype))
        h = self.trunk(*side_by_side(draw, see, mask_DP))
        logits_DTV = inner.generation_head(h[: len(draw), PROMPT - 1 : draw.shape[1]])
        drawn = F.cross_entropy(logits_DTV.flatten(0, 1).float(), image_DT.flatten())
        answer = slice(ids_SQ.shape[1] - ANSWER - 1, ids_SQ.shape[1] - 1)
        words = model.lm_head(h[len(draw) :, answer]).flatten(0, 1).float()
        return drawn, F.cross_entropy(words, labels_SQ[:, -ANSWER:].flatten(), ignore_index=-100)


def train_trunk(
    model,
    processor,
    folder: Path,
    steps: int = 10000,
    seed: int = 0,
    sizes: Sizes | None = None,
    without=None,
    **options,
) -> list[dict]:
    """Train everything of MiniJanus but its picture tokenizer, in place; return the log. At the end its weights are the
    mean of the last ones.

    Args:
        model, processor: a JanusForConditionalGeneration whose tokenizer and eye are trained.
        folder: for checkpoints and the log.
        without: as in `Pictures`. Such a run, an oracle's, keeps its checkpoint of the step from which the learning
            rates fall, so that others can be forked from it.
        options: those of `teach`.
    """
    model.train()
    inner = model.model
    inner.vqmodel.requires_grad_(False)
    lesson = Lesson(model, Batches(processor, inner.vqmodel, seed, sizes or Sizes(), without))
    with torch.no_grad():  # tokens start where the tokenizer's own codes lie
        inner.generation_embeddings.weight.copy_(inner.vqmodel.quantize.embedding.weight)
    options |= dict(steps=steps, seed=seed, keep=without is not None)
    return teach("janus", model, inner.language_model, lesson, folder, **options)


def teach(
    name: str,
    model,
    language_model,
    lesson,
    folder: Path,
    steps: int,
    seed: int,
    lr: float = 2e-3,
    matrix_lr: float = 4e-3,
    fall: float = 0.4,
    stop_at: int | None = None,
    keep: bool = False,
) -> list[dict]:
    """Train what of `model` asks for gradients, kept in checkpoints under `name`, by the losses of `lesson`; return the
    log.

    Args:
        lr, matrix_lr: peak rates of AdamW, and of Muon for the matrices of `language_model`'s layers.
        fall: share of the steps in which the learning rates fall to zero.
        stop_at: end before this step, with a checkpoint.
        keep: keep the checkpoint of the step from which the rates fall.
    """
    # on a CPU the fused attention is slow backwards: 2.0 core-seconds a step in place of 1.3
    language_model.set_attn_implementation("eager")

    def loss_at(step):
        with torch.autocast("cpu", torch.bfloat16):
            drawn, said = lesson.losses(step)
        return drawn + 0.1 * said, {"draw": drawn.item(), "see": said.item()}

    matrices = [p for p in language_model.layers.parameters() if p.dim() == 2]
    options = dict(lr=lr, matrix_lr=matrix_lr, weight_decay=0.05, seed=seed, fall=fall, average=0.999)
    options |= dict(stop_at=stop_at, keep=round((1 - fall) * steps) if keep else None)
    log = fit({name: model}, loss_at, folder=folder, steps=steps, matrices=matrices, **options)
    language_model.set_attn_implementation("sdpa")
    model.eval()
    return log
