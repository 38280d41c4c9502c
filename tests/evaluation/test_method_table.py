"""Methods side by side: rows are what one unlearns and evaluates by hand, and a finished row is not computed again."""

import builtins
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tests.evaluation.conftest import QUICK, counted

import vdu
from vdu.core.errors import DivergenceError, InputError
from vdu.core.rng import generator
from vdu.data.images import ImageSet
from vdu.evaluation import method_table
from vdu.evaluation.api import compare, evaluate
from vdu.evaluation.method_table import MethodRow, MethodTable
from vdu.evaluation.options import EvaluationOptions
from vdu.methods import registry

pytestmark = pytest.mark.filterwarnings("ignore:Fréchet distance:UserWarning")
SHORT = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3, "progress": None}
ROW = MethodRow("m", (0,), 4, 10, 60.0, 50.0, 70.0, 5.0, 4.0, 6.0, 3, 30, 100, 2.0)


def table(*rows: MethodRow) -> MethodTable:
    return MethodTable(rows, 40, "judge:pixel")


@pytest.mark.slow
def test_a_row_is_unlearning_and_evaluating_by_hand(pair, pixel_judge):
    given = {"forget": pair / "unwanted", **QUICK | {"n_images": 96}}
    found = compare(pair / "before", methods=["ascent", vdu.gradient_ascent()], seeds=2, **given, **SHORT)
    assert [(row.method, row.seeds) for row in found.rows] == [
        ("ascent", (0,)), ("ascent", (1,)), ("ascent (2)", (0,)), ("ascent (2)", (1,)),
    ]  # fmt: skip
    original = vdu.load_pipeline(pair / "before")
    result = vdu.unlearn(original, vdu.gradient_ascent(), forget=pair / "unwanted", seed=1, **SHORT)
    evidence = evaluate(before=original, after=result.pipeline, folder=pair / "by hand", **given)
    row, pul = found.rows[1], evidence.pul
    assert (row.n_left, row.n_original, row.pul, row.pul_low, row.pul_high) == (
        pul.n_unlearned, pul.n_original, pul.value, pul.low, pul.high,
    )  # fmt: skip
    apart = json.loads((pair / "by hand" / "metrics.json").read_text())["kept"]["apart"]  # most unwanted images remain
    assert (row.u_fid, row.u_fid_low) == (apart["u_fid"]["value"], apart["u_fid"]["low"])
    assert row.u_fid_without == counted(load_file(pair / "by hand" / "samples" / "unlearned.safetensors")) > 1
    assert row.n_kept_changed == evidence.kept_changed.n_changed
    assert row.network_evaluations == result.network_evaluations
    assert replace(found.rows[3], method="ascent", seconds=row.seconds) == row
    original, baseline = found.references  # no retrained model was given
    by_hand = {name: evidence.record.row(name) for name in ("original", "filtered_original")}
    assert (original.n_left, original.n_original) == (pul.n_original, pul.n_original) and baseline.n_left is None
    assert (original.u_fid, baseline.u_fid) == tuple(each.distances.u_fid.value for each in by_hand.values())
    last = found.to_markdown().splitlines()[-4:]
    assert last[1].startswith("| filtered-oracle baseline | – | – | – | – | ") and last[1].endswith(" | – | – | – |")
    assert last[3].startswith("All runs: ") and "steps=2, batch_size=4, learning_rate=0.001." in last[3]


@pytest.mark.slow
def test_a_comparison_is_that_of_a_fresh_process_and_leaves_the_callers_settings(pair, pixel_judge):
    given = {"methods": ["ascent"], "forget": pair / "unwanted", **QUICK, **SHORT}
    fresh = compare(pair / "before", **given)
    AcceleratorState._reset_state(True)  # accelerate knows one precision for a process
    mine = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=4, cpu=True)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = compare(pair / "before", **given)
        assert torch.get_default_dtype() == torch.float64
        assert (mine.mixed_precision, mine.gradient_accumulation_steps) == ("bf16", 4)
    finally:
        torch.set_default_dtype(torch.float32)
        AcceleratorState._reset_state(True)
    assert [replace(row, seconds=0.0) for row in found.rows] == [replace(row, seconds=0.0) for row in fresh.rows]
    assert found.references == fresh.references


def test_all_methods_are_checked_before_the_first_runs_and_rows_show_options(pair, pixel_judge, monkeypatch):
    done, kept = [], torch.arange(384, dtype=torch.uint8).reshape(6, 1, 8, 8)
    monkeypatch.setattr(method_table, "unlearn", lambda *_, **__: done.append(1))
    with pytest.raises(InputError, match="retain: got .*, but the method ascent does not use retained images"):
        compare(pair / "before", methods=["finetune", "ascent"], forget=pair / "unwanted", retain=kept, **QUICK)
    assert done == []

    def diverge(*_, **__):
        raise DivergenceError("step 1: the loss is NaN")

    monkeypatch.setattr(method_table, "unlearn", diverge)
    methods = ["ascent", vdu.RetainDistillation(forget_weight=0.5)]
    with monkeypatch.context() as patch:
        patch.setattr("vdu.unlearning.plan.require_enough", lambda *_: None)
        found = compare(pair / "before", methods=methods, forget=pair / "unwanted", **QUICK)
    assert [row.options for row in found.rows] == ["", "forget_weight=0.5"]
    assert "| distillation | forget_weight=0.5 | 1 (seed 0) |" in found.to_markdown()


def test_images_are_converted_where_that_is_asked_for(pair, pixel_judge, monkeypatch):
    asked = []

    def unlearn(*given, **options):
        asked.append(options["forget"])
        raise DivergenceError("not of interest")

    monkeypatch.setattr(method_table, "unlearn", unlearn)
    pixels = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(40, 1, 16, 16)
    given = {"methods": ["ascent"], "forget": pixels, **QUICK, **SHORT}
    with pytest.raises(InputError, match="expected .1, 8, 8."):
        compare(pair / "before", **given)
    with pytest.raises(InputError, match="convert: got 'yes'; expected True or False"):
        compare(pair / "before", convert="yes", **given)
    compare(pair / "before", convert=True, **given)
    assert torch.equal(asked[0].images, pixels[:, :, :8, :8])  # of one level each


def test_a_comparison_knows_what_an_earlier_run_forgot(pair, pixel_judge, monkeypatch):
    pixels = torch.randint(256, (9, 1, 8, 8), dtype=torch.uint8, generator=generator(6, "pixels"))
    labelled = ImageSet(pixels, torch.arange(9) % 3, class_names=("a", "b", "c"))
    vdu.unlearn(
        pair / "before",
        "finetune",
        forget=labelled,
        forget_class="a",
        retain=255 - pixels,
        folder=pair / "first",
        **SHORT,
    )
    kept = []
    monkeypatch.setattr("vdu.evaluation.method_table._row", lambda job, *more: sys.exit())
    plan = method_table.planned
    monkeypatch.setattr(method_table, "planned", lambda *given, **more: kept.append(plan(*given, **more)) or kept[-1])
    with pytest.raises(SystemExit):
        compare(
            pair / "first" / "pipeline",
            methods=["finetune"],
            forget=labelled,
            forget_class="b",
            retain=labelled,
            **QUICK,
            **SHORT,
        )
    assert kept[0].retain.labels.unique().tolist() == [2]


@pytest.mark.slow
def test_a_finished_row_is_not_computed_again(pair, pixel_judge, monkeypatch):
    given = {"forget": pair / "unwanted", "folder": pair / "table", **QUICK, **SHORT}
    done, real = [], method_table.unlearn
    monkeypatch.setattr(
        method_table, "unlearn", lambda *given, seed, **more: done.append(seed) or real(*given, seed=seed, **more)
    )
    first = compare(pair / "before", methods=["ascent"], **given)
    both = compare(pair / "before", methods=["ascent"], seeds=2, **given)
    assert done == [0, 1]
    assert both.rows[0] == first.rows[0] and both.references == first.references != ()
    with pytest.raises(InputError, match="holds the row of another comparison"):
        compare(pair / "before", methods=["ascent"], **given | {"steps": 3})
    assert done == [0, 1]


@pytest.mark.parametrize("given", [1, "1", "dog"])
def test_a_class_is_known_by_name_however_it_is_given(pair, pixel_judge, monkeypatch, given):
    seen = []
    monkeypatch.setattr(method_table, "_row", lambda job, *_: seen.append(job) or method_table._Finished(ROW, "pixel"))
    images = ImageSet(
        torch.zeros(12, 1, 8, 8, dtype=torch.uint8), torch.arange(12) % 3, class_names=("cat", "dog", "owl")
    )
    compare(pair / "before", methods=["ascent"], forget=images, forget_class=given, **QUICK)
    assert seen[0].options.forget_class == ("dog",) and seen[0].forget.labels.tolist() == [1, 1, 1, 1]


def test_a_row_is_of_images_of_one_class(of_classes, pixel_judge, monkeypatch, tmp_path):
    def diverge(*_, **__):
        raise DivergenceError("step 1: the loss is NaN")

    monkeypatch.setattr(method_table, "unlearn", diverge)
    model, _, images = of_classes
    given = {"methods": ["finetune"], "folder": tmp_path, **QUICK, **SHORT}
    other, kept = replace(images, class_names=("b",)), replace(images, images=255 - images.images, class_names=("c",))
    compare(model, forget=images, retain=kept, **given)
    compare(model, forget=images, retain=kept, **given)
    same = {
        name: np.int64(value) if isinstance(value, int) else value
        for name, value in given.items()
        if name != "progress"
    }
    compare(model, forget=images, retain=kept, **same)
    for changes in ({"forget": other, "retain": kept}, {"forget": images, "retain": replace(kept, class_names=("b",))}):
        with pytest.raises(InputError, match="holds the row of another comparison"):
            compare(model, **given, **changes)


def test_a_row_is_of_the_weights_that_train_and_of_the_options_that_keeping_images_has(pair, pixel_judge, monkeypatch):
    given = {"forget": pair / "unwanted", "progress": None, **QUICK}
    trained = []

    def diverge(pipeline, *_, **__):
        trained.append(sum(each.requires_grad for each in pipeline.unet.parameters()))
        raise DivergenceError("step 1: the loss is NaN")

    monkeypatch.setattr(method_table, "unlearn", diverge)
    monkeypatch.setattr("vdu.unlearning.plan.require_enough", lambda *_: None)
    part, whole = (vdu.load_pipeline(pair / "before") for _ in range(2))
    part.unet.requires_grad_(False).conv_out.requires_grad_(True)
    compare(part, methods=["ascent"], folder=pair / "part", **given)
    with pytest.raises(InputError, match="holds the row of another comparison"):
        compare(whole, methods=["ascent"], folder=pair / "part", **given)
    assert trained == [2]  # a weight and a bias

    amnesia = given | {"methods": ["selective-amnesia", "finetune"], "folder": pair / "kept"}
    compare(whole, retain="self", **amnesia)  # selective amnesia replays what it keeps
    compare(whole, retain="self", **amnesia)
    assert len(trained) == 3
    with pytest.raises(InputError, match="selective-amnesia-0: holds the row of another comparison"):
        compare(whole, **amnesia)
    compare(whole, **amnesia | {"methods": ["finetune"]})  # keeps generated samples by default
    assert len(trained) == 3


def test_a_row_of_other_code_is_another_comparison(pair, pixel_judge, monkeypatch):
    def diverge(*_, **__):
        raise DivergenceError("step 1: the loss is NaN")

    def own(factor):
        class Own(vdu.Method):
            """Own."""

            name = "own"
            losses = eval(f"lambda self, denoiser, batch: {factor}")

        return vdu.register(Own)

    monkeypatch.setattr(method_table, "unlearn", diverge)
    given = {"forget": pair / "unwanted", "folder": pair / "table", **QUICK, **SHORT}
    assert (
        compare(pair / "before", methods=[own(1)], **given).rows
        == compare(pair / "before", methods=[own(1)], **given).rows
    )
    for method in (own(2), "own", own(2)()):
        with pytest.raises(InputError, match="holds the row of another comparison"):
            compare(pair / "before", methods=[method], **given)
    registry._registered.pop("own")


def test_a_run_that_diverges_is_a_row_without_numbers(pair, pixel_judge, monkeypatch):
    def diverge(*_, **__):
        raise DivergenceError("step 1: the loss is NaN")

    monkeypatch.setattr(method_table, "unlearn", diverge)
    found = compare(pair / "before", methods=["ascent"], seeds=3, forget=pair / "unwanted", **QUICK)
    assert [row.pul for row in found.rows] == [None, None, None]
    assert "diverged: step 1: the loss is NaN" in found.to_markdown()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": []}, "expected a list of one or more methods"),
        ({"methods": "auto"}, "expected a list"),
        ({"seeds": 0}, "seeds: got 0; expected at least 1"),
        ({"methods": ["distilation"]}, "Did you mean 'distillation'"),
        ({"methods": ["ascent"], "stepz": 3}, "stepz"),
    ],
)
def test_refusals(pair, given, message):
    with pytest.raises(InputError, match=message):
        compare(pair / "before", forget=pair / "unwanted", **given)


@pytest.mark.parametrize(("n", "n_rows"), [(2, 2), (3, 1)])
def test_three_seeds_make_one_row_with_an_interval_over_seeds(n, n_rows):
    runs = [replace(ROW, seeds=(i,), n_left=4 + i, pul=60.0 - 10 * i, pul_low=60.0 - 10 * i, pul_high=60.0 - 10 * i)
            for i in range(n)]  # fmt: skip
    rows = table(*runs).rows
    assert len(rows) == n_rows
    if n == 3:
        assert (rows[0].seeds, rows[0].n_left, rows[0].pul) == ((0, 1, 2), 5, 50.0)
        assert rows[0].pul_high == pytest.approx(50 + 4.303 * 10 / 3**0.5)  # no interval over images here
        assert rows[0].u_fid_high == pytest.approx(6.0)  # nothing but one


def test_a_distance_names_how_many_unwanted_images_it_leaves_out_and_too_few_others_have_none():
    runs = [replace(ROW, seeds=(i,), u_fid_without=4 * i) for i in range(3)]
    assert " | 5.0 [4.0, 6.0], without 4 | " in table(*runs).to_markdown()
    assert " | 5.0 [4.0, 6.0] | " in table(runs[0]).to_markdown()
    none = replace(runs[2], u_fid=None, u_fid_low=None, u_fid_high=None)
    for rows in ([none], [*runs[:2], none]):  # no mean of some seeds
        assert " | 60.0 [50.0, 70.0] | – | 3 of 30 | " in table(*rows).to_markdown()


def test_a_distance_over_seeds_ends_at_zero():
    """4 ± 4.303 · 2/√3 = 4 ± 5.0 over seeds alone; no distance is below 0."""
    (row,) = table(
        *(replace(ROW, seeds=(i,), u_fid=u, u_fid_low=u, u_fid_high=u) for i, u in enumerate((2.0, 4.0, 6.0)))
    ).rows
    assert (row.u_fid, row.u_fid_low, row.u_fid_high) == (4.0, 0.0, pytest.approx(4 + 4.303 * 2 / 3**0.5))


def test_the_table_as_text_and_as_a_page(tmp_path):
    found = table(ROW, replace(ROW, method="<b>|x"))
    lines = found.to_markdown().splitlines()
    assert lines[2] == "| m | – | 1 (seed 0) | 4 of 10 | 60.0 [50.0, 70.0] | 5.0 [4.0, 6.0] | 3 of 30 | 100 | 2 |"
    assert lines[3].startswith(r"| <b>\|x |")
    page = found.to_html(tmp_path / "table.html").read_text("utf-8")
    assert "&lt;b&gt;|x" in page and "<b>" not in page
    assert repr(found) == found.to_markdown()


def test_the_sentence_below_names_what_changes_the_images():
    for sampler, words in (
        (vdu.Sampler("ddpm", 20), "ddpm with 20 steps, a fallback"),
        (
            vdu.Sampler("ddim", 50, eta=0.5, guidance_scale=2.5),
            "ddim with 50 steps, eta 0.5, guidance scale 2.5, a fallback",
        ),
    ):
        options = EvaluationOptions.from_python(forget_class=None, sampler=sampler)
        assert f"(seed 0), {words} classifier" in method_table._protocol(options, {})


def test_pandas_is_named_where_it_is_missing(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pandas is not installed"):
        table(ROW).to_pandas()


def test_a_data_frame_has_the_rows():
    pandas = pytest.importorskip("pandas")
    frame = table(ROW).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert json.loads(frame.to_json(orient="records"))[0]["n_left"] == 4


def test_a_comparison_makes_no_attempt_to_bring_it_back(pair, pixel_judge):
    compare(pair / "before", methods=["ascent"], forget=pair / "unwanted", folder=pair / "table", **QUICK, **SHORT)
    (metrics,) = (pair / "table").rglob("metrics.json")
    found = json.loads(metrics.read_text())
    assert (found["suite"], found["probes"]) == ("none", {})
