"""Arguments of the wrong kind, in Python: refused in our words before any work, and never with the object itself in the message."""

import copy
import math

import numpy as np
import pytest
import torch

import vdu
from vdu.core.errors import InputError
from vdu.core.surroundings import own_torch
from vdu.metrics.pul import PULResult
from vdu.models.lora import lora_rank

WRONG = {
    "None": None, "text": "secret" * 100, "list": ["secret", object()], "number": 3.7, "switch": True, "array": np.zeros((2, 2, 2)),
    "complex": torch.zeros(4, 3, dtype=torch.complex64), "meta": torch.zeros(4, 3, device="meta"), "mapping": {"secret": 1},
    "class": torch.nn.Module, "object": object(),
}  # fmt: skip
FEATURES, MASK, CLASSES = (
    torch.randn(40, 3, generator=torch.Generator().manual_seed(0)),
    torch.arange(40) < 9,
    torch.arange(40) % 3,
)
IMAGES = torch.zeros(2, 1, 8, 8)


def seeded():
    return torch.Generator().manual_seed(0)


def features_of(x):
    return x.flatten(1)


METRICS = {
    "percentage_unlearned": lambda x: vdu.metrics.percentage_unlearned(x, MASK, generator=seeded()),
    "its generator": lambda x: vdu.metrics.percentage_unlearned(MASK, MASK, generator=x),
    "its resamples": lambda x: vdu.metrics.percentage_unlearned(MASK, MASK, n_resamples=x, generator=seeded()),
    "corrected_pul": lambda x: vdu.metrics.corrected_pul(x, false_positive_rate=0.1),
    "its rate": lambda x: vdu.metrics.corrected_pul(PULResult(50.0, 40.0, 60.0, 9, 4, 40), false_positive_rate=x),
    "pul_ceiling": lambda x: vdu.metrics.pul_ceiling(n_original=x, n=10, false_positive_rate=0.1),
    "flip_table": lambda x: vdu.metrics.flip_table(x, CLASSES, 3),
    "its classes": lambda x: vdu.metrics.flip_table(CLASSES, CLASSES, x),
    "expected_distribution": lambda x: vdu.metrics.expected_distribution(x, [0]),
    "forget classes": lambda x: vdu.metrics.expected_distribution(torch.ones(3), x),
    "histogram_distance": lambda x: vdu.metrics.histogram_distance(x, CLASSES, n_classes=3, forget_classes=[0], generator=seeded()),
    "frechet_distance": lambda x: vdu.metrics.frechet_distance(x, FEATURES),
    "frechet_interval": lambda x: vdu.metrics.frechet_interval(FEATURES, FEATURES, n_resamples=40, generator=x),
    "kernel_distance": lambda x: vdu.metrics.kernel_distance(FEATURES, x, subset_size=9, generator=seeded()),
    "subsets": lambda x: vdu.metrics.kernel_distance(FEATURES, FEATURES, n_subsets=x, subset_size=9, generator=seeded()),
    "size of a subset": lambda x: vdu.metrics.KernelDistance(subset_size=x),
    "precision_recall": lambda x: vdu.metrics.precision_recall(x, FEATURES),
    "density_coverage": lambda x: vdu.metrics.density_coverage(FEATURES, FEATURES, k=x),
    "extract_features": lambda x: vdu.metrics.extract_features(features_of, x),
    "network": lambda x: vdu.metrics.extract_features(x, IMAGES),
    "batch size": lambda x: vdu.metrics.classify(features_of, IMAGES, batch_size=x),
    "judge": lambda x: vdu.metrics.PUL(x, [0]),
    "its forget classes": lambda x: vdu.metrics.PUL(features_of, x),
    "which set": lambda x: vdu.metrics.FrechetDistance().update(FEATURES, reference=x),
    "cosine": lambda x: vdu.NoiseSchedule.cosine(x),
    "its cap": lambda x: vdu.NoiseSchedule.cosine(10, x),
    "flow": lambda x: vdu.NoiseSchedule.flow(x),
    "its shift": lambda x: vdu.NoiseSchedule.flow(10, x),
    "linear": lambda x: vdu.NoiseSchedule.linear(10, x),
    "noise levels": lambda x: vdu.NoiseSchedule(x),
}  # fmt: skip
VALID = {("which set", "switch"), ("its shift", "number")}  # these are of the right kind


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("call", METRICS)
def test_what_is_of_another_kind_is_named_and_never_printed(call, wrong):
    if (call, wrong) in VALID:
        return
    with pytest.raises(InputError) as refused:
        METRICS[call](WRONG[wrong])
    said = str(refused.value)
    assert ": " in said and ("expected" in said or "must be" in said) and len(said) < 300
    assert "0x" not in said and "tensor([" not in said and "secret" * 20 not in said


@pytest.mark.parametrize(
    "call",
    [
        lambda: vdu.NoiseSchedule.cosine(1.5), lambda: vdu.NoiseSchedule.flow(1.5),  # were two steps
        lambda: vdu.NoiseSchedule.flow(10, -2.0),  # was a schedule
        lambda: vdu.NoiseSchedule.cosine(10, 2.0), lambda: vdu.NoiseSchedule.flow(10, math.inf),
        lambda: vdu.metrics.PUL(features_of, [64]).update(IMAGES, IMAGES),  # a judge of 64 classes has no such one: was never found
        lambda: vdu.metrics.flip_table(MASK, MASK, 2),  # masks are no classes
    ],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(call):
    with pytest.raises(InputError, match="expected"):
        call()


SETTINGS = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "default device": (torch.get_default_device, torch.set_default_device, "meta"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_metrics_do_not_depend_on_the_callers_pytorch(setting):
    calls = {name: each for name, each in TRUE.items()}
    with own_torch():
        truth = {name: call() for name, call in calls.items()}
    get, put, other = SETTINGS[setting]
    before = get()
    try:
        put(other)
        found = {name: call() for name, call in calls.items()}
        assert str(get()) == str(other)
    finally:
        put(before)
    assert repr(found) == repr(truth)


GENERATOR = seeded()
TRUE = {
    "pul": lambda: vdu.metrics.percentage_unlearned(MASK, MASK, generator=copy_of(GENERATOR)),
    "frechet": lambda: vdu.metrics.frechet_interval(FEATURES, FEATURES + 1, n_resamples=40, generator=copy_of(GENERATOR)),
    "kid": lambda: vdu.metrics.kernel_distance(FEATURES, FEATURES, subset_size=9, generator=copy_of(GENERATOR)),
    "precision": lambda: vdu.metrics.precision_recall(FEATURES, FEATURES + 1),
    "histogram": lambda: vdu.metrics.histogram_distance(CLASSES, CLASSES, n_classes=3, forget_classes=[0], generator=copy_of(GENERATOR)),
    "features": lambda: float(vdu.metrics.extract_features(features_of, IMAGES + 0.25).sum()),
}  # fmt: skip


def copy_of(source):
    return copy.deepcopy(source) if hasattr(source, "__deepcopy__") else source.clone_state()


@pytest.mark.parametrize("train", [None, ["attention"], 8, "text encoder", "everything"])
def test_what_trains_is_refused_in_our_words(train):
    with pytest.raises(InputError, match="train: got"):
        lora_rank(train)
