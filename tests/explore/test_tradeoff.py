"""A point against counts and a Fréchet distance made by hand; and what the cache keeps, and when it does not."""

import json

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file, save_file

from vdu.core.errors import InputError
from vdu.core.records import sha256_file
from vdu.data.images import to_float, to_uint8
from vdu.diffusion.sampling import sample
from vdu.explore.open_run import open_run
from vdu.explore.tradeoff import CACHE_FILE, cached_front, front, measure_front
from vdu.judges.classifier import load_judge
from vdu.zoo.packaged import judge_folder

N = 12
pytestmark = [  # so few images are singular, by design
    pytest.mark.filterwarnings("ignore:Fréchet distance:UserWarning"),
    pytest.mark.filterwarnings("ignore:Matrix is singular"),
]


def frechet(a, b):
    """Heusel et al. (2017), with scipy's matrix square root."""
    root = np.real(scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)))
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


@pytest.fixture
def measured(run_copy):
    run = open_run(run_copy)
    return run, front(run, N)


def test_a_point_is_what_its_images_say(measured):
    run, found = measured
    judge, _ = load_judge(judge_folder("mnist"))

    def look(images):
        with torch.no_grad():
            floats = to_float(images)
            return judge(floats).argmax(1).numpy(), judge.features(floats).double().numpy()

    stored = torch.from_numpy(run.data.original.images).permute(0, 3, 1, 2)
    classes, features = look(stored)
    others = features[classes != 8]
    reference, was = others[N:], int((classes[:N] == 8).sum())
    drawn = sample(run.denoiser_at(run.stops[1]), [int(seed) for seed in run.data.original.seeds[:N]], run.sampler)
    now, moved = look(to_uint8(drawn))
    point = found.points["checkpoint-2"]
    assert was > 0 and (point.pul["n_original"], point.pul["n_unlearned"]) == (was, int((now == 8).sum()))
    assert point.pul["value"] == pytest.approx(100 * (was - int((now == 8).sum())) / was)
    # singular covariances: scipy's root of their product loses half the digits
    assert point.u_fid["value"] == pytest.approx(frechet(reference, moved), rel=1e-3)
    assert found.floor is not None and found.floor["value"] == pytest.approx(frechet(reference, others[:N]), rel=1e-3)
    assert found.points["original"].u_fid["value"] == pytest.approx(frechet(reference, features[:N]), rel=1e-3)
    assert found.points["original"].pul["value"] == 0
    last = look(torch.from_numpy(run.data.unlearned.images[:N]).permute(0, 3, 1, 2))[0]
    assert found.points["final"].pul["n_unlearned"] == int((last == 8).sum())


def test_what_was_measured_is_not_measured_again(measured):
    run, found = measured
    path = run.folder / CACHE_FILE
    held = json.loads(path.read_text("utf-8"))
    ((_, entry),) = held["fronts"].items()
    assert {point["stop"] for point in entry["points"].values()} == {"original", "checkpoint-2", "final"}
    for point in entry["points"].values():
        point["pul"]["value"] = 12.5
    path.write_text(json.dumps(held), "utf-8")
    again = list(measure_front(open_run(run.folder), N))
    assert len(again) == 1 and again[0].complete
    assert [point.pul["value"] for point in again[0].points.values()] == [12.5] * 3
    assert dict(again[0].points["final"].u_fid) == dict(found.points["final"].u_fid)


def test_other_weights_or_another_protocol_are_not_in_the_cache(measured):
    run, _ = measured
    assert cached_front(run, N).complete
    assert not cached_front(run, N + 1).points
    folder = run.folder / "checkpoints" / "checkpoint-2"
    path = folder / ("ema.safetensors" if run.averaged else "model.safetensors")
    save_file({name: value * 1.001 for name, value in load_file(path).items()}, path)
    state = json.loads((folder / "state.json").read_text("utf-8"))
    state["sha256"][path.name] = sha256_file(path)
    state.pop("checksum", None)  # as in older checkpoints
    (folder / "state.json").write_text(json.dumps(state), "utf-8")
    changed = open_run(run.folder)
    assert [stop.name for stop in cached_front(changed, N).missing] == ["checkpoint-2"]
    assert front(changed, N).complete


def test_points_come_one_by_one_and_are_kept_at_once(run_copy):
    run = open_run(run_copy)
    steps = measure_front(run, N)
    assert not next(steps).points
    assert list(next(steps).points) == ["original"]
    steps.close()
    assert list(cached_front(open_run(run_copy), N).points) == ["original"]


def test_an_unwritable_cache_is_told(run_copy):
    (run_copy / CACHE_FILE).mkdir()
    found = front(open_run(run_copy), N)
    assert found.complete and "these numbers are not cached" in found.trouble


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format_version": 9}', '{"format_version": 1, "fronts": {"a": {"points": {"b": {}}}}}']
)
def test_a_damaged_cache_is_refused(run_copy, text):
    (run_copy / CACHE_FILE).write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"explore\.json: not"):
        cached_front(open_run(run_copy), N)


@pytest.mark.parametrize("n", [1, 61])
def test_more_images_than_are_stored_are_refused(opened, n):
    with pytest.raises(InputError, match="expected 2 to 60, as many as the run has stored samples"):
        cached_front(opened, n)


def test_too_few_others_for_a_reference_are_refused(run_copy):
    with pytest.raises(InputError, match="expected at least 100 for 50 images per model"):
        front(open_run(run_copy), 50)


def test_another_judge_than_the_evaluations_is_refused(run_copy, edit_json):
    edit_json(run_copy / "metrics.json", "judge", "held_out_error", value=0.3)
    with pytest.raises(InputError, match="Put that judge back"):
        front(open_run(run_copy), N)
