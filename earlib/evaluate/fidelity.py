"""FID and KID through torch-fidelity, on a judge's features: how far a set of pictures is from another.

With few pictures FID is biased upwards (and its covariances are rank-deficient below as many pictures as features); KID is unbiased at any size.
Compare FIDs only at equal numbers, and read KID first. KID supposes that the two sets were drawn independently: of a set with itself, or with
the same seeds drawn by a slightly changed model, it comes out below 0.
"""

from __future__ import annotations

import numpy as np

from ..errors import UserError
from .judges import check_images

KID_SUBSETS = 100
LEAST = 8  # pictures a side; below, the numbers mean nothing


def distances(images: np.ndarray, reference: np.ndarray, judge) -> dict[str, float]:
    """Distance of `images` from `reference`, both uint8 [N, H, W, 3], in `judge.features`.

    Returns `fid`, `kid`, `kid_low`, `kid_high` (95 %). KID is averaged over random halves of the pictures: the spread over
    halves drawn without replacement estimates the standard error of the whole (a delete-half jackknife), hence the interval.
    """
    import torch
    from torch.utils.data import Dataset
    from torch_fidelity import calculate_metrics

    for what, pictures in (("pictures", images), ("reference pictures", reference)):
        if len(check_images(pictures)) < LEAST:
            raise UserError(f"FID and KID need at least {LEAST} {what}; got {len(pictures)}")

    class Pictures(Dataset):  # torch-fidelity wants one uint8 CHW tensor an item
        def __init__(self, array):
            self.tensor = torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()

        def __len__(self):
            return len(self.tensor)

        def __getitem__(self, i):
            return self.tensor[i]

    found = calculate_metrics(
        input1=Pictures(images),
        input2=Pictures(reference),
        feature_extractor=_register(judge),
        fid=True,
        kid=True,
        kid_subsets=KID_SUBSETS,
        kid_subset_size=min(len(images), len(reference), 2000) // 2,
        batch_size=256,
        cuda=False,  # the judge decides where it runs
        cache=False,  # torch-fidelity's cache goes by name, not by content
        save_cpu_ram=True,  # no worker processes
        verbose=False,
    )
    kid, spread = found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]
    return {"fid": found["frechet_inception_distance"], "kid": kid, "kid_low": kid - 1.96 * spread, "kid_high": kid + 1.96 * spread}


def _register(judge) -> str:
    """Make `judge.features` known to torch-fidelity and return the name it goes by; a second call for the same judge finds it there."""
    import torch
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    if not hasattr(judge, "features"):
        raise UserError(f"judge '{judge.name}' has no features to compute FID and KID on; use MiniWorld's judge")
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
