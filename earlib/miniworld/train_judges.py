"""The measuring instruments of MiniWorld, trained: its judge (a small ResNet) and its tiny CLIP (an open_clip model).

Both see pictures drawn afresh at every step and end in their library's own format: `transformers.from_pretrained` for
the judge, open_clip's `local-dir:` for the CLIP model. They share nothing with MiniJanus, whose pictures they measure.
How they are used is in `earlib/evaluate`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from earlib import ROOT
from earlib.runs import write_json

from .captions import describe, vocabulary
from .fit import fit
from .scenes import COLOURS, OBJECTS, PATCH, PLACES, SIZE, STYLES, render, sample_scenes
from .train_vq import to_pixels

GROUPS = {
    "object": OBJECTS,
    "colour": COLOURS,
    "style": STYLES,
    "place": PLACES,
}  # the judge's 24 outputs, in this order
MULTI_LABEL = ("object", "colour")  # sigmoids: two objects may be there, or none; style and place are a softmax each
WIDTHS = [len(names) for names in GROUPS.values()]
HELD_OUT = 2000  # pictures that the final metrics are measured on
CLIP_CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIZE, "patch_size": 8, "layers": 4, "width": 96, "head_width": 32},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
HALF = [0.5, 0.5, 0.5]


# ---------------------------------------------------------------- pictures and what is true of them


def shuffled(images: np.ndarray, rng: np.random.Generator, patch: int) -> np.ndarray:
    """Pictures cut into `patch`-pixel tiles and put together at random, each in its own way: uint8 [N, 48, 48, 3]. They
    show no object."""
    n, grid = len(images), SIZE // patch
    tiles = (
        images.reshape(n, grid, patch, grid, patch, 3)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(n, grid * grid, patch, patch, 3)
    )
    order = rng.permuted(np.arange(grid * grid)[None].repeat(n, 0), axis=1)
    mixed = tiles[np.arange(n)[:, None], order]
    return mixed.reshape(n, grid, grid, patch, patch, 3).transpose(0, 1, 3, 2, 4, 5).reshape(images.shape)


def lesson(n: int, seed, negatives: float = 0.05) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`n` pictures for the judge, with targets: `object` [N, 10] and `colour` [N, 5] in {0, 1}, `style`, `place` [N],
    `known` [N].

    A share `negatives` has its sprite left out; as many are shuffled to pieces (`known` is 0: only "no object" is true
    of them). Without them the judge would find an object in anything, and the concept rate of a broken model would be
    too high.
    """
    rng = np.random.default_rng(seed)
    scenes = sample_scenes(n, rng)
    fate = rng.random(n)
    empty, broken = fate < negatives, fate > 1 - negatives
    scenes = dataclasses.replace(
        scenes, object=np.where(empty, -1, scenes.object), object2=np.where(empty, -1, scenes.object2)
    )
    images = render(scenes)
    rows = np.flatnonzero(broken)
    for k, patch in enumerate((PATCH, 2 * PATCH)):
        images[rows[k::2]] = shuffled(images[rows[k::2]], rng, patch)
    target = {"style": scenes.style, "place": scenes.place, "known": (~broken).astype(np.float32)}
    for name, first, second in (("object", scenes.object, scenes.object2), ("colour", scenes.colour, scenes.colour2)):
        hot = np.zeros((n, len(GROUPS[name])), np.float32)
        for which, there in ((first, ~empty & ~broken), (second, (scenes.object2 >= 0) & ~broken)):
            hot[np.flatnonzero(there), which[there]] = 1
        target[name] = hot
    return images, target


def damage(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """What a picture tokenizer and a sampler do to pictures: shifts, blur, noise, brightness. float32 [N, 3, H, W] in
    [-1, 1], same out."""
    n, size = len(x), x.shape[-1]
    uniform = lambda low, high: low + (high - low) * torch.rand(n, 1, 1, 1, generator=rng)
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    shift = 2 + torch.randint(-2, 3, (2, n), generator=rng) * (torch.rand(n, generator=rng) < 0.5)
    row, column = (torch.arange(size)[None] + s[:, None] for s in shift)
    x = padded[torch.arange(n)[:, None, None], :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
    blur = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blur, uniform(-0.4, 0.9).clamp(min=0))
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0)
    x = torch.lerp(x, coarse, uniform(-1.0, 0.9).clamp(min=0))
    x = x * uniform(0.85, 1.15) + uniform(-0.1, 0.1)
    return x + torch.randn(x.shape, generator=rng) * uniform(-0.03, 0.12).clamp(min=0)


# ---------------------------------------------------------------- the judge


def build_judge():
    """An untrained judge: a `ResNetForImageClassification` of 0.9 M parameters, and its image processor."""
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    names = [f"{group}:{name}" for group, members in GROUPS.items() for name in members]
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 192],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    size = {"height": SIZE, "width": SIZE}
    return ResNetForImageClassification(config), ViTImageProcessor(size=size, image_mean=HALF, image_std=HALF)


def judge_loss(logits: torch.Tensor, target: dict[str, np.ndarray]) -> tuple[torch.Tensor, dict[str, float]]:
    """Binary cross entropy for objects and colours, cross entropy for style and place; what is unknown of a picture
    does not count."""
    truth = {name: torch.from_numpy(value) for name, value in target.items()}
    known = truth["known"]
    losses, numbers = [], {}
    for name, z in zip(GROUPS, logits.split(WIDTHS, 1)):
        if name in MULTI_LABEL:
            each = F.binary_cross_entropy_with_logits(z, truth[name], reduction="none").sum(1)
            right = (truth[name].gather(1, z.argmax(1, keepdim=True))[:, 0] > 0) & (z.amax(1) > 0)
        else:
            each = F.cross_entropy(z, truth[name], reduction="none")
            right = z.argmax(1) == truth[name]
        weight = torch.ones_like(known) if name == "object" else known
        losses.append((each * weight).sum() / weight.sum())
        there = known.bool() & (truth["object"].sum(1) > 0)
        numbers[name] = right[there].float().mean().item()
    return sum(losses), numbers


def train_judge(
    out: Path = ROOT / "data/mini/judge",
    run: Path = ROOT / "runs/mini/judge",
    steps: int = 1500,
    batch: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
) -> dict:
    """Train the judge, save it to `out` in half precision with its log and metrics, and return the metrics."""
    torch.manual_seed(seed)
    model, processor = build_judge()
    model.train()

    def loss_at(step):
        images, target = lesson(batch, [seed, 31, step])
        x = damage(to_pixels(images), torch.Generator().manual_seed(1_000_003 * seed + step))
        return judge_loss(model(x).logits, target)

    fit({"judge": model}, loss_at, folder=run, steps=steps, lr=lr, weight_decay=0.02, seed=seed)
    model.eval().half().save_pretrained(out)
    processor.save_pretrained(out)
    metrics = {
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "parameters": model.num_parameters(),
        **judge_metrics(out, seed),
    }
    return _finish(out, run, metrics)


@torch.no_grad()
def judge_metrics(folder: Path, seed: int = 0) -> dict:
    """Shares of right answers on held-out pictures with one object, of pairs with both found, and of false alarms on
    pictures without one."""
    from transformers import ResNetForImageClassification

    model = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ask = lambda images: [
        torch.cat(z)
        for z in zip(*(model(to_pixels(part)).logits.split(WIDTHS, 1) for part in np.array_split(images, 20)))
    ]
    scenes = sample_scenes(HELD_OUT, [seed, 97])
    obj, colour, style, place = ask(render(scenes))
    one, truth = torch.from_numpy(scenes.object2 < 0), dataclasses.asdict(scenes)
    sure = lambda z, name: (z.argmax(1) == torch.from_numpy(truth[name])) & (z.amax(1) > 0)
    both = (obj.gather(1, torch.from_numpy(np.stack([scenes.object, np.maximum(scenes.object2, 0)], 1))) > 0).all(1)
    blank = render(dataclasses.replace(scenes, object=np.full(HELD_OUT, -1), object2=np.full(HELD_OUT, -1)))
    broken = shuffled(render(scenes), np.random.default_rng([seed, 96]), PATCH)
    share = lambda right: round(right.float().mean().item(), 5)
    return {
        "held_out": HELD_OUT,
        "object": share(sure(obj, "object")[one]),
        "colour": share(sure(colour, "colour")[one]),
        "style": share(style.argmax(1) == torch.from_numpy(scenes.style)),
        "place": share(place.argmax(1) == torch.from_numpy(scenes.place)),
        "pair_both_found": share(both[~one]),
        "false_alarm_empty": share(ask(blank)[0].amax(1) > 0),
        "false_alarm_shuffled": share(ask(broken)[0].amax(1) > 0),
    }


# ---------------------------------------------------------------- the tiny CLIP


def train_clip(
    out: Path = ROOT / "data/mini/clip",
    run: Path = ROOT / "runs/mini/clip",
    steps: int = 900,
    batch: int = 96,
    lr: float = 2e-3,
    seed: int = 0,
) -> dict:
    """Train a tiny open_clip model on pictures and captions, save it to `out` for `local-dir:` loading, and return its
    metrics."""
    from open_clip.model import CLIP
    from open_clip.tokenizer import SimpleTokenizer
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = CLIP(**CLIP_CONFIG).train()
    tokenize = SimpleTokenizer(context_length=CLIP_CONFIG["text_cfg"]["context_length"])

    def loss_at(step):
        scenes = sample_scenes(batch, [seed, 41, step])
        x = damage(to_pixels(render(scenes)), torch.Generator().manual_seed(1_000_003 * seed + step))
        image_NE, text_NE, scale = model(x, tokenize(describe(scenes, [seed, 42, step])))
        logits_NN = scale.clamp(max=100) * image_NE @ text_NE.T
        own = torch.arange(batch)
        loss = (F.cross_entropy(logits_NN, own) + F.cross_entropy(logits_NN.T, own)) / 2
        return loss, {"right": (logits_NN.argmax(1) == own).float().mean().item(), "scale": scale.item()}

    fit({"clip": model}, loss_at, folder=run, steps=steps, lr=lr, weight_decay=0.02, seed=seed)
    with (
        torch.no_grad()
    ):  # most of the 49,408 words never occur: zeroed, they say nothing and take no space in a repository
        seen = tokenize([*vocabulary(), *describe(sample_scenes(4000, [seed, 43]), [seed, 43])]).unique()
        unseen = torch.ones(len(model.token_embedding.weight), dtype=torch.bool)
        unseen[seen] = False
        model.token_embedding.weight[unseen] = 0
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in model.eval().state_dict().items()}, out / "open_clip_model.safetensors"
    )
    look = {"mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "squash"}
    write_json(out / "open_clip_config.json", {"model_cfg": CLIP_CONFIG, "preprocess_cfg": look})
    metrics = {
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        **clip_metrics(out, seed),
    }
    return _finish(out, run, metrics)


@torch.no_grad()
def clip_metrics(folder: Path, seed: int = 0) -> dict:
    """How often a held-out picture's own caption is the best among 64, and mean cosines of own and of other
    captions."""
    import open_clip

    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}", precision="fp32")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    scenes = sample_scenes(HELD_OUT - HELD_OUT % 64, [seed, 97])
    image_NE = torch.cat([model.encode_image(part, normalize=True) for part in to_pixels(render(scenes)).split(124)])
    text_NE = torch.cat(
        [model.encode_text(part, normalize=True) for part in tokenize(describe(scenes, [seed, 98])).split(124)]
    )
    cosine = image_NE.view(-1, 64, image_NE.shape[1]) @ text_NE.view(-1, 64, image_NE.shape[1]).transpose(
        1, 2
    )  # [groups, 64, 64]
    own = cosine.diagonal(dim1=1, dim2=2)
    share = lambda value: round(value.float().mean().item(), 5)
    return {
        "held_out": len(scenes),
        "own_caption_of_64": share(cosine.argmax(2) == torch.arange(64)),
        "own_cosine": share(own),
        "other_cosine": round((cosine.sum() - own.sum()).item() / (cosine.numel() - own.numel()), 5),
    }


def _finish(out: Path, run: Path, metrics: dict) -> dict:
    shutil.copyfile(run / "log.jsonl", out / "train_log.jsonl")
    write_json(out / "metrics.json", metrics)
    print(json.dumps(metrics, indent=2), flush=True)
    return metrics
