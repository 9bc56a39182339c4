"""FID, KID, precision and recall through torch-fidelity: how far a set of pictures is from another, and which of the
two is the narrower.

The features are a judge's own (MiniWorld's, on mini) or Inception's, when its weights are there. With few pictures FID
is biased upwards (and its covariances are rank-deficient below as many pictures as features: 2,048 for Inception); KID
is unbiased at any size. Compare FIDs only at equal numbers, and read KID first. KID supposes that the two sets were
drawn independently: of a set with itself, or with the same seeds drawn by a slightly changed model, it comes out below
0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .judge import Judge, check_images, file_version
from .rate import Estimate, Z

KID_SUBSETS = 100
LEAST = 8  # pictures a side; below, the numbers mean nothing
FEW = 2048  # below so many pictures KID is named before FID
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # the name ends with the file's own hash
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"


class Inception:
    """Features of the Inception network of the FID paper, as torch-fidelity computes them. Give it in a judge's place
    to `distances`."""

    name, extractor, layers = "inception", "inception-v3-compat", "2048"

    def __init__(self, weights: str | Path | None = None):
        import torch

        self.weights = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
        if not self.weights.is_file():
            raise UserError(f"no Inception weights at {self.weights}; download {INCEPTION_URL} to there")
        self.version = file_version(self.weights)
        if self.version not in INCEPTION:  # torch-fidelity unpickles whatever it is given
            what = f"is not the file that FID is defined by (hash {self.version})"
            raise UserError(f"{self.weights}: {what}; download {INCEPTION_URL} to there")


def features_of(judge: Judge | Inception) -> str:
    """Whose features: the text that stands in every record of a distance."""
    return f"{judge.name.split()[0]} features {judge.version}"


def distances(images: np.ndarray, reference: np.ndarray, judge: Judge | Inception) -> dict[str, Estimate]:
    """How far `images` are from `reference`.

    Args:
        images, reference: uint8 [N, H, W, 3], real pictures as reference.
        judge: whose features: a judge that has `features`, or `Inception()`.

    Returns:
        dict: `kid`, `fid`, `precision` and `recall` (Kynkäänniemi et al. 2019, 3 neighbours: the share of pictures that
        lie among the reference, and the reverse); FID before KID from 2,048 pictures a side on. KID alone has an
        interval: it is averaged over random halves of the pictures, and the spread over halves drawn without
        replacement estimates the standard error of the whole (a delete-half jackknife).

    Raises:
        UserError: fewer than 8 pictures, or no features.
    """
    import torch
    from torch.utils.data import Dataset
    from torch_fidelity import calculate_metrics

    for what, pictures in (("pictures", images), ("reference pictures", reference)):
        if len(check_images(pictures)) < LEAST:
            raise UserError(f"FID, KID, precision and recall need at least {LEAST} {what}; got {len(pictures)}")

    class Pictures(Dataset):  # torch-fidelity wants one uint8 CHW tensor an item
        def __init__(self, array):
            self.tensor = torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2).contiguous()

        def __len__(self):
            return len(self.tensor)

        def __getitem__(self, i):
            return self.tensor[i]

    few = min(len(images), len(reference))
    if inception := isinstance(judge, Inception):
        whose = {"feature_extractor": judge.extractor, "feature_layer_prc": judge.layers}
        whose["feature_extractor_weights_path"] = str(judge.weights)
    else:
        whose = {"feature_extractor": _register(judge)}
    found = calculate_metrics(
        input1=Pictures(images),
        input2=Pictures(reference),
        **whose,
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=KID_SUBSETS,
        kid_subset_size=min(few, 2000) // 2,
        batch_size=32 if inception else 256,
        cuda=inception and torch.cuda.is_available(),  # a judge decides for itself where it runs
        cache=False,  # torch-fidelity's cache goes by name, not by content
        save_cpu_ram=True,  # no worker processes
        verbose=False,
    )
    kid, spread = found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]
    n = len(images)
    first = {"kid": Estimate(kid, n, kid - Z * spread, kid + Z * spread)}
    second = {"fid": Estimate(found["frechet_inception_distance"], n)}
    if few >= FEW:
        first, second = second, first
    return first | second | {name: Estimate(found[name], n) for name in ("precision", "recall")}


def _register(judge: Any) -> str:
    """Make `judge.features` known to torch-fidelity and return the name it goes by; a second call for the same judge
    finds it there."""
    import torch
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    if not hasattr(judge, "features"):
        how = "use MiniWorld's judge or fidelity.Inception()"
        raise UserError(f"judge '{judge.name}' has no features to compute FID and KID on; {how}")
    name = f"earlib-{judge.name.split()[0]}-{judge.version}"
    if name in FEATURE_EXTRACTORS_REGISTRY:
        return name

    class JudgeFeatures(FeatureExtractorBase):
        def __init__(self, name, features_list, **_):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return ("pooled",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "pooled"

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, images_B3HW):
            return (torch.from_numpy(judge.features(images_B3HW.permute(0, 2, 3, 1).contiguous().numpy())).double(),)

    register_feature_extractor(name, JudgeFeatures)
    return name
