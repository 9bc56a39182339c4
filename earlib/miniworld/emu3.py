"""How MiniEmu3 is trained, the second architecture, with one vocabulary for words and pictures.

It has lessons like MiniJanus' own: it learns to draw from captions, and to tell what pictures show, which it reads as
image tokens. Every row of a picture ends with a token that nobody chooses and nothing is to be learned of.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .captions import QUESTION, describe, plain_caption
from .models import CODES, GRID, GUIDANCE, TEMPERATURE
from .models_emu3 import build_emu3, build_processor
from .scenes import render
from .trunk import ANSWER, BLANK, Pictures, Sizes, compiled, side_by_side, teach

PROMPT = 40  # tokens of a drawing row before its picture; LONGEST and what the header of a picture adds fit


def untrained(seed: int, **shape):
    """(model, processor) of MiniEmu3 before any training, float32; `shape` overrides that of MiniJanus."""
    torch.manual_seed(seed)
    processor = build_processor(shape.get("codes", CODES))
    model = build_emu3(processor, **shape)
    model.generation_config.update(guidance_scale=GUIDANCE, temperature=TEMPERATURE, top_k=0)
    # the class's own start (for networks with ReLU) is three times too wide
    for module in model.model.vqmodel.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
            module.reset_parameters()
    return model, processor


class Batches(Pictures):
    """Token batches for both tasks of MiniEmu3; arguments as of `Pictures`, and model and processor."""

    def __init__(self, model, processor, seed: int, sizes: Sizes, without=None):
        from ..generators.emu3 import question_ids

        super().__init__(model.model.vqmodel, seed, sizes, without)
        self.processor, self.tok = processor, processor.tokenizer
        mapping = model.model.vocabulary_mapping
        ids, self.line_end = mapping.img2bpe, mapping.eol_token_id
        self.code_ids_V = torch.tensor([ids[code] for code in range(len(ids))])
        self.question_P = question_ids(processor, (GRID, GRID), QUESTION)

    def drawing(self, step: int):
        """ids [n, PROMPT], mask [n, PROMPT], image tokens [n, 144] numbered as in the codebook; left-padded."""
        (scenes, image_DT), rng = self.shown(step), np.random.default_rng([self.seed, 22, step])
        texts = describe(scenes, rng)
        texts = ["" if blank else text for text, blank in zip(texts, rng.random(len(texts)) < BLANK)]
        asked = dict(return_for_image_generation=True, padding="max_length", max_length=PROMPT, return_tensors="pt")
        out = self.processor(text=texts, **asked)
        return out["input_ids"], out["attention_mask"].bool(), image_DT

    def with_ends(self, image_DT: torch.Tensor) -> torch.Tensor:
        """Vocabulary ids of image tokens, every row with its end: int64 [n, 156]."""
        ids_DRC = self.code_ids_V[image_DT].view(-1, GRID, GRID)
        return F.pad(ids_DRC, (0, 1), value=self.line_end).flatten(1)

    def seeing(self, step: int):
        """ids [n, Q + ANSWER], labels (-100 except the answer); right-padded."""
        scenes = self.scenes(self.sizes.seeing, np.random.default_rng([self.seed, 23, step]))
        answers = self.tok([plain_caption(scenes.record(i)) for i in range(len(scenes))], add_special_tokens=False)
        ids_SQ = self.question_P.repeat(len(scenes), 1)
        there = ids_SQ == self.tok.convert_tokens_to_ids(self.processor.image_token)
        ids_SQ[there] = self.with_ends(self.tokens(render(scenes))).flatten()
        ids_SQ = F.pad(ids_SQ, (0, ANSWER), value=self.tok.pad_token_id)
        labels = torch.full_like(ids_SQ, -100)
        for i, answer in enumerate(answers["input_ids"]):
            row = torch.tensor((answer + [self.tok.eos_token_id])[:ANSWER])
            place = slice(len(self.question_P), len(self.question_P) + len(row))
            ids_SQ[i, place] = labels[i, place] = row
        return ids_SQ, labels


class Lesson:
    """The losses of a step: nats a drawn token, of all image tokens, and nats a spoken word."""

    def __init__(self, model, batches: Batches):
        self.model, self.batches, self.trunk = model, batches, compiled(model.model.text_model)
        before_T = torch.arange(GRID**2)
        self.before_T = PROMPT - 1 + before_T + before_T // GRID  # where each token is predicted; line ends lie between

    def losses(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(drawn, said) of the batches of `step`."""
        model, batches, read = self.model, self.batches, self.model.get_input_embeddings()
        ids_DP, mask_DP, image_DT = batches.drawing(step)
        ids_SQ, labels_SQ = batches.seeing(step)
        draw = read(torch.cat([ids_DP, batches.with_ends(image_DT)[:, :-2]], 1))  # the last token and end are not read
        h = self.trunk(*side_by_side(draw, read(ids_SQ), mask_DP))
        logits_DTV = F.linear(h[: len(draw), self.before_T], model.lm_head.weight[batches.code_ids_V])
        drawn = F.cross_entropy(logits_DTV.flatten(0, 1).float(), image_DT.flatten())
        answer = slice(ids_SQ.shape[1] - ANSWER - 1, ids_SQ.shape[1] - 1)
        words = model.lm_head(h[len(draw) :, answer]).flatten(0, 1).float()
        return drawn, F.cross_entropy(words, labels_SQ[:, -ANSWER:].flatten(), ignore_index=-100)


def train_emu3(
    model, processor, folder: Path, steps: int = 2800, seed: int = 0, sizes: Sizes | None = None, **options
) -> list[dict]:
    """Train everything of MiniEmu3 but its picture tokenizer, in place; return the log. At the end its weights are the
    mean of the last ones. `options` are those of `trunk.teach`."""
    model.requires_grad_(True).train()
    model.model.vqmodel.requires_grad_(False)
    lesson = Lesson(model, Batches(model, processor, seed, sizes or Sizes()))
    return teach("emu3", model, model.model.text_model, lesson, folder, steps=steps, seed=seed, **options)
