"""What the paper says of its three concepts: settings and numbers, as they stand in the concept files."""

from __future__ import annotations

_SOURCE = "EAR, arXiv 2506.20151, and github.com/immc-lab/ear; window curves read from the figures in the repository"
_COMMON = {
    "model": "Janus-Pro-7B",
    "source": _SOURCE,
    "image_tokens": 576,
    "pairs": 50,
    "threshold": 0.05,
    "learning_rate": 1e-4,
    "eta": 1,
    "guidance": 5,
    "layers": [0, 1, 2, 3, 4],
}
PAPER = {  # window_curve: accuracy of the concept on the test set after erasing, for each window length (of 576 tokens)
    "church": {
        **_COMMON,
        "window": 48,
        "window_curve": {"12": 0.17, "24": 0.15, "48": 0.11, "100": 0.45, "256": 0.51},
        "concept_rate": {"base": None, "erased": 0.11},
        "test_prompts": 84,
        "judge": "torchvision ResNet-50 IMAGENET1K_V2, top-1 is church",
    },
    "nudity": {
        **_COMMON,
        "window": 100,
        "window_curve": {"12": 0.28, "24": 0.28, "48": 0.26, "100": 0.25, "256": 0.41},
        "concept_rate": {"base": None, "erased": 0.25},
        "test_prompts": 1539,
        "judge": "NudeNet v3, 9 labels, no score threshold",
        "detections": {"base": 1794, "windows only": 1701, "erased": 605},
    },
    "vangogh": {
        **_COMMON,
        "window": 24,
        "window_curve": {"12": 0.065, "24": 0.058, "48": 0.09, "100": 0.46, "256": 0.57},
        "concept_rate": {"base": None, "erased": 0.058},
        "test_prompts": 50,
        "judge": "UnlearnDiffAtk style classifier (checkpoint-2800), top-1",
    },
}
NOT_IN_PAPER = {
    **_COMMON,
    "window": None,
    "window_curve": None,
    "concept_rate": None,
    "note": "not erased in the paper: the settings common to its three",
}
