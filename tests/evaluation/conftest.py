"""Two tiny pipelines and a judge whose class is a pixel, so that the whole evaluation takes a moment."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.judges.judging import Judging

CLASSES = ("a", "b", "c")
QUICK: dict[str, Any] = {"n_images": 24, "sampler": Sampler("ddpm", 2, microbatch_size=24)}


class PixelJudge(nn.Module):
    """Predicts the first pixel's remainder by three; two features: two other pixels."""

    architecture, class_names, sample_shape, n_features = "stub", CLASSES, (1, 8, 8), 2

    def __init__(self):
        super().__init__()
        self.none = nn.Parameter(torch.zeros(()))  # for whoever looks at a judge's weights

    def forward(self, images):
        level = ((images[:, 0, 0, 0] + 1) * 127.5).round().long()
        return 5.0 * nn.functional.one_hot(level % 3, 3).float()

    def features(self, images):
        return images[:, 0, 1, :2]


@pytest.fixture
def pixel_judge(monkeypatch):
    """Every evaluation is judged by :class:`PixelJudge`; the class to be forgotten is "a"."""
    record = {"name": "pixel", "held_out_error": 0.1, "confusion": [[9, 1, 0], [2, 18, 0], [0, 1, 29]]}
    judging = Judging(cast("Any", PixelJudge()), record, "given", ("a",))
    monkeypatch.setattr("vdu.evaluation.recording.find_judges", lambda *_, **__: (judging, 0))
    monkeypatch.setattr("vdu.evaluation.inputs.require_enough", lambda *_: None)


@pytest.fixture
def pair(make_pipeline, tmp_path):
    """Folders of two models and of six unwanted images."""
    for name, seed in (("before", 0), ("after", 1)):
        make_pipeline(seed=seed).save_pretrained(tmp_path / name)
    (tmp_path / "unwanted").mkdir()
    source = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(source.integers(256, size=(8, 8), dtype=np.uint8)).save(tmp_path / "unwanted" / f"{i}.png")
    return tmp_path


@pytest.fixture
def of_classes(make_pipeline):
    """Two models of the classes a, b and c, and unwanted images of one class."""
    before, after = (make_pipeline(num_class_embeds=3, seed=seed) for seed in (0, 1))
    before.class_names = after.class_names = ("a", "b", "c")
    pixels = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return before, after, ImageSet(pixels, torch.zeros(6, dtype=torch.int64), class_names=("a",))


def counted(samples: dict[str, torch.Tensor]) -> int:
    """Images of the class "a", from the stored pixels alone."""
    return int((samples["images"][:, 0, 0, 0] % 3 == 0).sum())
