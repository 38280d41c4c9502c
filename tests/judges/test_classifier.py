import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from vdu.core.errors import InputError
from vdu.core.records import sha256_file
from vdu.core.rng import isolated_global
from vdu.judges.classifier import ARCHITECTURES, Judge, load_judge, save_judge

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 10, 17)]
CLASSES = ("cat", "dog", "eel")
COMMON = {
    "name": "pets-cnn",
    "data": {"description": "pets train", "n_images": 9, "sha256": "0" * 64},
    "held_out": {"description": "pets test", "n_images": 6, "sha256": "1" * 64},
    "held_out_error": 0.5,
    "n_held_out": 6,
    "settings": {"seed": 0},
}
LABELS = COMMON | {
    "trained_by": "labels",
    "confusion": [[2, 0, 0], [1, 1, 0], [0, 2, 0]],
    "command": "vdu judge --data pets",
}
UNLABELLED = COMMON | {
    "trained_by": "positive-unlabelled",
    "forget_false_positive_rate": 0.01,
    "forget": {"share": 0.1},
}


def make(architecture: str = "cnn", shape=(1, 8, 8)) -> Judge:
    with isolated_global(0):
        return Judge(architecture, shape, CLASSES).eval()


def images(n: int, shape) -> torch.Tensor:
    return 2 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(1)) - 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_linear_in_the_features_at_every_size(architecture, shape):
    judge, x = make(architecture, shape), images(2, shape)
    features = judge.features(x)
    assert features.shape == (2, judge.n_features)
    weight, bias = (value.detach().double().numpy() for value in (judge.head.weight, judge.head.bias))
    truth = features.detach().double().numpy() @ weight.T + bias
    np.testing.assert_allclose(judge(x).detach().numpy(), truth, rtol=1e-5, atol=1e-6)  # float32 sums of 96 terms


@pytest.mark.parametrize(("architecture", "megaflops"), [("cnn", 15), ("lenet", 13)])
def test_a_judge_of_digits_is_small_and_quick(architecture, megaflops):
    judge = make(architecture, (1, 28, 28))
    with FlopCounterMode(display=False) as counter:
        judge(images(1, (1, 28, 28)))
    assert counter.get_total_flops() == pytest.approx(1e6 * megaflops, rel=0.05)
    assert sum(value.numel() * value.element_size() for value in judge.state_dict().values()) < 1.5e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet", (1, 8, 8), CLASSES), "got 'resnet'; expected one of cnn, lenet"),
        (("cnn", (1, 7, 8), CLASSES), r"shape \(1, 7, 8\).*at least 8 pixels"),
        (("cnn", (1, 8, 8), ("cat", "cat")), "expected at least two, all distinct"),
        (("cnn", (1, 8, 8), ("cat",)), "expected at least two, all distinct"),
    ],
)
def test_impossible_judges_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Judge(*arguments)


def test_images_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"shape \(3, 8, 8\); expected \(1, 8, 8\)"):
        make()(images(2, (3, 8, 8)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("record", [LABELS, UNLABELLED])
def test_a_loaded_judge_gives_the_same_bits(tmp_path, architecture, record):
    judge, x = make(architecture), images(4, (1, 8, 8))
    judge.train()(x)  # moves the running averages of a batch normalisation
    save_judge(judge, tmp_path / "judge", record)
    state = torch.get_rng_state()
    loaded, known = load_judge(tmp_path / "judge")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(loaded(x), judge.eval()(x)) and not loaded.training
    assert (loaded.architecture, loaded.sample_shape, loaded.class_names) == (architecture, (1, 8, 8), CLASSES)
    assert known.items() >= record.items()
    assert known["weights_sha256"] == sha256_file(tmp_path / "judge" / "model.safetensors")


def test_a_judge_replaces_a_judge_but_nothing_else(tmp_path):
    save_judge(make(), tmp_path / "judge", LABELS)
    save_judge(make("lenet"), tmp_path / "judge", LABELS)
    assert load_judge(tmp_path / "judge")[0].architecture == "lenet"
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("keep me")
    with pytest.raises(InputError, match="holds other files than a judge"):
        save_judge(make(), tmp_path / "letters", LABELS)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "keep me"


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    judge = make()
    judge.head.bias.data[1] = torch.nan
    with pytest.raises(InputError, match=r"head.bias: 1 of 3 values are NaN"):
        save_judge(judge, tmp_path / "judge", LABELS)
    assert not (tmp_path / "judge").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "not a judge of format version 1"),
        ({"extra": 1}, "missing or unexpected: extra"),
        ({"architecture": None}, "got None; expected one of cnn, lenet"),
        ({"sample_shape": [1, 8]}, r"shape \(1, 8\)"),
        ({"sample_shape": "188"}, "expected three integers"),
        ({"class_names": ["cat", 2, "eel"]}, "expected a list of names"),
        ({"class_names": ["cat", "dog"]}, r"confusion is not a 2×2 matrix"),
        ({"trained_by": "hearsay"}, "unexpected: command, confusion"),
        ({"held_out_error": 1.5}, r"held_out_error is 1.5; expected a fraction"),
        ({"held_out_error": float("nan")}, r"held_out_error is nan; expected a fraction"),
        ({"n_held_out": 0}, "expected at least 1 image"),
        ({"n_held_out": 7}, r"counts that add up to 7"),
        ({"confusion": [[2, 0, 0], [1, 1, 0], [0, 3, -1]]}, "matrix of counts"),
        ({"confusion": None}, "matrix of counts"),
        ({"weights_sha256": "0" * 64}, "missing or damaged"),
    ],
)
def test_a_record_that_cannot_be_is_refused(tmp_path, change, message):
    save_judge(make(), tmp_path, LABELS)
    record = json.loads((tmp_path / "judge.json").read_text())
    (tmp_path / "judge.json").write_text(json.dumps(record | change))
    with pytest.raises(InputError, match=message):
        load_judge(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forget_false_positive_rate": -0.1}, "forget_false_positive_rate is -0.1"),
        ({"confusion": []}, "unexpected: confusion"),
    ],
)
def test_a_record_without_labels_is_checked_too(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        save_judge(make(), tmp_path, UNLABELLED | change)


def test_missing_fields_and_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_judge(tmp_path)
    save_judge(make(), tmp_path, LABELS)
    record = json.loads((tmp_path / "judge.json").read_text())
    (tmp_path / "judge.json").write_text(json.dumps({k: v for k, v in record.items() if k != "class_names"}))
    with pytest.raises(InputError, match="fields missing: class_names"):
        load_judge(tmp_path)


@pytest.mark.parametrize("kind", ["flipped byte", "another architecture", "another precision", "no safetensors"])
def test_weights_that_are_not_the_judges_are_refused(tmp_path, kind):
    save_judge(make(), tmp_path, LABELS)
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    if kind == "flipped byte":
        data[-1] ^= 1
        weights.write_bytes(data)
        with pytest.raises(InputError, match=r"missing or damaged: its SHA-256"):
            load_judge(tmp_path)
        return
    if kind == "another architecture":
        save_judge(make("lenet"), tmp_path / "other", LABELS)
        shutil.copy(tmp_path / "other" / "model.safetensors", weights)
    elif kind == "another precision":
        save_file({name: value.double() for name, value in make().state_dict().items()}, weights)
    else:
        weights.write_bytes(b"no safetensors")
    record = json.loads((tmp_path / "judge.json").read_text())
    (tmp_path / "judge.json").write_text(json.dumps(record | {"weights_sha256": sha256_file(weights)}))
    with pytest.raises(InputError, match=r"weights of another model|not a readable safetensors file"):
        load_judge(tmp_path)
