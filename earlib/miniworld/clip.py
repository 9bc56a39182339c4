"""The tiny CLIP of MiniWorld, an open_clip model that learns which caption belongs to which picture."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from ..runs import write_json
from .captions import describe, vocabulary
from .damage import damage
from .fit import fit
from .scenes import SIZE, render, sample_scenes
from .tokenizer import to_pixels

CLIP_CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIZE, "patch_size": 8, "layers": 4, "width": 96, "head_width": 32},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
HALF = [0.5, 0.5, 0.5]


def train_clip(
    out: Path, state: Path, steps: int = 1500, batch: int = 96, lr: float = 2e-3, seed: int = 0, groups: int = 31
) -> dict:
    """Train it, save it to `out` for open_clip's `local-dir:`; return its metrics on `groups` times 64 other
    pictures."""
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

    options = dict(steps=steps, lr=lr, seed=seed, weight_decay=0.02)
    fit({"clip": model}, loss_at, folder=state, **options)
    # most of the 49,408 words never occur: zeroed, they say nothing and take no space in a repository
    seen = tokenize([*vocabulary(), *describe(sample_scenes(4000, [seed, 43]), [seed, 43])]).unique()
    unseen = torch.ones(len(model.token_embedding.weight), dtype=torch.bool)
    unseen[seen] = False
    with torch.no_grad():
        model.token_embedding.weight[unseen] = 0
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half().contiguous() for name, tensor in model.eval().state_dict().items()}
    save_file(weights, out / "open_clip_model.safetensors")
    look = {"mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "squash"}
    write_json(out / "open_clip_config.json", {"model_cfg": CLIP_CONFIG, "preprocess_cfg": look})
    metrics = {**options, "batch": batch, **clip_metrics(model, tokenize, groups, seed)}
    write_json(out / "metrics.json", metrics)
    return metrics


@torch.no_grad()
def clip_metrics(model, tokenize, groups: int, seed: int = 0) -> dict:
    """How often a held-out picture's own caption is the best among 64, and mean cosines of own and of other
    captions."""
    scenes = sample_scenes(64 * groups, [seed, 97])
    images, texts = to_pixels(render(scenes)), tokenize(describe(scenes, [seed, 98]))
    image_NE = torch.cat([model.encode_image(part, normalize=True) for part in images.split(64)])
    text_NE = torch.cat([model.encode_text(part, normalize=True) for part in texts.split(64)])
    grouped = lambda x: x.view(groups, 64, -1)
    cosine = grouped(image_NE) @ grouped(text_NE).transpose(1, 2)  # [groups, 64, 64]
    own = cosine.diagonal(dim1=1, dim2=2)
    others = (cosine.sum() - own.sum()).item() / (cosine.numel() - own.numel())
    right = (cosine.argmax(2) == torch.arange(64)).float().mean().item()
    return {
        "own_caption_of_64": round(right, 5),
        "own_cosine": round(own.mean().item(), 5),
        "other_cosine": round(others, 5),
    }
