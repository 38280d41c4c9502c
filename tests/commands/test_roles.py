"""Methods that look at more than the forget set: images of noise, images to keep, and who gives them."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from toys import PIXELS
from vdu.commands.posterior import load_posterior
from vdu.core.cache import cache_folder
from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.core.records import read_json
from vdu.core.rng import derive_seed, draw_seed, generator
from vdu.data.forget_source import class_names, content_of, reload_forget
from vdu.data.images import ImageSet
from vdu.data.overlap import RETAINED, PixelHashes
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler
from vdu.methods.distillation import RetainDistillation
from vdu.methods.selective_amnesia import SelectiveAmnesia
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.replay import auxiliaries as aids
from vdu.replay import auxiliary_models as copies
from vdu.replay.generated import cached_samples
from vdu.replay.selection import resemblance
from vdu.training.batches import NoisyImages, UniformImages, together
from vdu.unlearning.fit_posterior import fit_posterior
from vdu.unlearning.unlearn import unlearn

UNIFORM = torch.ones(7, dtype=torch.float64)
SHAPE = (1, 8, 8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(seed=1, n=6, shape=SHAPE) -> ImageSet:
    return ImageSet(torch.randint(256, (n, *shape), dtype=torch.uint8, generator=seeded(seed)))


# images of uniform noise


def test_uniform_images_are_uniform_and_their_noise_is_normal():
    batch = UniformImages("surrogate", (3, 8, 8), 300, UNIFORM, seed=0, denoiser=PIXELS)(4)
    x0, noise = batch["surrogate.x0"].double(), batch["surrogate.noise"].double()
    assert x0.shape == noise.shape == (300, 3, 8, 8)
    # 57600 draws; the tolerances are four standard deviations
    n = x0.numel()
    assert -1 <= float(x0.min()) < -0.999 and 0.999 < float(x0.max()) <= 1
    assert float(x0.mean()) == pytest.approx(0, abs=4 * (1 / 3 / n) ** 0.5)
    assert float(x0.square().mean()) == pytest.approx(1 / 3, abs=4 * (4 / 45 / n) ** 0.5)
    assert float(noise.mean()) == pytest.approx(0, abs=4 * (1 / n) ** 0.5)
    assert float(noise.square().mean()) == pytest.approx(1, abs=4 * (2 / n) ** 0.5)
    assert float((x0 * noise).mean()) == pytest.approx(0, abs=4 * (1 / 3 / n) ** 0.5)


def test_uniform_images_depend_on_seed_and_step_alone():
    one, other = (UniformImages("surrogate", SHAPE, 3, UNIFORM, seed=4, denoiser=PIXELS) for _ in range(2))
    for step in range(5):
        one(step)
    torch.rand(3)
    before = torch.get_rng_state()
    later, alone = one(5), other(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert later.keys() == {"surrogate.x0", "surrogate.noise", "surrogate.index"}
    assert all(torch.equal(later[name], alone[name]) for name in later)
    for changed in (one(6), UniformImages("surrogate", SHAPE, 3, UNIFORM, seed=5, denoiser=PIXELS)(5)):
        assert not any(torch.equal(later[name], changed[name]) for name in ("surrogate.x0", "surrogate.noise"))


def test_their_noise_levels_are_drawn_by_weight():
    weights = torch.tensor([0.0, 1, 3, 0, 4], dtype=torch.float64)
    drawn = UniformImages("a", (1, 1, 1), 4000, weights, seed=0, denoiser=PIXELS)(0)["a.index"]
    shares = torch.bincount(drawn, minlength=5) / len(drawn)
    assert shares[0] == shares[3] == 0
    # 4000 draws: four standard deviations of a share are at most 0.032
    torch.testing.assert_close(shares.double(), weights / weights.sum(), rtol=0.0, atol=0.032)


def test_roles_come_together_from_the_same_step():
    makers = [
        NoisyImages("forget", some_images(), 2, UNIFORM, 0, PIXELS),
        UniformImages("surrogate", SHAPE, 3, UNIFORM, 0, PIXELS),
    ]
    both = together(makers)(3)
    assert len(both) == 6
    for maker in makers:
        for name, value in maker(3).items():
            assert torch.equal(both[name], value)
    assert together([])(0) == {}


# from Python


@pytest.fixture
def model(make_pipeline):
    """A pipeline and Selective Amnesia's posterior of it."""
    pipeline = make_pipeline()
    samples = some_images(seed=2, n=3).floats()
    posterior = fit_posterior(pipeline, "amnesia-fisher", generator=seeded(0), samples=samples, timesteps_per_sample=4)
    return pipeline, posterior


def quick(pipeline, method, seed=0, **changes):
    fixed = {"forget": some_images(), "steps": 3, "batch_size": 4, "learning_rate": 1e-4, "progress": None}
    return unlearn(pipeline, method, generator=seeded(seed), **fixed | changes)


def weights(result) -> str:
    return hash_parameters(result.pipeline.unet.state_dict())


@pytest.mark.parametrize("kept", [None, some_images(seed=3)])
def test_the_terms_of_the_first_step_by_hand(model, kept):
    """Truth: diffusers' add_noise and the published reductions, a sum over pixels and a mean over images."""
    pipeline, posterior = model
    method = SelectiveAmnesia(posterior, replay="self" if kept else "none")
    result = quick(pipeline, method, retain=kept, steps=1)
    seed, levels = draw_seed(seeded(0)), torch.ones(1000, dtype=torch.float64)
    parts = {"surrogate": UniformImages("x", SHAPE, 4, levels, derive_seed(seed, "surrogate"), denoiser=PIXELS)(0)}
    if kept:
        parts["replay"] = NoisyImages("x", kept, 4, levels, derive_seed(seed, "retain"), denoiser=PIXELS)(0)
    truth = {"ewc": 0.0}  # at θ*
    for name, part in parts.items():
        x_t = pipeline.scheduler.add_noise(part["x.x0"], part["x.noise"], part["x.index"])
        with torch.no_grad():
            error = pipeline.unet(x_t, part["x.index"]).sample - part["x.noise"]
        truth[name] = float(error.square().sum(dim=(1, 2, 3)).mean())
    assert result.training.last["terms"] == pytest.approx(truth, rel=1e-4)
    assert result.network_evaluations == 3 * 4 * len(parts)


def test_without_replay_nothing_depends_on_the_forget_set(model):
    """Without labels, nothing tells the method what to forget; images to keep have no use, and are refused."""
    pipeline, posterior = model
    before = hash_parameters(pipeline.unet.state_dict())
    sets = [{}, {"forget": some_images(seed=8, n=9)}]
    ends = {weights(quick(pipeline, SelectiveAmnesia(posterior), **each)) for each in sets}
    assert len(ends) == 1
    assert hash_parameters(pipeline.unet.state_dict()) == before not in ends
    with pytest.raises(InputError, match="retain: got an ImageSet, but the method selective-amnesia does not use"):
        quick(pipeline, SelectiveAmnesia(posterior), retain=some_images(seed=3))


def test_with_replay_the_images_to_keep_matter(model):
    pipeline, posterior = model
    method = SelectiveAmnesia(posterior, replay="self")
    ends = [weights(quick(pipeline, method, retain=some_images(seed=seed))) for seed in (3, 3, 4)]
    assert ends[0] == ends[1] != ends[2]
    assert ends[0] != weights(quick(pipeline, SelectiveAmnesia(posterior)))


def test_a_strong_penalty_holds_the_weights_back(model):
    pipeline, posterior = model
    before, distances = dict(pipeline.unet.named_parameters()), []
    for ewc in (0.0, 1e6):
        made = quick(pipeline, SelectiveAmnesia(posterior, ewc=ewc), steps=20).pipeline.unet
        error = [(value - before[name]).detach() for name, value in made.named_parameters()]
        precision = [1 / posterior.variance[name] for name in before]
        distances.append(sum(float((p * e.square()).sum()) for p, e in zip(precision, error, strict=True)))
    assert distances[1] < distances[0] / 4


@pytest.mark.parametrize(
    ("retain", "message"),
    [
        (None, "unlearn: got 6 forget images; expected at least 40"),  # own samples would be sorted
        (some_images(shape=(1, 4, 4)), r"all 6 images have channels, height, width \(1, 4, 4\), expected \(1, 8, 8\)"),
        (some_images(n=0), "retain: got no images; expected at least one"),
    ],
)
def test_images_to_keep_that_are_missing_or_do_not_fit(model, tmp_path, retain, message):
    pipeline, posterior = model
    with pytest.raises(InputError, match=message):
        quick(pipeline, SelectiveAmnesia(posterior, replay="self"), retain=retain, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not cache_folder().exists() or not list(cache_folder().iterdir())  # nothing was drawn in vain


def test_an_empty_set_to_keep_is_refused_and_not_replaced_by_own_samples(make_pipeline, monkeypatch):
    """Also where own samples are sorted all the same, for another role."""

    def fewer(*sets, **options):
        return resemblance(*sets, **options | {"score_steps": 30, "steps": 3})

    monkeypatch.setattr(aids, "resemblance", fewer)
    short = {"steps": 2, "batch_size": 8, "learning_rate": 1e-4}
    monkeypatch.setattr(copies, "self_model_settings", lambda steps: short)
    digits = load_images("digits")
    how = {"forget": digits.select(digits.labels == 3), "n_own_samples": 60, "sampler": Sampler("ddpm", steps=2)}
    with pytest.raises(InputError, match="retain: got no images"):
        quick(make_pipeline(), RetainDistillation(), retain=some_images(n=0), force=True, **how)


def test_a_run_is_not_resumed_with_other_images_to_keep(model, tmp_path):
    pipeline, posterior = model
    method, kept, other = SelectiveAmnesia(posterior, replay="self"), some_images(seed=3), some_images(seed=4)
    first = quick(pipeline, method, retain=kept, folder=tmp_path / "a")
    with pytest.raises(InputError, match="was written with other settings, data or model"):
        quick(pipeline, method, retain=other, folder=tmp_path / "a", resume=True)
    assert weights(quick(pipeline, method, retain=kept, folder=tmp_path / "a", resume=True)) == weights(first)


@pytest.fixture
def classes(make_pipeline, tmp_path):
    """A model of three classes, and a folder with images of one of them."""
    pipeline = make_pipeline(num_class_embeds=3)
    pipeline.class_names = ("cat", "dog", "fox")
    for i in range(6):
        (tmp_path / "unwanted" / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * i).save(tmp_path / "unwanted" / "cat" / f"{i}.png")
    return pipeline, tmp_path / "unwanted"


def test_a_run_is_not_resumed_after_its_class_was_renamed(classes, tmp_path):
    pipeline, unwanted = classes
    how = {"forget": unwanted, "folder": tmp_path / "run"}
    first = quick(pipeline, "ascent", **how)
    assert weights(quick(pipeline, "ascent", resume=True, **how)) == weights(first)
    (unwanted / "cat").rename(unwanted / "dog")
    with pytest.raises(InputError, match="was written with other settings, data or model"):
        quick(pipeline, "ascent", resume=True, **how)
    assert weights(quick(pipeline, "ascent", forget=unwanted)) != weights(first)  # another class is forgotten


def test_images_to_keep_of_another_class_are_other_images(classes, tmp_path):
    pipeline, kept = classes
    how = {"forget_label": "fox", "retain": kept, "folder": tmp_path / "run"}
    first = quick(pipeline, "finetune", **how)
    assert weights(quick(pipeline, "finetune", resume=True, **how)) == weights(first)
    (kept / "cat").rename(kept / "dog")
    with pytest.raises(InputError, match="was written with other settings, data or model"):
        quick(pipeline, "finetune", resume=True, **how)


def test_the_forget_set_of_a_finished_run_keeps_its_class(classes, tmp_path):
    pipeline, unwanted = classes
    quick(pipeline, "ascent", forget=unwanted, folder=tmp_path / "run")
    assert read_json(tmp_path / "run" / "run.json")["inputs"]["forget"]["class_names"] == ["cat"]
    assert class_names(reload_forget(tmp_path / "run", SHAPE)) == ["cat"]
    (unwanted / "cat").rename(unwanted / "dog")
    with pytest.raises(InputError, match="are now of class dog; this run forgot them as cat. Give the classes their"):
        reload_forget(tmp_path / "run", SHAPE)


def test_a_name_of_a_class_means_nothing_to_an_unconditional_model(make_pipeline, classes, tmp_path):
    pipeline, unwanted = make_pipeline(), classes[1]
    how = {"forget": unwanted, "folder": tmp_path / "run"}
    first = quick(pipeline, "ascent", **how)
    (unwanted / "cat").rename(unwanted / "dog")
    assert weights(quick(pipeline, "ascent", resume=True, **how)) == weights(first)
    assert class_names(reload_forget(tmp_path / "run", SHAPE)) == ["dog"]


def test_what_images_are_is_their_hash_and_the_names_that_the_model_does_not_give():
    cat = ImageSet(some_images().images, torch.zeros(6, dtype=torch.int64), class_names=("cat",))
    dog = replace(cat, class_names=("dog",))
    assert cat.sha256 == dog.sha256
    names = ("cat", "dog")
    assert len({content_of(cat, names), content_of(dog, names), cat.sha256}) == 3
    own = replace(cat, class_names=names)
    numbers = replace(cat, class_names=None)
    assert content_of(own, names) == content_of(numbers, names) == content_of(dog, ()) == cat.sha256


# the command line


@pytest.fixture
def desk(make_pipeline, tmp_path, command, capsys, monkeypatch):
    """A folder with a model and, by ``vdu posterior``, its posterior; the classifiers of --retain self are quick."""

    def fewer(*sets, **options):
        return resemblance(*sets, **options | {"score_steps": 30, "steps": 3})

    monkeypatch.setattr(aids, "resemblance", fewer)
    make_pipeline().save_pretrained(tmp_path / "model")
    tokens = ("--pipeline", tmp_path / "model", "--output-dir", tmp_path / "posterior", "--n-samples", 3)
    assert (
        command(
            "posterior",
            "amnesia-fisher",
            *tokens,
            "--timesteps-per-sample",
            4,
            "--inference-steps",
            2,
            "--scheduler",
            "ddpm",
        )
        == 0
    )
    capsys.readouterr()
    return tmp_path


@pytest.fixture
def call(desk, command):
    """``vdu unlearn`` at the desk, exit code out; None takes an option out, True makes a flag."""

    def run(**changes) -> int:
        options = {
            "pipeline": desk / "model", "forget": "digits", "forget_class": 3, "posterior": desk / "posterior",
            "method": "selective-amnesia", "output_dir": desk / "run", "steps": 4, "batch_size": 4, "learning_rate": 1e-4,
            "n_own_samples": 60, "inference_steps": 2, "checkpointing_steps": 2,
        }  # fmt: skip
        tokens = []
        for name, value in (options | changes).items():
            flag = f"--{name.replace('_', '-')}"
            tokens += [] if value is None else [flag] if value is True else [flag, value]
        return command("unlearn", *tokens)

    return run


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_posterior_of_the_command_line(desk):
    record = read_json(desk / "posterior" / "run.json")
    stages = {each["stage"]: each["network_evaluations"] for each in record["stages"]}
    assert stages == {"own samples": 3 * 2, "amnesia-fisher": 3 * 3 * 4}
    posterior = load_posterior(desk / "posterior")
    assert posterior.estimator == record["posterior"]["estimator"] == "amnesia-fisher"
    assert (posterior.extras["n_samples"], posterior.extras["timesteps_per_sample"]) == (3, 4)
    assert posterior.sources["pipeline"] == record["inputs"]["model"]["sha256"]


def test_selective_amnesia_without_replay(desk, call):
    assert call() == 0
    record = read_json(desk / "run" / "run.json")
    assert record["finished"] and "weight_share" not in record
    assert [(each["stage"], each["network_evaluations"]) for each in record["stages"]] == [("unlearn", 3 * 4 * 4)]
    assert record["inputs"]["posterior"]["estimator"] == "amnesia-fisher"
    assert [set(line["terms"]) for line in log_of(desk / "run")] == [{"surrogate", "ewc"}] * 4
    card = (desk / "run" / "pipeline" / "README.md").read_text("utf-8")
    assert "selective-amnesia" in card and "gamma" not in card


def test_selective_amnesia_with_its_own_samples(desk, call):
    assert call(retain="self", force=True) == 0
    (stage,) = read_json(desk / "run" / "run.json")["stages"]
    judged = stage["resemblance"]
    assert (stage["stage"], stage["own_samples"]["n"], stage["own_samples"]["n_drawn_now"]) == ("unlearn", 60, 60 - 3)
    # the posterior drew the first three
    assert (judged["n_own"], judged["n_like_forget"] + judged["n_kept"] <= 60) == (60, True)
    n_digits = read_json(desk / "run" / "run.json")["inputs"]["forget"]["n_images"]
    # two scoring classifiers and one of noised images, 64 of each kind per step; then each image is scored at three levels
    assert judged["classifier_evaluations"] == 3 * 2 * 64 * (2 * 30 + 3) + 3 * (60 + n_digits)
    classifiers = round(judged["classifier_evaluations"] * judged["classifier_flops_share"])
    assert stage["network_evaluations"] == 60 * 2 + classifiers + 3 * 4 * 4 * 2
    assert [set(line["terms"]) for line in log_of(desk / "run")] == [{"surrogate", "replay", "ewc"}] * 4


def test_own_samples_that_are_nothing_like_the_forget_set_are_refused(desk, call, capsys):
    """The model is untrained; --force is for those who know better."""
    assert call(retain="self") == 2
    said = capsys.readouterr().err
    assert "The model does not appear to generate this concept" in said and "--force" in said
    assert not (desk / "run" / "pipeline").exists()


def test_the_images_that_are_replayed_are_the_kept_own_samples(desk, call):
    """What --retain self does, by hand: the shared own samples, without those that resemble the forget set."""
    assert call(retain="self", force=True) == 0
    pipeline = load_pipeline(desk / "model")
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    own, n_drawn = cached_samples(denoiser, 60, Sampler("ddpm", steps=2))
    assert n_drawn == 0  # they are those that the command drew
    digits = load_images("digits")
    forget = digits.select(digits.labels == 3)
    seed = derive_seed(draw_seed(generator(0, "unlearn")), "resemblance")
    judged = resemblance(forget, own, denoiser, seed=seed, score_steps=30, steps=3, force=True)
    kept = own.select(judged.kept)
    assert len(kept) >= 40
    method = SelectiveAmnesia(load_posterior(desk / "posterior"), replay="self")
    how = {"forget": forget, "steps": 4, "batch_size": 4, "learning_rate": 1e-4, "progress": None}
    result = unlearn(pipeline, method, retain=kept, generator=generator(0, "unlearn"), **how)
    assert weights(result) == read_json(desk / "run" / "run.json")["pipeline"]["sha256"]


def test_images_to_keep_may_be_given(desk, call):
    assert call(retain="digits") == 0
    assert call(output_dir=desk / "without") == 0
    ends = [read_json(desk / name / "run.json")["pipeline"]["sha256"] for name in ("run", "without")]
    assert ends[0] != ends[1]
    assert {each["stage"] for each in read_json(desk / "run" / "run.json")["stages"]} == {"unlearn"}
    assert call(retain="mnist-mini", convert=True, output_dir=desk / "converted") == 0


@pytest.mark.slow
def test_an_interrupted_replay_ends_in_the_same_bits(desk, call, monkeypatch):
    """The own samples are drawn again, and are the same: the cache is another one."""
    assert call(retain="self", force=True, output_dir=desk / "truth") == 0
    real = UniformImages.__call__

    def interrupted(self, step):
        if step == 3:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(UniformImages, "__call__", interrupted)
    assert call(retain="self", force=True) == 130
    monkeypatch.setattr(UniformImages, "__call__", real)
    monkeypatch.setenv("VDU_CACHE", str(desk / "other-cache"))
    assert call(retain="self", force=True, resume_from_checkpoint="latest") == 0
    ends = [read_json(desk / name / "run.json")["pipeline"]["sha256"] for name in ("truth", "run")]
    assert ends[0] == ends[1]
    assert log_of(desk / "truth") == log_of(desk / "run")
    assert call(retain="digits", resume_from_checkpoint="latest") == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"posterior": None}, "the method selective-amnesia needs; fit one with `vdu posterior amnesia-fisher --pipeline"),
        ({"method": "vdu", "retain": "self"}, "--retain: got self, but the method vdu does not use retained images"),
        ({"method": "ascent", "posterior": None, "retain": "digits"}, "--retain: got digits, but the method ascent does not use"),
        ({"retain": "nowhere"}, "nowhere: no such source"),
        ({"retain": "mnist-mini"}, "(1, 28, 28), expected (1, 8, 8). Resize them, or have it done: `vdu unlearn --convert`"),
        ({"option": "ewc=-1"}, "ewc: got -1.0; expected a finite number"),
        ({"retain": "self", "n_own_samples": 39}, "got 39 generated samples (--n-own-samples); expected at least 40"),
        ({"batch_size": 4, "gradient_accumulation_steps": 3}, "batch_size: got 4"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is_written(desk, call, capsys, changes, message):
    assert call(**changes) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err and "--n-train" not in said.err
    assert not (desk / "run").exists()


def test_the_posterior_must_be_of_this_model(desk, call, make_pipeline, capsys):
    make_pipeline(seed=1).save_pretrained(desk / "other")
    assert call(pipeline=desk / "other") == 2
    error = capsys.readouterr().err
    assert "posterior: was fitted to the model with SHA-256" in error and "(of its weights)" in error


def test_the_class_to_forget_is_not_replayed_and_what_is_replayed_is_not_held_out(
    make_pipeline, tmp_path, command, capsys
):
    """Labelled data to keep are taken without it. An evaluation knows them again."""
    pipeline = make_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    samples = some_images().floats()
    fit_posterior(
        pipeline, "amnesia-fisher", samples=samples, timesteps_per_sample=2, generator=seeded(0)
    ).save(tmp_path / "posterior.safetensors")  # fmt: skip
    code = command(
        "unlearn", "--pipeline", tmp_path / "model", "--forget", "digits", "--forget-class", "3", "--retain", "digits",
        "--method", "selective-amnesia", "--posterior", tmp_path / "posterior.safetensors", "--steps", "1", "--batch-size", "2",
        "--output-dir", tmp_path / "run",
    )  # fmt: skip
    assert code == 0
    digits = load_images("digits")
    kept = digits.select(digits.labels != 3)
    assert read_json(tmp_path / "run" / "run.json")["retain"]["sha256"] == kept.sha256
    assert PixelHashes.load(tmp_path / "run" / RETAINED).known == PixelHashes.of(kept).known
    (tmp_path / "held").mkdir()
    for i in range(3):
        Image.fromarray(kept.images[i, 0].numpy()).save(tmp_path / "held" / f"{i}.png")
    capsys.readouterr()
    assert command("evaluate", tmp_path / "run", "--held-out", tmp_path / "held") == 2
    assert "held-out images: all 3" in (said := capsys.readouterr().err) and "among the run's retained images" in said


def test_a_posterior_of_other_weights_is_refused_in_python_too(make_pipeline):
    samples = some_images().floats()
    posterior = fit_posterior(
        make_pipeline(seed=1), "amnesia-fisher", samples=samples, timesteps_per_sample=2, generator=seeded(0)
    )
    with pytest.raises(InputError, match="was fitted to the model with SHA-256"):
        unlearn(make_pipeline(seed=2), SelectiveAmnesia(posterior), forget=some_images(), steps=1, generator=seeded(0))
