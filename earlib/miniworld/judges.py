"""The two judges of MiniWorld: what does a picture show?

The first is a small ResNet that learns from whole pictures, slightly damaged, and from empty and shuffled ones. The
second is a small ViT, trained on other pictures, of which a third are ruined: blended, unfinished, patched from others,
coarse, or a mere slab of colour in place of an object. Those show *none of it*, and the second judge says so: its group
`state` tells whole pictures from unfinished ones. Both end in transformers' own format.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..runs import write_json
from .damage import RUINS, damage, shuffled, with_slabs
from .eye import GROUPS, WIDTHS, answer_loss, answers
from .fit import fit
from .scenes import PATCH, SIZE, render, sample_scenes
from .tokenizer import to_pixels

STATES = ("whole", "unfinished")  # the last group of the second judge
HALF = [0.5, 0.5, 0.5]


# ---------------------------------------------------------------- pictures and what is true of them


def _nothing(truth: dict[str, np.ndarray], rows: np.ndarray) -> None:
    """Make it true of `rows` that no object and no colour is there; in place."""
    truth["object"][rows] = truth["colour"][rows] = 0
    truth["left"][rows] = truth["back"][rows] = len(GROUPS["object"])


def emptied(scenes, rows: np.ndarray):
    """The scenes with nothing in those at `rows`."""
    columns = ("object", "object2", "relation", "colour2")
    changed = {name: getattr(scenes, name).copy() for name in (*columns, "framing")}
    for name in columns:
        changed[name][rows] = -1
    changed["framing"][rows] = 0
    return dataclasses.replace(scenes, **changed)


def lesson(n: int, seed, negatives: float = 0.06) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """`n` pictures for the first judge, what is true of them, and where all of it is known (bool [N]).

    A share `negatives` shows a place with nothing in it; as many are shuffled to pieces, of which only "nothing is
    there" is true.
    """
    rng = np.random.default_rng(seed)
    fate = rng.random(n)
    empty, broken = np.flatnonzero(fate < negatives), np.flatnonzero(fate > 1 - negatives)
    scenes = emptied(sample_scenes(n, rng), empty)
    images, truth = render(scenes), answers(scenes)
    for k, patch in enumerate((PATCH, 2 * PATCH)):
        images[broken[k::2]] = shuffled(images[broken[k::2]], rng, patch)
    _nothing(truth, broken)
    return images, truth, fate <= 1 - negatives


def ruined_lesson(
    n: int, seed, ruins: float = 0.3, pairs: float = 0.4
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """As `lesson`, for the second judge: a share `ruins` of the pictures shows none of it; some places are empty. Two
    objects stand in a share `pairs` of what is drawn.

    `truth` also holds `state`: 0 for whole pictures, 1 for ruined ones.
    """
    rng = np.random.default_rng(seed)
    fate = rng.random(n)
    slabs, empty = np.flatnonzero(fate < 0.06), np.flatnonzero((fate >= 0.06) & (fate < 0.12))
    scenes = emptied(sample_scenes(n, rng, pairs), np.concatenate([slabs, empty]))
    images, truth = render(scenes), answers(scenes)
    images[slabs] = np.clip(with_slabs(images[slabs], rng), 0, 255)
    bad = np.flatnonzero(fate > 1 - ruins + 0.06)
    others, clean = rng.permutation(n)[: len(bad)], images.copy()
    for k, ruin in enumerate(RUINS):
        rows = bad[k :: len(RUINS)]
        images[rows] = np.clip(ruin(clean[rows], clean[others[k :: len(RUINS)]], rng), 0, 255)
    _nothing(truth, bad)
    truth["state"] = np.zeros(n, np.int64)
    truth["state"][np.concatenate([slabs, bad])] = 1
    known = np.ones(n, bool)
    known[bad] = False
    return images, truth, known


# ---------------------------------------------------------------- models


def _names(groups: dict) -> dict[int, str]:
    return dict(enumerate(f"{group}:{name}" for group, names in groups.items() for name in names))


def build_judge():
    """An untrained first judge, a `ResNetForImageClassification` of 0.9 M parameters."""
    from transformers import ResNetConfig, ResNetForImageClassification

    shape = dict(embedding_size=32, hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 1, 1], layer_type="basic")
    return ResNetForImageClassification(ResNetConfig(**shape, **_labels(GROUPS)))


def build_second_judge():
    """An untrained second judge, a `ViTForImageClassification` of 0.8 M parameters that reads patches of 6 x 6
    pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    shape = dict(image_size=SIZE, patch_size=6, hidden_size=128, intermediate_size=320, num_hidden_layers=5)
    rest = dict(num_attention_heads=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return ViTForImageClassification(ViTConfig(**shape, **rest, **_labels(GROUPS | {"state": STATES})))


def _labels(groups: dict) -> dict:
    names = _names(groups)
    return {"id2label": names, "label2id": {name: i for i, name in names.items()}}


def _processor():
    from transformers import ViTImageProcessor

    return ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=HALF, image_std=HALF)


# ---------------------------------------------------------------- training


def train_judge(
    out: Path, state: Path, steps: int = 2000, batch: int = 64, lr: float = 2e-3, seed: int = 0, held_out: int = 2000
) -> dict:
    """Train the first judge, save it to `out` in half precision; return its metrics on `held_out` other pictures."""
    torch.manual_seed(seed)
    model = build_judge().train()
    options = dict(steps=steps, lr=lr, seed=seed, weight_decay=0.02)
    return _train(model, lesson, 31, out, state, options, batch, held_out)


def train_second_judge(
    out: Path,
    state: Path,
    steps: int = 6000,
    batch: int = 96,
    lr: float = 1.2e-3,
    matrix_lr: float = 4e-3,
    seed: int = 1,
    held_out: int = 2000,
) -> dict:
    """Train the second judge, save it to `out` in half precision; return its metrics on `held_out` other pictures.

    Its matrices are trained by Muon: AdamW alone needs four times the steps until two objects are told apart.
    """
    torch.manual_seed(seed)
    model = build_second_judge().train()
    model.set_attn_implementation("eager")  # on a CPU half the time of the fused one
    options = dict(steps=steps, lr=lr, matrix_lr=matrix_lr, seed=seed, weight_decay=0.05)
    return _train(model, ruined_lesson, 32, out, state, options, batch, held_out, model.vit.layers)


def _train(
    model, pictures, stream: int, out: Path, state: Path, options: dict, batch: int, held_out: int, by_muon=None
) -> dict:
    """Train either judge; the matrices of the module `by_muon` by Muon."""
    seed, look = options["seed"], torch.compile(lambda x: model(x).logits)
    matrices = [p for p in by_muon.parameters() if p.dim() == 2] if by_muon else ()

    def loss_at(step):
        images, truth, known = pictures(batch, [seed, stream, step])
        x = damage(to_pixels(images), torch.Generator().manual_seed(1_000_003 * seed + step))
        with torch.autocast("cpu", torch.bfloat16):
            logits = look(x).float()
        loss, numbers = answer_loss(logits[:, : sum(WIDTHS)], truth, known)
        if "state" in truth:
            target = torch.from_numpy(truth["state"])
            z = logits[:, sum(WIDTHS) :]
            loss, numbers["state"] = loss + F.cross_entropy(z, target), (z.argmax(1) == target).float().mean().item()
        return loss, numbers

    fit({"judge": model}, loss_at, folder=state, matrices=matrices, **options)
    model.eval().half().save_pretrained(out)
    _processor().save_pretrained(out)
    metrics = {**options, "batch": batch, "parameters": model.num_parameters()}
    metrics |= judge_metrics(model.float(), held_out, seed)
    write_json(out / "metrics.json", metrics)
    print(metrics, flush=True)
    return metrics


@torch.no_grad()
def read(model, images: np.ndarray, part: int = 250) -> dict[str, np.ndarray]:
    """What a judge answers: group to float32 [N, names], probabilities; sigmoids for object and colour, else
    softmax."""
    logits = torch.cat([model(to_pixels(images[i : i + part])).logits for i in range(0, len(images), part)])
    sizes = WIDTHS + ([logits.shape[1] - sum(WIDTHS)] if logits.shape[1] > sum(WIDTHS) else [])
    found = {}
    for name, z in zip([*GROUPS, "state"], logits.split(sizes, 1)):
        found[name] = (z.sigmoid() if name in ("object", "colour") else z.softmax(1)).numpy()
    return found


def judge_metrics(model, held_out: int, seed: int = 0) -> dict:
    """Shares of right answers on held-out whole pictures, of pairs with both found, and of objects seen in empty,
    shuffled and ruined pictures."""
    share = lambda right: round(float(np.mean(right)), 5)
    scenes = sample_scenes(held_out, [seed, 97])
    found, truth = read(model, render(scenes)), answers(scenes)
    two = scenes.object2 >= 0
    metrics = {name: share(found[name].argmax(1) == truth[name]) for name in GROUPS if truth[name].ndim == 1}
    for name in ("object", "colour"):
        right = ((found[name] > 0.5) == (truth[name] > 0)).all(1)
        metrics |= {name: share(right[~two]), f"{name} of pairs": share(right[two])}
    everywhere = np.arange(held_out)
    blank = render(emptied(scenes, everywhere))
    rng = np.random.default_rng([seed, 96])
    wrecks = {"empty": blank, "shuffled": shuffled(render(scenes), rng, PATCH), "slabs": with_slabs(blank, rng)}
    pictures = render(scenes)
    wrecks |= {ruin.__name__[1:]: ruin(pictures, pictures[::-1], rng) for ruin in RUINS}
    for name, images in wrecks.items():
        seen = read(model, np.clip(images, 0, 255).astype(np.uint8))
        metrics[f"object seen in {name}"] = share(seen["object"].max(1) > 0.5)
        if "state" in seen:
            metrics[f"unfinished: {name}"] = share(seen["state"][:, 1] > 0.5)
    return metrics
