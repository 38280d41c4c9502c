"""A class-conditional model goes all the way: trained with labels, made to forget one, sampled by label, reloaded."""

from dataclasses import replace

import pytest
import torch

from vdu.core.errors import InputError
from vdu.core.types import Denoiser
from vdu.data.images import ImageSet
from vdu.diffusion.sampling import Sampler, sample
from vdu.diffusion.schedule import noised_batch
from vdu.methods.distillation import RetainDistillation
from vdu.methods.retrack import Retrack
from vdu.methods.vdu import gradient_ascent
from vdu.models.adapt import adapt
from vdu.models.networks import new_pipeline
from vdu.models.pipelines import load_pipeline
from vdu.models.saving import save_pipeline
from vdu.probes import completion, inpainting, likelihood, membership, relearning, retrained, stochastic
from vdu.probes.context import ProbeContext
from vdu.replay import auxiliaries, auxiliary_models
from vdu.replay.generated import cached_samples
from vdu.replay.selection import resemblance
from vdu.training.batches import labels_for
from vdu.training.loop import TrainSettings
from vdu.training.pretraining import fit
from vdu.unlearning.unlearn import planned, unlearn

NAMES = ("dark", "bright")
SAMPLER = Sampler("ddpm", steps=10, microbatch_size=10)


def shades(n=40, seed=0):
    """Class 0 is dark, class 1 is bright, 8×8."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    level = (40 + 170 * labels).view(-1, 1, 1, 1)
    pixels = (level + torch.randint(-20, 21, (n, 1, 8, 8), generator=source)).clamp(0, 255).to(torch.uint8)
    return ImageSet(pixels, labels, class_names=NAMES, description="shades")


def brightness(denoiser, label, n=10):
    return float(sample(denoiser, range(n), SAMPLER, labels=[label] * n).mean())


@pytest.fixture(scope="module")
def trained():
    """A pipeline that draws either shade on demand, in some seconds."""
    pipeline = new_pipeline((1, 8, 8), seed=0, class_names=NAMES)
    how = TrainSettings(steps=300, learning_rate=1e-2, lr_schedule="linear", max_grad_norm=1.0, ema_decay=0.97, seed=1)
    fit(adapt(pipeline), shades(), how, batch_size=16, seed=2, label_dropout=0.1)
    return pipeline


def test_a_training_is_not_resumed_after_its_class_was_renamed(tmp_path):
    """A model that has its classes already, and images of one of them."""
    dark = shades(8).select(shades(8).labels == 0)
    for names, stops in ((NAMES, False), (NAMES, False), (("bright", "dark"), True)):
        how = {"settings": TrainSettings(steps=1, learning_rate=1e-3), "batch_size": 4, "seed": 2}
        model, images = adapt(new_pipeline((1, 8, 8), seed=0, class_names=NAMES)), replace(dark, class_names=names)
        assert images.sha256 == dark.sha256
        if stops:
            with pytest.raises(InputError, match="was written with other settings, data or model"):
                fit(model, images, **how, folder=tmp_path, resume=True)
        else:
            fit(model, images, **how, folder=tmp_path, resume=True)


def test_it_draws_what_it_is_asked_for(trained):
    denoiser = adapt(trained)
    assert isinstance(denoiser, Denoiser) and denoiser.class_names == NAMES
    dark, bright = brightness(denoiser, "dark"), brightness(denoiser, "bright")
    assert bright - dark > 0.5, (dark, bright)
    made, _ = cached_samples(denoiser, 20, SAMPLER, progress=None)
    assert made.class_names == NAMES
    means = made.images.float().mean((1, 2, 3))
    assert (means[made.labels == 1].min() > means[made.labels == 0].max()).item()  # each under its own label


def denoising_error(denoiser, label):
    """Mean squared error of the predicted noise, of other images of the label under it."""
    images, source, errors = shades(40, seed=5), torch.Generator().manual_seed(3), []
    x = images.select(images.labels == NAMES.index(label)).floats()
    for _ in range(10):
        index, noise = torch.randint(1000, (len(x),), generator=source), torch.randn(x.shape, generator=source)
        condition = denoiser.condition([label] * len(x))
        batch = noised_batch(x, index, noise, denoiser.schedule, denoiser.schedule, condition=condition)
        with torch.no_grad():
            errors.append(float((denoiser.noise(batch) - noise).square().mean()))
    return sum(errors) / len(errors)


@pytest.mark.slow
def test_ascent_on_a_label_leaves_the_other_label_less_changed(trained, tmp_path):
    forget = shades().select(torch.arange(1, 40, 2))
    result = unlearn(
        trained, gradient_ascent(), forget=forget, steps=25, batch_size=16, learning_rate=3e-4, progress=None,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    save_pipeline(result.pipeline, tmp_path / "clean")
    before, after = adapt(trained), adapt(load_pipeline(tmp_path / "clean"))
    assert after.class_names == NAMES
    risen = {name: denoising_error(after, name) - denoising_error(before, name) for name in NAMES}
    assert risen["bright"] > 1.05 * risen["dark"] > 0


@pytest.mark.slow
def test_generated_samples_are_sorted_by_their_label(trained, monkeypatch):
    short = {"steps": 2, "batch_size": 6, "learning_rate": 1e-4}
    monkeypatch.setattr(auxiliary_models, "self_model_settings", lambda steps: short)
    monkeypatch.setattr(auxiliary_models, "FORGET_MODEL", short)
    monkeypatch.setattr(
        auxiliaries, "resemblance", lambda *given, **options: resemblance(*given, **options | {"steps": 30})
    )
    for method in (Retrack(), RetainDistillation()):
        made = unlearn(
            trained, method, forget=shades(80).select(torch.arange(1, 80, 2)), steps=3, batch_size=8, n_own_samples=100,
            sampler=SAMPLER, progress=None, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        judged, retained = made.aids.judged, made.aids.sets["retain"]
        assert set(retained.labels.tolist()) == {0}
        assert int(judged.forget.sum()) + int(judged.kept.sum()) == 100
        seeds = made.aids.forget_seeds
        assert {seed % 2 for seed in seeds} == {1} and len(seeds) == int(judged.forget.sum())


def test_images_without_labels_are_refused(trained):
    with pytest.raises(InputError, match="the model is class-conditional, and these images have no labels"):
        unlearn(
            trained, gradient_ascent(), forget=ImageSet(shades().images), generator=torch.Generator().manual_seed(0)
        )


def test_images_of_a_class_that_the_model_does_not_know_are_refused(trained):
    strange = ImageSet(shades().images, shades().labels, class_names=("dark", "grey"))
    with pytest.raises(InputError, match="images of class 'grey', which the model lacks; its classes are dark, bright"):
        unlearn(trained, gradient_ascent(), forget=strange, generator=torch.Generator().manual_seed(0))


def test_numbers_are_not_matched_with_folders_of_other_numbers(make_pipeline):
    """A model that torchvision's folders 1 to 3 trained, saved without names, has the classes 0 to 2; the folder 2 is its class 1."""
    pipeline = make_pipeline(num_class_embeds=3)
    images = ImageSet(shades().images, shades().labels, class_names=("1", "2", "3"))
    with pytest.raises(
        InputError, match="has a class '3', which the model lacks. The model does not name .* the class '1' of"
    ):
        unlearn(pipeline, gradient_ascent(), forget=images, generator=torch.Generator().manual_seed(0))
    pipeline.unet.register_to_config(class_names=["1", "2", "3"])
    assert labels_for(adapt(pipeline), images, torch.arange(2), "forget") == images.labels[:2].tolist()
    pipeline.unet.register_to_config(class_names=["0", "1", "2"])  # names of its own: of a model without the class 3
    assert labels_for(adapt(pipeline), images, torch.tensor([0]), "forget") == [int(images.labels[0]) + 1]


@pytest.mark.slow
def test_every_probe_runs_under_the_labels_of_its_images(trained):
    """With and without real images of the rest: then generated ones, under the label that they were drawn with."""
    everything, model = shades(), adapt(trained)
    forget, rest = (everything.select(everything.labels == label) for label in (1, 0))
    options = {"sampler": Sampler("ddim", steps=3, microbatch_size=10), "seed": 0, "progress": False}
    small = {
        relearning: {"n_shown": (4,), "steps": (0, 1), "n_images": 10, "how": relearning.FineTuning(batch_size=4)},
        stochastic: {"n_images": 10},
        completion: {"n_images": 4, "n_draws": 20, "handed_shares": (0.5,)},
        inpainting: {"n_images": 4},
        likelihood: {"n_images": 3, "n_draws": 4},
        membership: {"n_images": 6, "n_levels": 2},
        retrained: {"n_images": 3, "alpha_bars": (0.5,)},
    }
    for retain in (rest, None):
        context = ProbeContext(
            model, model, model, forget, forget if retain is not None else None, retain, retain,
            is_forget=lambda images: images.images.float().mean((1, 2, 3)) > 127, **options,
        )  # fmt: skip
        for probe, sizes in small.items():
            found = probe.probe(context, **sizes)
            assert found["status"] == "measured" or found["code"] == "no_held_out_images", (probe.__name__, found)


def test_likelihood_is_that_of_an_image_under_its_own_label(trained):
    model, images = adapt(trained), shades(8)
    right, wrong = (
        float(
            likelihood.bits_per_dim(
                model, images.images, 8, generator=torch.Generator().manual_seed(0), labels=labels
            ).values.mean()
        )
        for labels in (images.labels.tolist(), (1 - images.labels).tolist())
    )
    assert right < wrong


def test_a_label_by_its_number_goes_with_a_substitute():
    pipeline = new_pipeline((1, 8, 8), seed=0, class_names=("zero", "one", "two"))
    images = ImageSet(torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8))
    kept = ImageSet(images.images + 1, torch.tensor([0, 2, 0, 2]))
    found = planned(pipeline, "salun", forget=images, forget_label=1, instead="two", retain=kept, steps=1, batch_size=2)
    assert found.forget_label == ("one",) and set(found.forget.labels.tolist()) == {1}
