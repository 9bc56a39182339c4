"""SPM on Janus, the poster's first two figures with numbers: which loss, in which part of the layers, and whether the
place or the size of a change harms.

The runs are the tables `spm-loss` and `spm-place` (`table.py`); what is general about tables and figures of sweeps is
in `ablations.py` and `ablation_figures.py`. Measured live are gradients of membranes on the vision tower, and what
single membranes do to what passes through them. Membranes themselves are made in `erasure/trainable.py`; surrogates and
anchors, the poster's third figure, are in `surrogate.py`.
"""

from __future__ import annotations

from types import SimpleNamespace

from ..sweeps.legacy import KINDS, difference, percent, told

LOSSES = {"mse": "MSE", "kl": "KL", "reverse-kl": "reverse KL"}  # a recipe's divergence -> how it is called
PLACES = {
    "attention": "attention",
    "mlp": "MLP",
    "both": "attention + MLP",
}  # a recipe's modules -> how they are called
SEVEN = {"modules": "both", "mlp_layers": "0,0.2334"}  # the poster's "7 MLP modules" as the first 7 of 30 blocks
NOTICED = 10.0  # how large an erasing signal on the vision tower is made, so that captions feel it
EYES = ("q_proj", "k_proj", "v_proj", "projection_layer")  # the matrices of the vision tower's attention


# ---------------------------------------------------------------- loss and place


def panels(frame) -> dict:
    """Rows of `spm-loss` for `ablation_figures.lines`: "KL, attention" -> those with that loss in that place, and the
    base model's."""
    import pandas as pd

    base, found = frame[frame.recipe.isna()], {}
    for loss, words in LOSSES.items():
        for place in PLACES.values():
            found[f"{words}, {place}"] = pd.concat([base, frame[(frame.label == place) & (frame.divergence == loss)]])
    return found


def margin(row) -> dict:
    """How far the neighbours' rate stands above the concept's, {"value", "low", "high"}: 1 where all of them are drawn
    and the concept never.

    One number for a trade has weights of its own; here a point of the one counts as a point of the other. The interval
    is Newcombe's, as everywhere.
    """
    value = row["neighbours"] - row["direct"]
    low = value - ((row["neighbours"] - row["neighbours_low"]) ** 2 + (row["direct_high"] - row["direct"]) ** 2) ** 0.5
    high = value + ((row["neighbours_high"] - row["neighbours"]) ** 2 + (row["direct"] - row["direct_low"]) ** 2) ** 0.5
    return {"value": value, "low": low, "high": high}


def points(found: dict) -> str:
    """`+62 [+49, +71]`, of what `margin` and `ahead` give."""
    return f"{100 * found['value']:+.0f} [{100 * found['low']:+.0f}, {100 * found['high']:+.0f}]"


def ahead(one, other) -> dict:
    """How far `other`'s margin is above `one`'s, {"value", "low", "high"}: the difference of two `margin`s, by the same
    rule."""
    a, b = margin(one), margin(other)
    value = b["value"] - a["value"]
    low = value - ((b["value"] - b["low"]) ** 2 + (a["high"] - a["value"]) ** 2) ** 0.5
    return {
        "value": value,
        "low": low,
        "high": value + ((b["high"] - b["value"]) ** 2 + (a["value"] - a["low"]) ** 2) ** 0.5,
    }


def peaks(frame, loss: str = "kl", place: str = "attention"):
    """Each loss and place at the snapshot where its margin is greatest, the greatest first, as a DataFrame; `loss` on
    `place` is what they are held against.

    A snapshot that was picked for its rates looks better than it is; all are picked alike, so that they can be
    compared.
    """
    import pandas as pd

    found: dict[tuple, dict] = {}
    for row in frame[frame.recipe.notna() & frame.direct.notna()].to_dict("records"):
        key = row["label"], row["divergence"]
        if key not in found or margin(row)["value"] > margin(found[key])["value"]:
            found[key] = row
    reference, rows = found[place, loss], {}
    for row in sorted(found.values(), key=lambda r: -margin(r)["value"]):
        rows[row["label"], LOSSES[row["divergence"]]] = {
            "passes": f"{row['passes']:g}",
            "the concept": percent(row, "direct"),
            "its neighbours": percent(row, "neighbours"),
            "CLIP": f"{row['clip']:.2f}",
            "KL drift": f"{row['kl_drift']:.2f}",
            "margin": points(margin(row)),
            f"against {LOSSES[loss]} on {place}": "" if row is reference else points(ahead(reference, row)),
        }
    return pd.DataFrame(rows).T.rename_axis(["membranes on", "loss"])


# ---------------------------------------------------------------- place or size


def at_rates(frame):
    """The runs as trained beside the one on attention at the same learning rate, as a DataFrame: sizes, drifts, and
    differences of rates."""
    import pandas as pd

    rows = {}
    for lr, trained in frame[(frame["erasure.strength"] == 1) & frame.direct.notna()].groupby("lr"):
        of = trained.set_index("modules").to_dict("index")
        for place in [place for place in PLACES if place in of]:
            row = {
                "size": f"{of[place]['change_size']:.1f}",
                "KL drift": f"{of[place]['kl_drift']:.2f}",
                "CLIP": f"{of[place]['clip']:.2f}",
            }
            row |= {words: percent(of[place], kind) for kind, words in KINDS.items()}
            if place != "attention" and "attention" in of:
                row |= {
                    f"{words}, against attention": told(of["attention"], of[place], kind)
                    for kind, words in KINDS.items()
                }
            rows[f"{lr:g}", PLACES[place]] = row
    return pd.DataFrame(rows).T.fillna("").rename_axis(["learning rate", "membranes on"])


def spared(frame, most: float = 0.1):
    """Of each place the run that keeps most neighbours among those that leave the concept in at most `most` of its
    pictures, as a DataFrame."""
    import pandas as pd

    rows, reference = {}, None
    for place, words in PLACES.items():
        erased = frame[(frame.modules == place) & (frame.direct <= most)]
        if len(erased):
            row = erased.loc[erased.neighbours.idxmax()]
            reference = row if place == "attention" else reference
            rows[words] = {
                "run": _run(row),
                "size": f"{row.change_size:.1f}",
                "KL drift": f"{row.kl_drift:.2f}",
                "CLIP": f"{row['clip']:.2f}",
            }
            rows[words] |= {kind: percent(row, column) for column, kind in KINDS.items()}
            rows[words]["its neighbours, against attention"] = (
                "" if reference is None or row is reference else told(reference, row, "neighbours")
            )
    return pd.DataFrame(rows).T.rename_axis("membranes on")


def _run(row) -> str:
    return f"{row['lr']:g} × {row['erasure.strength']:g}"


def matched(frame, one: str, other: str, by: str = "change_size") -> list[tuple[dict, dict]]:
    """Each run with membranes on `one` (a recipe's modules) beside what `other` would give at the same `by` and
    strength, where its runs reach that far.

    That is read off the line through the runs of `other` over the logarithm of `by`: between two runs their rates, the
    ends of their intervals (which are wider than those of a mean of two) and each seed's rates are taken in proportion.
    """
    import numpy as np

    columns, pairs = (
        [f"{kind}{end}" for kind in KINDS for end in ("", "_low", "_high")] + ["change_size", "kl_drift"],
        [],
    )
    for _, alike in frame[frame.direct.notna() & (frame[by] > 0)].groupby("erasure.strength", sort=False):
        first, second = (alike[alike.modules == place].sort_values(by) for place in (one, other))
        for row in first[first[by].between(second[by].min(), second[by].max())].to_dict("records"):
            between = lambda values, dose=row[by], second=second: float(
                np.interp(np.log(dose), np.log(second[by].to_numpy(float)), np.asarray(values, float))
            )
            found = {"modules": other} | {column: between(second[column]) for column in columns}
            for kind in (f"{kind}_seeds" for kind in KINDS):
                shared = set.intersection(*map(set, second[kind]))
                found[kind] = {seed: between([seeds[seed] for seeds in second[kind]]) for seed in sorted(shared)}
            pairs.append((row, found))
    return pairs


def beside(pairs: list[tuple[dict, dict]], by: str = "change_size"):
    """What `matched` found as a DataFrame: a row for each run, called by its learning rate and strength."""
    import pandas as pd

    rows = []
    for first, second in pairs:
        row = {"run": _run(first), "size" if by == "change_size" else "KL drift": f"{first[by]:.2g}"}
        for kind, words in KINDS.items():
            row |= {
                words: f"{percent(first, kind)} → {percent(second, kind)}",
                f"{words}, difference": told(first, second, kind),
            }
        more = "kl_drift" if by == "change_size" else "change_size"
        rows.append(row | {"KL drift" if by == "change_size" else "size": f"{first[more]:.2g} → {second[more]:.2g}"})
    return pd.DataFrame(rows)


def verdicts(pairs: list[tuple[dict, dict]], kind: str = "neighbours") -> dict[str, int]:
    """Of what `matched` found, in how many the second's rate is "lower", "higher", or "cannot be told"."""
    found = {"lower": 0, "higher": 0, "cannot be told": 0}
    for first, second in pairs:
        d = difference(first, second, kind)
        found["lower" if d["high"] < 0 else "higher" if d["low"] > 0 else "cannot be told"] += 1
    return found


def places(frame) -> dict:
    """Rows of `spm-place` by place, each with the base model's, for `ablation_figures.doses` and `plane`."""
    return {words: frame[frame.recipe.isna() | (frame.modules == place)] for place, words in PLACES.items()}


# ---------------------------------------------------------------- measured live


def counts():
    """What the poster's placements train on the true shapes, as a DataFrame; arithmetic on the sizes, nothing is
    loaded."""
    import pandas as pd

    from ..erasure.presets import recipe
    from ..erasure.room import trained_parameters
    from ..memory import KNOWN

    rows, places = {}, {words: {"modules": place} for place, words in PLACES.items()} | {"attention + 7 MLPs": SEVEN}
    for profile, sizes in KNOWN.items():
        for words, settings in places.items():
            n = trained_parameters(sizes, recipe("spm", **settings))
            rows[profile, words] = {
                "parameters": f"{n:,}",
                "of the model": f"{n / sizes.draw_parameters:.4%}",
                "MB in bfloat16": f"{2 * n / 1e6:.1f}",
            }
    return pd.DataFrame(rows).T.rename_axis(["model", "membranes on"])


def tower(generator, concept, recipe, pictures: int = 8, seed: int = 0):
    """(gradients of the training loss, as a DataFrame with a row for each place; what membranes on the vision tower
    change, counts of `pictures`).

    All attention matrices of the tower get a membrane, as the language model's do, and both are switched on while the
    loss of the first lesson is computed. The tower's have numbers in them (a fresh membrane changes nothing anywhere).
    For a Janus that was loaded with its vision tower.
    """
    import pandas as pd
    import torch

    from ..erasure.change import applied, student_parameters, tensor_names
    from ..erasure.lessons import lessons
    from ..generators import draw

    eyes_home = SimpleNamespace(trunk=generator.model.model.vision_model)  # what `applied` asks of a generator
    names = [
        f"{name}.weight"
        for name, module in eyes_home.trunk.named_modules()
        if name.endswith(EYES) and isinstance(module, torch.nn.Linear)
    ]
    eyes = student_parameters(eyes_home.trunk, names, rank=1, seed=seed)
    chance = torch.Generator().manual_seed(seed)
    for name, p in eyes.items():
        if ".lora_B." in name:
            p.data.copy_(NOTICED * torch.randn(p.shape, generator=chance))
    names = tensor_names(recipe, len(generator.decoder_layers))
    mind = student_parameters(generator.trunk, names, rank=1, seed=seed)
    [first, *_] = lessons(generator, concept.pairs[: recipe.batch], recipe, seed)
    with applied(eyes_home, eyes), applied(generator, mind):
        loss = first(lambda: applied(generator, mind)).losses(0, generator.num_codes).sum()
        gradients = torch.autograd.grad(loss, [*eyes.values(), *mind.values()], materialize_grads=True)
    rows = {}
    for words, part in {"vision tower": gradients[: len(eyes)], "language model": gradients[len(eyes) :]}.items():
        norm = sum(g.double().square().sum() for g in part).sqrt().item()
        rows[words] = {
            "membranes": len(part) // 2,
            "parameters": sum(g.numel() for g in part),
            "norm of the gradient": norm,
        }
    prompts = list(concept.tests["direct"][:pictures])
    before = draw(generator, prompts, seed=seed, progress=False)
    captions = generator.caption(before)
    with torch.no_grad(), applied(eyes_home, eyes):
        after, told_now = draw(generator, prompts, seed=seed, progress=False), generator.caption(before)
    changed = {
        "pictures": int((before != after).any((1, 2, 3)).sum()),
        "captions": sum(a != b for a, b in zip(captions, told_now)),
        "n": len(prompts),
    }
    return pd.DataFrame(rows).T.rename_axis("membranes on"), changed


def staying(generator, concept, erasures: dict, each: int = 4, seed: int = 0):
    """What stays of the pictures of a concept's neighbours, as a DataFrame: a row for each of `erasures` (title ->
    erasure), `each` prompts of each neighbour.

    Columns are what MiniWorld's classifier looks for: the share of pictures whose likeliest object, colour, style and
    place are those of the base model's picture with the same noise. The last row is the base model with other noise:
    prompts that leave a thing open agree on it no better than that.
    """
    import pandas as pd

    from ..evaluate.judges import load_judge
    from ..evaluate.rate import Rate
    from ..generators import draw

    judge = load_judge(concept.judge)
    prompts = [prompt for group in concept.neighbours.values() for prompt in group[:each]]
    looks = lambda **how: {
        group: p.argmax(1) for group, p in judge.probabilities(draw(generator, prompts, progress=False, **how)).items()
    }
    base, rows = looks(seed=seed), {}
    found = {title: looks(seed=seed, erasure=erasure) for title, erasure in erasures.items()} | {
        "before, other noise": looks(seed=seed + 1)
    }
    for title, seen in found.items():
        same = {group: Rate.of(seen[group] == base[group]).flat() for group in base}
        rows[title] = {
            group: f"{100 * r['value']:.0f} [{100 * r['low']:.0f}, {100 * r['high']:.0f}]" for group, r in same.items()
        } | {"n": f"{len(prompts)}"}
    return pd.DataFrame(rows).T.rename_axis("per cent the same")


def passing(generator, erasure, prompts: list[str], tokens_BT):
    """What passes through each membrane of `erasure`, along pictures of the prompts: a DataFrame with a row for each
    module, its `layer` and `part`, and

        input    root mean square of what the matrix reads, over positions and width
        step     what the first step of Adam changes about its output at learning rate 1, as a share of it: |dB A x| /
                 |W x|, where all of dB are +-1
        change   what the trained membrane changes about it: |B A x| / |W x|

    |.| is the root mean square over all positions, of the prompts and of `tokens_BT` [B, T] but the last, read by the
    base model; A in `step` is a fresh one.
    """
    import pandas as pd
    import torch

    from ..erasure.closed_form import reads

    modules = list(dict.fromkeys(name.rpartition(".lora_")[0] for name in erasure.tensors))
    batch, rows = generator.encode(list(prompts)), []
    keep_BS = torch.nn.functional.pad(batch.mask_BP.bool(), (0, tokens_BT.shape[1] - 1), value=True)
    with torch.no_grad():
        states = reads(generator, modules, batch, tokens_BT=tokens_BT.to(generator.device))
        for module in modules:
            x_ND, weight = states[module][keep_BS].float(), generator.trunk.get_submodule(module).weight.float()
            a, b = (erasure.tensors[f"{module}.lora_{side}.weight"].to(x_ND) for side in "AB")
            length = lambda y: y.square().sum(-1).mean().sqrt().item()
            out, wide = weight.shape
            _, layer, _, part = module.split(".")
            fresh = (
                length(x_ND) / (3 * wide) ** 0.5
            )  # |A x| of a fresh A, whose entries are uniform within 1 / sqrt(wide), on average
            own = length(x_ND @ weight.T)
            row = {"layer": int(layer), "part": part.removesuffix("_proj"), "input": length(x_ND) / wide**0.5}
            rows.append(
                row | {"step": out**0.5 * fresh / own, "change": erasure.strength * length(x_ND @ a.T @ b.T) / own}
            )
    return pd.DataFrame(rows)


def through(frame):
    """`passing` over the layers, a line for each kind of matrix: attention's in one colour, the MLPs' in another.
    Returns the figure."""
    import matplotlib.pyplot as plt

    from ..plots.figures import PALETTE

    words = {
        "input": "input (root mean square)",
        "step": "one step at rate 1, of the output",
        "change": "the trained change, of the output",
    }
    fig, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    for axis, (column, title) in zip(axes, words.items()):
        for part, marker in zip(("q", "k", "v", "o", "gate", "up", "down"), "osv^DP*"):
            rows = frame[frame.part == part].groupby("layer")[column].mean()
            axis.plot(
                rows.index, rows, marker=marker, markersize=5, linewidth=1.4, color=PALETTE[len(part) > 1], label=part
            )
        axis.set(title=title, xlabel="layer", ylim=(0, None))
    found = dict(zip(*reversed(axes[0].get_legend_handles_labels())))
    fig.legend(found.values(), found.keys(), loc="outside upper center", ncols=7, fontsize=8)
    return fig
