"""A checkpoint's numbers against counts and a Fréchet distance made by hand and against the evaluation's; the cache."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file, save_file

from vdu.core.errors import InputError
from vdu.core.records import sha256_file
from vdu.data.images import to_float, to_uint8
from vdu.diffusion.sampling import sample
from vdu.explore.curve_html import curve_table
from vdu.explore.open_run import Checkpoint, open_run
from vdu.explore.tradeoff import CACHE_FILE, has_curve, known_curve, measure_checkpoints, seconds_per_checkpoint
from vdu.judges.classifier import load_judge
from vdu.zoo.packaged import judge_folder

pytestmark = [  # so few images are singular, by design
    pytest.mark.slow,  # ten seconds before the first: a run with checkpoints is measured
    pytest.mark.filterwarnings("ignore:Fréchet distance:UserWarning"),
    pytest.mark.filterwarnings("ignore:Matrix is singular"),
]


@pytest.fixture(scope="module")
def measured(finished_run, tmp_path_factory):
    """A copy of the run, the curve after each measurement; its last checkpoint, which holds the final weights, is one of them."""
    import shutil

    run = open_run(shutil.copytree(finished_run, tmp_path_factory.mktemp("curve") / "run"))
    place = run.folder / "checkpoints" / "checkpoint-3"
    key = sha256_file(place / ("ema.safetensors" if run.averaged else "model.safetensors"))
    last = Checkpoint("checkpoint-3", 3, key, place)
    run = replace(run, checkpoints=(*run.checkpoints[:-1], last, run.checkpoints[-1]))
    return run, list(measure_checkpoints(run))


def test_the_ends_are_the_reports_numbers(opened):
    rows = {row["name"]: row for row in json.loads((opened.folder / "metrics.json").read_text("utf-8"))["rows"]}
    curve = known_curve(opened)
    assert has_curve(opened) and not has_curve(replace(opened, checkpoints=opened.checkpoints[1:]))
    assert curve.points["original"].pul is None and curve.points["original"].u_fid == rows["original"]["u_fid"]
    assert (
        curve.points["final"].pul == rows["unlearned"]["pul"]
        and curve.points["final"].u_fid == rows["unlearned"]["u_fid"]
    )
    assert curve.goal == rows["filtered_original"]["u_fid"]
    assert [each.name for each in curve.missing] == ["checkpoint-1", "checkpoint-2"]


def test_with_prompts_the_table_says_that_its_distances_are_of_those_to_keep(opened):
    words = {"kind": "prompts", "concepts": ["three"], "asked": [], "sets": []}
    asked = replace(opened, data=replace(opened.data, metrics=opened.data.metrics | {"words": words}))
    for run, images in ((opened, "all images"), (asked, "all images under prompts to keep")):
        assert f"] of {images}, 95 % interval" in curve_table(known_curve(run), "final")


def test_checkpoints_are_measured_one_by_one(measured):
    _, curves = measured
    assert [[each.name for each in curve.missing] for curve in curves] == [
        ["checkpoint-2", "checkpoint-3"],
        ["checkpoint-3"],
        [],
    ]


def test_the_final_weights_measured_as_a_checkpoint_give_the_evaluations_numbers(measured):
    points = measured[1][-1].points
    assert points["checkpoint-3"] == points["final"] and points["checkpoint-2"] != points["final"]


def test_a_point_is_what_its_images_say(measured):
    run, curves = measured
    judge, _ = load_judge(judge_folder("mnist"))

    def look(images):
        with torch.no_grad():
            floats = to_float(images)
            return judge(floats).argmax(1).numpy(), judge.features(floats).double().numpy()

    def frechet(a, b):  # Heusel et al. (2017), with scipy's matrix square root
        root = np.real(scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)))
        return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)

    from vdu.core.rng import derive_seed
    from vdu.replay.generated import image_seeds

    seeds = image_seeds(derive_seed(run.settings.seed, "evaluate"), 180)
    classes, features = look(to_uint8(sample(run.original, seeds, run.sampler)))
    reference = features[classes != 8][60:120]
    assert len(reference) == 60
    drawn = sample(run.denoiser_at(run.checkpoints[2]), run.data.original.seeds.tolist(), run.sampler)
    now, features = look(to_uint8(drawn))
    point = curves[-1].points["checkpoint-2"]
    assert point.pul["n_original"] == int((classes[:60] == 8).sum()) and point.pul["n_unlearned"] == int(
        (now == 8).sum()
    )
    assert point.u_fid["value"] == pytest.approx(frechet(reference, features), rel=1e-3)


def test_what_was_measured_is_not_measured_again(measured):
    run, curves = measured
    assert known_curve(run).points == curves[-1].points and list(measure_checkpoints(run)) == []


@pytest.mark.slow
def test_other_weights_or_another_evaluation_are_not_in_the_cache(measured, run_copy, edit_json):
    (run_copy / CACHE_FILE).write_bytes((measured[0].folder / CACHE_FILE).read_bytes())
    assert known_curve(open_run(run_copy)).missing == []
    folder = run_copy / "checkpoints" / "checkpoint-2"
    path = folder / ("ema.safetensors" if measured[0].averaged else "model.safetensors")
    save_file({name: value * 1.001 for name, value in load_file(path).items()}, path)
    state = json.loads((folder / "state.json").read_text("utf-8"))
    state["sha256"][path.name] = sha256_file(path)
    state.pop("checksum", None)  # as in older checkpoints
    (folder / "state.json").write_text(json.dumps(state), "utf-8")
    assert [each.name for each in known_curve(open_run(run_copy)).missing] == ["checkpoint-2"]
    edit_json(run_copy / "metrics.json", "protocol", "seed", value=1)
    assert len(known_curve(open_run(run_copy)).missing) == 2


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format_version": 9}', '{"format_version": 1, "points": {"a": {"pul": {}}}}']
)
def test_a_damaged_cache_is_refused(run_copy, text):
    (run_copy / CACHE_FILE).write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"checkpoints\.json: not"):
        known_curve(open_run(run_copy))


@pytest.mark.slow
def test_another_judge_than_the_evaluations_is_refused(run_copy, edit_json):
    edit_json(run_copy / "metrics.json", "judge", "held_out_error", value=0.3)
    with pytest.raises(InputError, match="Put that judge back"):
        next(measure_checkpoints(open_run(run_copy)))


def test_the_time_is_the_evaluations_share(opened):
    cost = [{"stage": "unlearn", "seconds": 5.0}, {"stage": "evaluate", "seconds": 30.0, "network_evaluations": 720}]
    data = replace(opened.data, metrics={**opened.data.metrics, "cost": cost})
    assert seconds_per_checkpoint(replace(opened, data=data)) == pytest.approx(30 * 60 * 4 / 720)
    cost[1]["network_evaluations"] = None
    assert seconds_per_checkpoint(replace(opened, data=data)) is None
