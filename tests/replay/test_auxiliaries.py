"""Own samples that are drawn once, evaluations that are counted as they happen, and what methods are given."""

import copy
from dataclasses import replace

import pytest
import torch

import tiny_pipelines
from vdu.core.cache import cache_folder
from vdu.core.counter import EvaluationCounter
from vdu.core.errors import InputError
from vdu.core.types import Tools
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler
from vdu.methods.distillation import RetainDistillation
from vdu.methods.esd import ESD
from vdu.methods.vdu import gradient_ascent
from vdu.models.denoiser import PipelineDenoiser
from vdu.replay import auxiliaries as aids_recipe
from vdu.replay import auxiliary_models as copies_recipe
from vdu.replay import held_out as held_out_recipe
from vdu.replay import selection as resemblance_recipe
from vdu.replay.auxiliaries import make_auxiliaries
from vdu.replay.generated import SHARED_SEED, cached_samples, generate_samples, image_seeds
from vdu.replay.stopping import ForgottenCheck
from vdu.unlearning import engine
from vdu.unlearning.unlearn import unlearn

SAMPLER = Sampler("ddpm", steps=2, microbatch_size=4)


def some_images(n=60, seed=1) -> ImageSet:
    source = torch.Generator().manual_seed(seed)
    return ImageSet(torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=source))


def set_copies(monkeypatch, batch_size):
    """Auxiliary models of two steps."""
    how = {"steps": 2, "batch_size": batch_size, "learning_rate": 1e-4}
    monkeypatch.setattr(copies_recipe, "self_model_settings", lambda steps: how)
    monkeypatch.setattr(aids_recipe, "FORGET_MODEL", how)


@pytest.fixture
def quick(monkeypatch):
    """Small classifiers and copies."""
    whole = resemblance_recipe.resemblance

    def fewer(*args, **options):
        return whole(*args, **options | {"score_steps": 3, "steps": 3, "force": True})

    monkeypatch.setattr(aids_recipe, "resemblance", fewer)
    monkeypatch.setattr(resemblance_recipe, "KEPT", 1.0)  # untrained classifiers tell nothing apart
    monkeypatch.setattr(resemblance_recipe, "FEWEST_IMAGES", 1)
    set_copies(monkeypatch, batch_size=5)


@pytest.fixture
def all_unwanted(monkeypatch):
    """A classifier that calls every held-out sample unwanted."""
    monkeypatch.setattr(held_out_recipe, "mean_scores", lambda classifier, images, chosen, *_: torch.zeros(len(chosen)))


# own samples


def test_shared_samples_are_drawn_once_and_the_sequence_grows(make_pipeline):
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline())
    first, drawn = cached_samples(denoiser, 5, SAMPLER, progress=None)
    again, drawn_again = cached_samples(denoiser, 3, SAMPLER, progress=None)
    more, drawn_more = cached_samples(denoiser, 9, SAMPLER, progress=None)
    assert (drawn, drawn_again, drawn_more) == (5, 0, 4)
    truth = generate_samples(denoiser, 9, SAMPLER, seed=SHARED_SEED, progress=None).images
    for got, n in ((first, 5), (again, 3), (more, 9)):
        assert torch.equal(got.images, truth[:n])


def test_other_weights_and_samplers_have_other_samples(make_pipeline):
    one, two = (PipelineDenoiser.from_pipeline(make_pipeline(seed=seed)) for seed in (0, 1))
    cached_samples(one, 3, SAMPLER, progress=None)
    assert cached_samples(two, 3, SAMPLER, progress=None)[1] == 3
    other = replace(
        one, scheduler_config={**one.scheduler_config, "clip_sample": not one.scheduler_config["clip_sample"]}
    )
    assert cached_samples(other, 3, SAMPLER, progress=None)[1] == 3  # the same weights, another configuration
    assert cached_samples(one, 3, Sampler("ddpm", steps=3, microbatch_size=4), progress=None)[1] == 3
    assert cached_samples(one, 3, SAMPLER, progress=None)[1] == 0


def test_a_damaged_cache_is_named_and_replaced(make_pipeline, capsys):
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline())
    whole, _ = cached_samples(denoiser, 3, SAMPLER, progress=None)
    (file,) = (cache_folder() / "own-samples").glob("*.safetensors")
    file.write_bytes(b"not safetensors")
    again, drawn = cached_samples(denoiser, 3, SAMPLER, progress=None)
    assert drawn == 3 and torch.equal(again.images, whole.images)
    assert "cannot be read" in capsys.readouterr().err
    assert cached_samples(denoiser, 3, SAMPLER, progress=None)[1] == 0


def test_without_standard_error_nothing_is_said_among_the_numbers(make_pipeline, capsys, monkeypatch):
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline())
    cached_samples(denoiser, 3, SAMPLER, progress=None)
    (file,) = (cache_folder() / "own-samples").glob("*.safetensors")
    file.write_bytes(b"not safetensors")
    monkeypatch.setattr("sys.stderr", None)
    assert cached_samples(denoiser, 3, SAMPLER, progress=None)[1] == 3
    assert capsys.readouterr().out == ""


def test_a_cache_that_cannot_be_written_is_named(make_pipeline, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VDU_CACHE", str(tmp_path / "file"))
    denoiser = PipelineDenoiser.from_pipeline(make_pipeline())
    assert cached_samples(denoiser, 2, SAMPLER, progress=None)[1] == 2
    assert "cannot be written" in capsys.readouterr().err


# evaluations


def test_a_forward_is_one_and_a_backward_two():
    network, counter = torch.nn.Linear(3, 3), EvaluationCounter()
    with counter.watching(network, None):
        with torch.no_grad():
            network(torch.zeros(5, 3))
        assert counter.total == 5
        network(torch.zeros(7, 3)).sum().backward()
        assert counter.total == 5 + 3 * 7
        copy.deepcopy(network)(torch.zeros(2, 3))
        assert counter.total == 5 + 3 * 7 + 3 * 2
        frozen = copy.deepcopy(network).requires_grad_(False)
        frozen(torch.zeros(4, 3))
        assert counter.total == 5 + 3 * 7 + 3 * 2 + 4
    network(torch.zeros(100, 3))
    assert counter.total == 5 + 3 * 7 + 3 * 2 + 4


def test_what_learns_may_be_a_condition_given_by_name():
    class Told(torch.nn.Module):
        def forward(self, x, told):
            return x + told

    counter, told = EvaluationCounter(), torch.zeros(1, requires_grad=True)
    network = Told()
    with counter.watching(network):
        network(torch.zeros(4, 3), told=told).sum().backward()
        assert counter.total == 3 * 4
        network(torch.zeros(4, 3), told=told.detach())
        assert counter.total == 3 * 4 + 4


@pytest.mark.parametrize(("lead", "copies"), [("gradient", 1), ("forget-model", 2)])
def test_evaluations_of_a_whole_run(make_pipeline, quick, lead, copies):
    """Every part by hand: own samples, classifiers, the copies, and the steps."""
    method = RetainDistillation(lead=lead, self_improvement_range=(0.0, 1.0))
    result = unlearn(
        make_pipeline(), method, forget=some_images(), steps=4, batch_size=8, n_own_samples=60, sampler=SAMPLER, force=True,
        full_length=True, generator=torch.Generator().manual_seed(0), progress=None,
    )  # fmt: skip
    assert result.aids is not None and result.aids.judged is not None
    share = result.aids.record["resemblance"]["classifier_flops_share"]
    assert 0 < share
    classifiers = round(result.aids.judged.evaluations * share)
    drawn, copied = 60 * 2, copies * 3 * 5 * 2
    # student over all; teacher and self model over what is kept; teacher, and forget model if there is one, over what is not
    each_step = 3 * (8 + 3 + 3) + 2 * 8 + copies * (3 + 3)
    # the classifier, with its gradient where that is asked for
    small = 3 * 2048 + 4 * (3 * 8 + (3 if lead == "gradient" else 1) * (3 + 3))
    assert result.network_evaluations == drawn + classifiers + copied + 4 * each_step + round(small * share)


def test_guided_samples_cost_twice(make_pipeline, quick):
    pipeline = make_pipeline(num_class_embeds=4)
    pipeline.class_names, pipeline.null_class = ("a", "b", "c"), 3
    model, images = PipelineDenoiser.from_pipeline(pipeline), some_images()
    images = ImageSet(images.images, torch.zeros(60, dtype=torch.int64), class_names=("a",))
    costs = []
    for scale in (None, 2.0):
        made = make_auxiliaries(
            model, RetainDistillation(self_improvement=0.0), images, sampler=replace(SAMPLER, guidance_scale=scale), n_own_samples=60,
            seed=0, force=True, teacher=model,
        )  # fmt: skip
        costs.append(made.evaluations)
    assert costs[1] - costs[0] == 60 * 2


# what a method is given


def test_a_forget_only_method_is_given_nothing_and_nothing_is_drawn(make_pipeline):
    given = make_auxiliaries(
        PipelineDenoiser.from_pipeline(make_pipeline()),
        gradient_ascent(),
        some_images(),
        sampler=SAMPLER,
        n_own_samples=50,
        seed=0,
    )
    assert given.tools == Tools(n_forget=60) and given.evaluations == 0
    assert not (cache_folder() / "own-samples").exists()


def test_copies_are_trained_and_the_original_is_not(make_pipeline, quick):
    pipeline = make_pipeline()
    before = copy.deepcopy(pipeline.unet.state_dict())
    given = make_auxiliaries(
        PipelineDenoiser.from_pipeline(pipeline), ESD(), some_images(), sampler=SAMPLER, n_own_samples=50, seed=0
    )
    assert given.tools.teacher is not None and given.tools.forget_model is not None and given.tools.self_model is None
    weights = {name: value for name, value in given.tools.forget_model.network.state_dict().items()}
    assert all(torch.equal(value, pipeline.unet.state_dict()[name]) for name, value in before.items())
    assert not all(torch.equal(value, weights[name]) for name, value in before.items())
    for tool in (given.tools.teacher, given.tools.forget_model):
        assert not any(value.requires_grad for value in tool.network.parameters())
    assert all(value.requires_grad for value in pipeline.unet.parameters())


def test_the_self_model_is_trained_where_it_acts_and_the_forget_model_everywhere(make_pipeline, quick, monkeypatch):
    pipeline, whole, seen = make_pipeline(), copies_recipe.fit, []

    def watched(copied, *given, **options):
        levels = []
        seen.append(levels)
        copied.network.register_forward_pre_hook(
            lambda module, given, named: levels.append(named.get("timestep", given[-1])), with_kwargs=True
        )
        return whole(copied, *given, **options)

    monkeypatch.setattr(copies_recipe, "fit", watched)
    set_copies(monkeypatch, batch_size=40)
    method = RetainDistillation(lead="forget-model", self_improvement_range=(0.2, 0.7))
    make_auxiliaries(
        PipelineDenoiser.from_pipeline(pipeline), method, some_images(), sampler=SAMPLER, n_own_samples=60, seed=0
    )
    schedule = PipelineDenoiser.from_pipeline(pipeline).schedule
    own, forget = (schedule.alpha_bar_at(torch.cat(levels)) for levels in seen)
    assert len(own) == len(forget) == 2 * 40
    assert 0.2 <= float(own.min()) < 0.3 and 0.6 < float(own.max()) <= 0.7
    assert float(forget.min()) < 0.1 and float(forget.max()) > 0.9


@pytest.mark.slow
def test_the_self_model_is_trained_once_for_a_model_its_samples_and_its_levels(
    make_pipeline, quick, monkeypatch, capsys
):
    whole, trained = copies_recipe.fit, []
    monkeypatch.setattr(copies_recipe, "fit", lambda *given, **named: trained.append(1) or whole(*given, **named))
    method = RetainDistillation(self_improvement_range=(0.2, 0.7))

    def made(pipeline=make_pipeline(), method=method, forget=some_images(), n=60, seed=0):  # ruff: ignore[function-call-in-default-argument]
        given = make_auxiliaries(
            PipelineDenoiser.from_pipeline(pipeline), method, forget, sampler=SAMPLER, n_own_samples=n, seed=seed
        )
        assert given.tools.self_model is not None
        return given.tools.self_model.network.state_dict(), given.evaluations

    first, cost = made()
    again, cost_again = made(seed=1, forget=some_images(seed=2))  # neither the forget set nor the seed is in it
    assert len(trained) == 1 and cost_again == cost  # somebody paid for it
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    for other in ({"pipeline": make_pipeline(seed=1)}, {"n": 50}, {"method": RetainDistillation()}):
        before = len(trained)
        made(**other)
        assert len(trained) == before + (other.get("method") is None)  # its default has the same levels
    made(method=RetainDistillation(self_improvement_range=(0.2, 0.9)))
    files = list((cache_folder() / "self-models").iterdir())
    assert len(trained) == 4 == len(files)
    for each in files:
        each.write_bytes(b"not safetensors")
    mended, _ = made()
    assert len(trained) == 5 and "the self-trained auxiliary model is made again" in capsys.readouterr().err
    assert all(torch.equal(value, mended[name]) for name, value in first.items())
    made()
    assert len(trained) == 5  # and the file is whole again


def test_a_self_model_that_cannot_be_kept_is_named_and_used(make_pipeline, quick, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VDU_CACHE", str(tmp_path / "file"))
    given = make_auxiliaries(
        PipelineDenoiser.from_pipeline(make_pipeline()),
        RetainDistillation(),
        some_images(),
        sampler=SAMPLER,
        n_own_samples=60,
        seed=0,
    )
    assert given.tools.self_model is not None and given.record["self_model"]["made_now"]
    assert "this self-trained auxiliary model is not cached" in capsys.readouterr().err


def test_a_range_that_no_level_has_is_refused_before_samples_are_drawn(make_pipeline):
    method = RetainDistillation(self_improvement_range=(0.5, 0.500001))
    with pytest.raises(InputError, match=r"self_improvement_range: no step of the schedule"):
        make_auxiliaries(
            PipelineDenoiser.from_pipeline(make_pipeline()),
            method,
            some_images(),
            sampler=SAMPLER,
            n_own_samples=60,
            seed=0,
        )
    assert not (cache_folder() / "own-samples").exists()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_precision_outlasts_the_training_of_aids(make_pipeline, quick, monkeypatch, precision):
    """Classifiers and copies are trained in float32, and accelerate knows one precision for a process."""
    whole, seen = engine.train, []

    def watched(*given, accelerator, **named):
        seen.append(accelerator.mixed_precision)
        return whole(*given, accelerator=accelerator, **named)

    monkeypatch.setattr(engine, "train", watched)
    unlearn(
        make_pipeline(), RetainDistillation(), forget=some_images(), steps=1, batch_size=8, n_own_samples=60, sampler=SAMPLER,
        mixed_precision=precision, force=True, full_length=True, generator=torch.Generator().manual_seed(0), progress=None,
    )  # fmt: skip
    assert seen == [precision]


def test_sets_are_the_zones_of_the_shared_samples(make_pipeline, quick):
    pipeline = make_pipeline()
    given = make_auxiliaries(
        PipelineDenoiser.from_pipeline(pipeline),
        RetainDistillation(lead="retrack"),
        some_images(),
        sampler=SAMPLER,
        n_own_samples=60,
        seed=0,
    )
    shared, _ = cached_samples(PipelineDenoiser.from_pipeline(pipeline), 60, SAMPLER, progress=None)
    assert given.judged is not None and given.tools.retained is not None
    torch.testing.assert_close(given.tools.retained, shared.select(given.judged.kept).floats())
    retain, like = given.sets["retain"], given.sets["own_forget"]
    assert retain is not None and like is not None and int(given.judged.forget.sum()) >= 10
    assert torch.equal(retain.images, shared.select(given.judged.kept).images)
    assert torch.equal(like.images, shared.select(given.judged.forget).images)
    seeds = torch.tensor(image_seeds(SHARED_SEED, 60))[given.judged.forget].tolist()
    assert list(given.forget_seeds) == seeds


@pytest.mark.parametrize("lead", ["gradient", "retrack"])
def test_latents_are_made_where_samples_are_drawn_and_only_those_that_are_used(make_pipeline, quick, lead):
    """The original stands for a model elsewhere: its own autoencoder is never asked, the teacher's is."""
    pipeline = tiny_pipelines.variational(make_pipeline)
    original = PipelineDenoiser.from_pipeline(pipeline)
    teacher = replace(original.copy(), autoencoder=copy.deepcopy(pipeline.vqvae))
    here, there = tiny_pipelines.passing(pipeline.vqvae), tiny_pipelines.passing(teacher.autoencoder)
    forget = ImageSet(some_images().images.repeat(1, 3, 2, 2))
    given = make_auxiliaries(
        original, RetainDistillation(self_improvement=0.0, lead=lead), forget, sampler=SAMPLER, n_own_samples=60, seed=0,
        teacher=teacher,
    )  # fmt: skip
    kept = given.sets["retain"]
    assert kept is not None and given.tools.forget is not None
    n_trained = 3 * 2 * resemblance_recipe.BATCH_SIZE  # of the classifier: new images at each of its three steps
    assert not here and sum(there) == n_trained + len(forget) + (len(kept) if lead == "retrack" else 0)
    for found, images in ((given.tools.forget, forget), (given.tools.retained, kept)):
        if found is None:
            assert images is kept and lead == "gradient"
            continue
        with torch.no_grad():
            truth = 0.7 * pipeline.vqvae.encode(images.images / 127.5 - 1).latent_dist.mode()  # 0.7: its scaling_factor
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)  # in batches of other sizes, in float32


def test_the_forget_set_stands_in_for_too_few_like_it(make_pipeline, quick, monkeypatch):
    monkeypatch.setattr(aids_recipe, "FEWEST_LIKE_FORGET", 61)
    images = some_images()
    given = make_auxiliaries(
        PipelineDenoiser.from_pipeline(make_pipeline()),
        RetainDistillation(),
        images,
        sampler=SAMPLER,
        n_own_samples=60,
        seed=0,
    )
    assert given.sets["own_forget"] is images


# the end of a run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left", "full", "steps", "words"),
    [
        (0, False, 6, "0 of {n} held-out seeds after 6 steps); the aim of at most"),
        (99, False, 9, "99 of {n} held-out seeds after 9 steps); the aim of at most"),
        (99, True, 9, "all 9 steps were taken: the stopping rule was off"),
    ],
)
def test_a_run_ends_when_the_rule_says_so(make_pipeline, quick, all_unwanted, monkeypatch, left, full, steps, words):
    monkeypatch.setattr(ForgottenCheck, "remaining", lambda *_: left)
    result = unlearn(
        make_pipeline(), RetainDistillation(), forget=some_images(), steps=9, batch_size=8, n_own_samples=60, sampler=SAMPLER,
        force=True, full_length=full, generator=torch.Generator().manual_seed(0), progress=None,
    )  # fmt: skip
    assert result.training.steps == steps
    assert words.format(n=len(result.aids.held_out.seeds)) in result.ending
    assert (result.stopping is None) if full else result.stopping.reason == ("all_steps" if left else "forgotten")
    assert ("more --steps forget more, and so does a larger repulsion_scale" in result.ending) == (
        left > 0 and not full
    )
    assert bool(result.statement) == (not full)


@pytest.mark.slow
def test_a_run_that_was_stopped_has_the_weights_of_a_shorter_one_without_the_rule(
    make_pipeline, quick, all_unwanted, monkeypatch
):
    real = ForgottenCheck.remaining
    monkeypatch.setattr(ForgottenCheck, "remaining", lambda *given: 0 * real(*given))  # it draws, and is content
    stopped, short = (
        unlearn(
            make_pipeline(), RetainDistillation(), forget=some_images(), steps=n, full_length=full, batch_size=8, n_own_samples=60,
            sampler=SAMPLER, force=True, generator=torch.Generator().manual_seed(0), progress=None,
        )
        for n, full in ((9, False), (6, True))
    )  # fmt: skip
    assert stopped.stopping.step == short.training.steps == 6 and short.stopping is None
    others = short.pipeline.unet.state_dict()
    assert all(torch.equal(value, others[name]) for name, value in stopped.pipeline.unet.state_dict().items())
    held = stopped.aids.held_out
    looked = (
        len(held.seeds) * 2 + held.n_drawn * 2
    )  # one look and the held-out samples, 2 evaluations each; three levels of noise
    share = stopped.aids.record["resemblance"]["classifier_flops_share"]
    assert stopped.network_evaluations - short.network_evaluations == pytest.approx(
        looked + 3 * (3 + 1) * held.n_drawn * share, abs=2
    )


def test_a_run_without_the_rule_ends_with_the_reason(make_pipeline, quick, monkeypatch):
    monkeypatch.setattr(held_out_recipe, "FEWEST_LIKE_FORGET", 61)  # the concept is too rare
    result = unlearn(
        make_pipeline(), RetainDistillation(), forget=some_images(), steps=3, batch_size=8, n_own_samples=60, sampler=SAMPLER,
        force=True, progress=None,
    )  # fmt: skip
    assert result.aids.held_out.n_drawn == 0 and result.stopping is None
    assert (
        result.ending.startswith("all 3 steps were taken:")
        and "and so many were not expected; draw more" in result.ending
    )


def test_what_is_drawn_instead_stands_for_every_class_in_turn(monkeypatch):
    monkeypatch.setattr(aids_recipe, "N_INSTEAD", 5)
    drawn = []
    monkeypatch.setattr(aids_recipe, "sample", lambda *_, labels, **__: drawn.append(labels) or torch.zeros(5, 1, 8, 8))
    images = replace(some_images(20), labels=torch.tensor([3] * 15 + [7] * 5), class_names=tuple("abcdefgh"))
    made = aids_recipe._drawn_instead(None, images, 1, SAMPLER, 0, False)
    assert made.labels.tolist() == [3, 7, 3, 7, 3] and drawn == [[1] * 5]
