"""Arguments of the wrong kind, for every public function: refused in our words, which never print an object."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import vdu
from vdu.evaluation.options import EvaluationOptions

IMAGES = vdu.ImageSet(torch.arange(2 * 64, dtype=torch.uint8).view(2, 1, 8, 8))
NOTHING = vdu.GaussianPosterior(mean={}, variance={}, estimator="none")
OTHERS = {
    "a dictionary": {"a": 1},
    "a generator": (each for each in "ab"),
    "an object": object(),
    "a class": dict,
    "a function": len,
    "a set": {1},
    "bytes": b"x",
    "an array": np.zeros(3),
    "a tensor": torch.zeros(2, 2),
}
SCHEDULE = vdu.NoiseSchedule.linear(9)
RIGHT = {  # where these are what is expected
    ("ImageSet", "labels", "a tensor"),
    ("fit_posterior", "members", "a generator"),
    ("NoiseSchedule.coefficients", "like", "a tensor"),
    ("NoiseSchedule.coefficients_at", "timestep", "a tensor"),
    ("NoiseSchedule.coefficients_at", "like", "a tensor"),
    ("NoiseSchedule.alpha_bar_at", "timestep", "a tensor"),
    ("NoiseSchedule.timesteps_at", "alpha_bars", "a tensor"),
    ("NoiseSchedule.flow.timesteps_at", "alpha_bars", "a tensor"),
}
UNET = object()  # refused only after everything else
CALLS = {
    "unlearn": (
        vdu.unlearn, {"pipeline": UNET, "method": "ascent", "forget": IMAGES, "progress": None},
        "pipeline method forget_class forget_labels convert n_own_samples sampler full_length force seed generator device folder "
        "overwrite resume report_to steps batch_size learning_rate lr_schedule warmup_steps ema_decay gradient_accumulation_steps "
        "max_grad_norm mixed_precision checkpointing_steps checkpoints_total_limit posterior alpha_bar_range weights",
    ),
    "evaluate": (
        vdu.evaluate, {"before": UNET, "after": UNET, "forget": IMAGES},
        "run before forget_classes forget_prompt judge second_judge reference_split data held_out features probes sampler n_images "
        "n_judge_samples seed folder",
    ),
    "compare": (
        vdu.compare, {"pipeline": UNET, "forget": IMAGES, "methods": ["ascent"]},
        "pipeline methods seeds folder forget_classes judge features sampler n_images seed",
    ),
    "report": (vdu.report, {"folder": "nowhere"}, "folder output by hide_forgotten"),
    "verify": (vdu.verify, {"folder": "nowhere"}, "folder"),
    "sample": (vdu.sample, {"pipeline": UNET, "seeds": 1}, "pipeline seeds"),
    "fit_posterior": (
        vdu.fit_posterior, {"pipeline": UNET, "estimator": "fisher", "n_train": 9, "generator": torch.Generator()},
        "pipeline estimator generator n_samples sampler members state n_train prior_precision draws_per_half weights relative_floor "
        "schedule",
    ),
    "load_images": (vdu.load_images, {"spec": "digits"}, "spec shape split convert cache_dir"),
    "load_pipeline": (vdu.load_pipeline, {}, "path"),
    "save_pipeline": (vdu.save_pipeline, {"path": "out"}, "pipeline"),
    "ImageSet": (vdu.ImageSet, {"images": IMAGES.images}, "labels names class_names description"),
    "Sampler": (vdu.Sampler, {}, "scheduler steps eta spacing clip_sample microbatch_size guidance_scale"),
    "NoiseSchedule": (vdu.NoiseSchedule, {"alpha_bars": torch.tensor([0.9, 0.5])}, "scaling"),
    "NoiseSchedule.linear": (vdu.NoiseSchedule.linear, {}, "steps beta_start beta_end"),
    "NoiseSchedule.coefficients": (SCHEDULE.coefficients, {"index": torch.tensor([1]), "like": torch.zeros(1)}, "index like"),
    "NoiseSchedule.coefficients_at": (
        SCHEDULE.coefficients_at, {"timestep": torch.tensor([0.5]), "like": torch.zeros(1)}, "timestep like",
    ),
    "NoiseSchedule.alpha_bar_at": (SCHEDULE.alpha_bar_at, {}, "timestep"),
    "NoiseSchedule.timesteps_at": (SCHEDULE.timesteps_at, {}, "alpha_bars"),
    "NoiseSchedule.flow.timesteps_at": (vdu.NoiseSchedule.flow(9).timesteps_at, {}, "alpha_bars"),
    "NoiseSchedule.within": (SCHEDULE.within, {}, "alpha_bar_range"),
    "Sampler.make": (vdu.Sampler().make, {}, "denoiser"),
    "GaussianPosterior.check_matches": (NOTHING.check_matches, {}, "named_parameters"),
    "GaussianPosterior": (vdu.GaussianPosterior, {"mean": {}, "variance": {}}, "estimator"),
    "GaussianPosterior.load": (vdu.GaussianPosterior.load, {}, "path"),
    "VDU": (vdu.VDU, {"posterior": NOTHING}, "posterior gamma weights schedule alpha_bar_range"),
    "RetainDistillation": (
        vdu.RetainDistillation, {}, "repulsion_scale lead pool_size classifier_width self_improvement_range forget_weight schedule",
    ),
    "SalUn": (vdu.SalUn, {}, "alpha salient_share mask_batch_size mask_seed"),
    "EraseDiff": (vdu.EraseDiff, {}, "target weight adaptive inner_steps"),
    "ConflictFree": (vdu.ConflictFree, {}, "forget_share precondition radius posterior"),
}  # fmt: skip
PAIRS = [(name, argument) for name, (_, _, arguments) in CALLS.items() for argument in arguments.split()]


@pytest.mark.parametrize(("name", "argument"), PAIRS)
def test_an_argument_of_another_kind_is_refused_in_our_words(name, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, others, _ = CALLS[name]
    for kind, value in OTHERS.items():
        if (name, argument, kind) in RIGHT:
            continue
        if name == "fit_posterior" and argument == "members" and kind in {"a set", "an array", "a tensor"}:
            continue  # can be iterated over
        with pytest.raises(vdu.InputError) as refused:
            call(**others | {argument: value})
        text = str(refused.value)
        assert "object at 0x" not in text and "tensor(" not in text and "array(" not in text and len(text) < 700, (
            kind,
            text,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": "0"}, "seed: got '0'; expected an integer"),
        ({"seed": True}, "seed: got True"),
        ({"seed": 2**63}, "seed: got 9223372036854775808; expected an integer of at most 64 bits"),
        ({"convert": "no"}, "convert: got 'no'; expected True or False"),
        ({"overwrite": 0}, "overwrite: got 0; expected True or False"),
        ({"sampler": 0}, "sampler: got 0; expected a vdu.Sampler"),
        ({"forget_class": True}, "forget_class: got True"),
        ({"forget_class": [None]}, "forget_class: got a list"),
        ({"warmup_steps": -1}, "warmup_steps: got -1; expected 0 or more"),
        ({"ema_decay": 1}, "ema_decay: got 1; expected a number from 0 to below 1"),
        ({"checkpoints_total_limit": 0}, "checkpoints_total_limit: got 0"),
    ],
)
def test_values_that_look_right(arguments, message):
    with pytest.raises(vdu.InputError, match=message):
        vdu.unlearn(object(), "ascent", forget=IMAGES, progress=None, **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: SCHEDULE.alpha_bar_at(500), r"timestep: got 500; expected timesteps as a tensor \[batch\]"),
        (lambda _: SCHEDULE.timesteps_at([0.5]), "alpha_bars: got a list; expected noise levels"),
        (lambda _: SCHEDULE.coefficients(3, torch.zeros(1)), "index: got 3; expected timestep indices as a tensor"),
        (lambda _: SCHEDULE.within(0.5), "alpha_bar_range: got 0.5; expected two numbers"),
        (lambda made: vdu.Sampler().make(made), "denoiser: got a DDPMPipeline; expected a vdu.PipelineDenoiser. Of a pipeline"),
        (lambda made: vdu.PipelineDenoiser.from_pipeline(made).condition(1), "labels: got 1; expected the class or prompt"),
        (lambda made: vdu.PipelineDenoiser.from_pipeline(made).condition("01"), "labels: got '01'; expected the class"),
        (lambda made: vdu.PipelineDenoiser.from_pipeline(made).meant({0: 1}), "labels: got a dict; expected the class"),
        (lambda _: NOTHING.check_matches(torch.zeros(2, 2)), "named_parameters: got a Tensor; expected tensors by name"),
        *(
            (lambda made, labels=labels: fitted(made, labels), f"labels: got {shown}; expected the class or prompt of each")
            for labels, shown in ((3, "3"), ("0101", "'0101'"), (torch.tensor(1), "a Tensor"), ({"0": 1}, "a dict"))
        ),
        *(
            (lambda made, part=part: trained(made, part), rf"train: got {shown}; expected one of all, attention")
            for part, shown in ((np.array(["attention", "lora:2"]), "a numpy.ndarray"), (torch.zeros(2), "a Tensor"), ([], "a list"))
        ),
        *(
            (lambda _, said=said: vdu.evaluate(before=UNET, after=UNET, forget_prompt=said), f"forget_prompt: got {shown}; exp")
            for said, shown in ((np.array(["a cat", "a dog"]), "a numpy.ndarray"), (torch.zeros(2), "a Tensor"), (3, "3"))
        ),
    ],
)  # fmt: skip
def test_the_message_names_the_argument_and_what_is_expected(make_pipeline, call, message):
    with pytest.raises(vdu.InputError, match=message):
        call(make_pipeline(num_class_embeds=2))


def fitted(pipeline, labels):
    how = {"generator": torch.Generator(), "n_train": 9, "samples": torch.zeros(4, 1, 8, 8)}
    return vdu.fit_posterior(pipeline, "fisher", labels=labels, **how)


def trained(pipeline, part):
    return vdu.unlearn(pipeline, "ascent", forget_label=0, train=part, progress=None)


def test_labels_of_samples_are_a_list_an_array_or_a_tensor(make_pipeline):
    found = [
        fitted(make_pipeline(num_class_embeds=2), labels).variance for labels in ([0, 1, 1, 0], np.array([0, 1, 1, 0]))
    ]
    found.append(fitted(make_pipeline(num_class_embeds=2), torch.tensor([0, 1, 1, 0])).variance)
    assert all(torch.equal(each[name], value) for each in found[1:] for name, value in found[0].items())


@pytest.mark.parametrize("empty", ["", [], (), {}])
@pytest.mark.parametrize(
    ("call", "names"),
    [
        ("unlearn", "forget retain forget_class forget_label forget_prompt keep_prompts instead posterior folder"),
        ("evaluate", "forget_class forget_prompt prompts judge second_judge cross_judge reference retrained data held_out folder"),
        ("compare", "methods forget_class judge second_judge reference retrained folder"),
        ("fit_posterior", "members"),
    ],
)  # fmt: skip
def test_nothing_is_no_default(call, names, empty, tmp_path, monkeypatch):
    """An empty list is not "not given": the default would then be taken without a word."""
    monkeypatch.chdir(tmp_path)
    function, others, _ = CALLS[call]
    for name in names.split():
        with pytest.raises(vdu.InputError, match=f"^{name.removesuffix('_class')}|^--{name}"):
            function(**others | {name: empty})


@pytest.mark.parametrize("given", [np.arange(128, dtype=np.uint8).reshape(2, 8, 8), IMAGES.images, [1]])
def test_arrays_of_images_are_looked_at_by_their_kind(make_pipeline, given):
    """An array is compared with nothing: its truth would be ambiguous."""
    if isinstance(given, list):
        with pytest.raises(vdu.InputError, match="forget: got a list of int; expected Pillow images alone"):
            vdu.unlearn(make_pipeline(), "ascent", forget=given, progress=None)
        return
    made = vdu.unlearn(
        make_pipeline(), "ascent", forget=given, steps=1, batch_size=2, learning_rate=1e-6, progress=None
    )
    assert made.training.steps == 1


def test_numbers_of_numpy_are_numbers(make_pipeline, tmp_path):
    """In a run folder, whose records hold Python's numbers only, and in the protocol of an evaluation."""
    how = {"steps": np.int64(1), "batch_size": np.int32(2), "learning_rate": np.float32(1e-3), "seed": np.int64(3)}
    how["sampler"] = vdu.Sampler("ddim", np.int64(4), eta=np.float32(0.5), microbatch_size=np.int32(8))
    vdu.unlearn(make_pipeline(), "ascent", forget=IMAGES, folder=tmp_path / "run", progress=None, **how)
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text(encoding="utf-8"))
    assert (config["steps"], config["batch_size"], config["seed"]) == (1, 2, 3)
    assert (config["inference_steps"], config["eta"], config["microbatch_size"]) == (4, 0.5, 8)
    labelled, where = make_pipeline(num_class_embeds=3), tmp_path / "labels"
    how = {
        "steps": 1,
        "batch_size": 2,
        "learning_rate": 1e-6,
        "force": True,
        "sampler": vdu.Sampler("ddim", 2),
        "progress": None,
    }
    how |= {"forget": IMAGES, "forget_label": np.int64(0), "instead": np.int64(1), "n_own_samples": np.int64(50)}
    vdu.unlearn(labelled, "concept-ablation", folder=where, **how)
    config = tomllib.loads((where / "config.toml").read_text(encoding="utf-8"))
    assert (config["instead"], config["n_own_samples"], config["forget_label"]) == (1, 50, ["0"])
    options = EvaluationOptions.from_python(forget_class=(), n_images=np.int64(24), seed=np.int64(5))
    assert (options.protocol()["n_images"], options.protocol()["seed"]) == (24, 5)


def test_places_are_recorded_whole_and_names_as_they_are(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    found = EvaluationOptions(
        judge="mine", second_judge=Path("mine"), features="inception", reference="digits"
    ).protocol()
    assert found["judge"] == found["second_judge"] == str(tmp_path / "mine")  # for `vdu verify` from another folder
    assert (found["features"], found["reference"]) == ("inception", "digits")
    assert EvaluationOptions(judge="zoo:mnist").protocol()["judge"] == "zoo:mnist"
