"""Which own samples resemble the forget set: on images whose truth is known, and what is refused."""

from dataclasses import replace

import pytest
import torch

import tiny_pipelines
from vdu.core.errors import InputError
from vdu.core.rng import generator
from vdu.data.images import ImageSet
from vdu.diffusion.schedule import NoiseSchedule
from vdu.methods import registry
from vdu.models.adapt import adapt
from vdu.models.denoiser import PipelineDenoiser
from vdu.posterior.gaussian import GaussianPosterior
from vdu.replay.auxiliaries import needs_selection
from vdu.replay.noise_classifier import NoiseClassifier
from vdu.replay.selection import mean_scores, moved, require_enough, resemblance, select_samples

SCHEDULE = NoiseSchedule.linear(20, 1e-3, 0.4)
MODEL = PipelineDenoiser(torch.nn.Identity(), SCHEDULE, "epsilon", (1, 8, 8), {})
QUICK = {"score_steps": 120, "steps": 120, "batch_size": 32}


def stripes(upright: list[bool], seed: int = 0, contrast: int = 120) -> ImageSet:
    """Bars, upright or lying, with noise: 8×8."""
    source = torch.Generator().manual_seed(seed)
    images = torch.full((len(upright), 1, 8, 8), 60)
    for image, is_upright in zip(images, upright, strict=True):
        place = int(torch.randint(2, 6, (), generator=source))
        if is_upright:
            image[:, :, place : place + 2] += contrast
        else:
            image[:, place : place + 2, :] += contrast
    return ImageSet((images + torch.randint(-20, 20, images.shape, generator=source)).clamp(0, 255).byte())


@pytest.fixture(scope="module")
def sorted_stripes():
    truth = [i % 5 == 0 for i in range(200)]  # a fifth of the own samples are upright
    # the forget set is brighter than the own samples: real and generated images differ
    found = resemblance(stripes([True] * 100, 1, 130), stripes(truth, 2), MODEL, seed=0, **QUICK)
    return torch.tensor(truth), found


@pytest.mark.slow
def test_the_zones_are_the_truth_where_the_truth_is_plain(sorted_stripes):
    truth, found = sorted_stripes
    assert not bool((found.forget & found.kept).any())
    assert float(truth[found.forget].double().mean()) > 0.9
    assert float(truth[found.kept].double().mean()) < 0.05
    assert int(found.kept.sum()) > 100


def test_the_share_is_near_the_truth(sorted_stripes):
    truth, found = sorted_stripes
    assert found.share == pytest.approx(float(truth.double().mean()), abs=0.08)


def test_the_classifier_tells_noised_images_apart_and_knows_the_share(sorted_stripes):
    _, found = sorted_stripes
    clean = torch.full((100,), 0.9)
    images = stripes([True] * 50 + [False] * 50, seed=5).floats()
    x_t = 0.9**0.5 * images + 0.1**0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    calls = found.classifier(x_t, clean) > 0
    assert float(calls[:50].double().mean()) > 0.9 and float(calls[50:].double().mean()) < 0.1
    noise = torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    level = float(SCHEDULE.alpha_bars[-1])
    assert level < 0.02  # nothing can be seen there, so that P(forget) is the share
    guess = found.classifier(noise, torch.full((400,), level)).sigmoid()
    assert float(guess.mean()) == pytest.approx(found.share, abs=0.12)


def test_the_same_seed_gives_the_same_zones_and_weights(sorted_stripes):
    given = stripes([True] * 60, 1), stripes([i % 4 == 0 for i in range(80)], 2)
    quick = QUICK | {"score_steps": 20, "steps": 5}
    one, two, other = (resemblance(*given, MODEL, seed=seed, force=True, **quick) for seed in (3, 3, 4))
    assert torch.equal(one.kept, two.kept) and one.share == two.share
    x_t, level = torch.randn(5, 1, 8, 8), torch.full((5,), 0.5)
    assert torch.equal(one.classifier(x_t, level), two.classifier(x_t, level))
    assert not torch.equal(one.classifier(x_t, level), other.classifier(x_t, level))


def test_the_count_of_evaluations_is_that_of_the_loops(sorted_stripes):
    _, found = sorted_stripes
    trained = 3 * 2 * 32 * (120 + 120 + 120)  # two scorers and the classifier, as many of each kind
    assert found.evaluations == trained + 3 * (100 + 200)


@pytest.mark.slow
def test_a_model_that_does_not_make_it_is_refused():
    lying = stripes([False] * 120, 2)
    with pytest.raises(InputError, match="does not appear to generate this concept"):
        resemblance(stripes([True] * 60, 1), lying, MODEL, seed=0, **QUICK)
    found = resemblance(stripes([True] * 60, 1), lying, MODEL, seed=0, force=True, **QUICK)
    assert found.share < 0.05 and int(found.kept.sum()) > 100


@pytest.mark.slow
def test_a_model_that_hardly_makes_it_is_refused_with_a_number_to_draw():
    rarely = stripes([i < 4 for i in range(120)], 2)
    with pytest.raises(InputError, match="expected at least 10 to learn from") as refused:
        resemblance(stripes([True] * 60, 1), rarely, MODEL, seed=0, **QUICK)
    found = resemblance(stripes([True] * 60, 1), rarely, MODEL, seed=0, force=True, **QUICK)
    n = int(found.forget.sum())
    assert 0 < n < 10
    assert f"{n} of 120 generated samples match it" in str(refused.value)
    assert f"--n-own-samples {20 * 120 // n} for about 20" in str(refused.value)


@pytest.mark.slow
def test_a_model_that_makes_little_else_is_refused():
    mostly = stripes([i % 5 != 0 for i in range(200)], 2, 150)
    with pytest.raises(InputError, match="of the generated samples resemble it; expected at most half"):
        resemblance(stripes([True] * 100, 1, 150), mostly, MODEL, seed=0, **QUICK)


@pytest.mark.parametrize(
    ("n_forget", "n_own", "message"), [(39, 50, "39 forget images"), (50, 12, "12 generated samples")]
)
def test_too_few_images(n_forget, n_own, message):
    with pytest.raises(InputError, match=f"got {message}; expected at least 40"):
        resemblance(stripes([True] * n_forget), stripes([False] * n_own), MODEL, seed=0)


def test_moves_keep_a_flat_image_and_the_border_and_differ_from_image_to_image():
    flat = torch.full((3, 2, 8, 8), 0.3)
    torch.testing.assert_close(moved(flat, generator(0)), flat)
    image = stripes([True], 0).floats().expand(4, -1, -1, -1)
    made = moved(image, generator(1))
    assert made.shape == image.shape and len({each.sum().item() for each in made}) == 4
    assert float(made.min()) >= float(image.min()) - 1e-5  # no black comes in from outside
    assert torch.equal(moved(image, generator(1)), made)


def test_a_score_is_the_mean_logit_at_three_low_noise_levels():
    """Of the mean brightness as a logit, with noise of mean 0: mean of √ᾱ times the image's own."""
    images = ImageSet(torch.full((3, 1, 64, 64), 255, dtype=torch.uint8))  # 1 everywhere
    scores = mean_scores(lambda x, alpha_bar: x.flatten(1).mean(1), images, torch.arange(3), 0)  # pyright: ignore[reportArgumentType]
    expected = sum(level**0.5 for level in (0.98, 0.9, 0.66)) / 3
    assert scores.shape == (3,) and scores.tolist() == pytest.approx([expected] * 3, abs=0.02)
    again = mean_scores(lambda x, alpha_bar: x.flatten(1).mean(1), images, torch.arange(3), 0)  # pyright: ignore[reportArgumentType]
    assert torch.equal(scores, again)


def test_a_latent_model_encodes_what_is_scored_once_and_what_is_moved_at_every_step(make_pipeline):
    """Three noise levels see one latent; the training images are drawn anew, as many at every step."""
    pipeline, source = tiny_pipelines.variational(make_pipeline), torch.Generator().manual_seed(0)
    images = ImageSet(torch.randint(256, (50, 3, 16, 16), dtype=torch.uint8, generator=source))
    sizes, chosen, means = tiny_pipelines.passing(pipeline.vqvae), torch.arange(40, 50), []

    def brightness(x, alpha_bar):
        means.append(x.mean())
        return x.flatten(1).mean(1)

    scores = mean_scores(brightness, images, chosen, 0, adapt(pipeline))  # pyright: ignore[reportArgumentType]
    assert sum(sizes) == 10 and len(means) == 3
    with torch.no_grad():
        latents = 0.7 * pipeline.vqvae.encode(images.floats(chosen)).latent_dist.mode()  # 0.7: its scaling_factor
    expected = sum(level**0.5 for level in (0.98, 0.9, 0.66)) / 3 * latents.flatten(1).mean(1)
    # noise of 4×8×8 elements: standard deviation at most √(0.34/256) = 0.036 at one level, 0.016 of the mean of three
    torch.testing.assert_close(scores, expected, rtol=0, atol=0.07)
    sizes.clear()
    labelled = replace(images, labels=torch.arange(50) % 2)
    resemblance(images, labelled, adapt(pipeline), forget_labels=[0], seed=0, steps=3, batch_size=8)
    assert sum(sizes) == 3 * 2 * 8


def test_the_zones_are_quantiles_of_the_forget_set_and_nobody_is_scored_by_who_saw_him(monkeypatch):
    """Scores that are known: brightness. Own samples 0 to 99, forget images 50 to 99."""

    def flat(values):
        return ImageSet(torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous())

    seen = []

    def fit(self, positives, negatives, levels, steps, seed, title):
        seen.append({int(image[0, 0, 0]) for image in negatives.images})
        return len(seen) - 1

    def scores(classifier, images, chosen, seed):
        values = images.images[chosen, 0, 0, 0].float()
        if len(images) == 100:
            assert not {int(value) for value in values} & seen[classifier]
        return values

    monkeypatch.setattr("vdu.replay.selection._Fit.__call__", fit)
    monkeypatch.setattr("vdu.replay.selection.mean_scores", scores)
    zones = select_samples(flat(list(range(50, 100))), flat(list(range(100))), SCHEDULE, seed=0)
    tenth, twentieth = 50 + 0.1 * 49, 50 + 0.05 * 49  # the quantiles of 50, …, 99
    assert zones.forget.tolist() == [value >= tenth for value in range(100)]
    assert zones.kept.tolist() == [value < twentieth for value in range(100)]
    assert zones.share == pytest.approx(sum(value >= twentieth for value in range(100)) / 100 / 0.95)
    assert [len(each) for each in seen] == [50, 50]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (2, 9, 20)])
def test_the_classifier_takes_any_shape_from_8_pixels_on(shape):
    classifier = NoiseClassifier(shape)
    x_t = torch.randn(2, *shape, requires_grad=True)
    out = classifier(x_t, torch.tensor([0.999, 1e-5]))
    assert out.shape == (2,) and bool(torch.isfinite(out).all())
    out.sum().backward()
    assert x_t.grad is not None and float(x_t.grad.abs().sum()) > 0
    with pytest.raises(InputError, match="7×8 pixels; expected at least 8"):
        NoiseClassifier((1, 7, 8))


def test_the_advice_for_few_images_names_methods_that_take_any_number():
    with pytest.raises(InputError, match="bounded or esd, or vdu with its posterior"):
        require_enough("forget images", 5)
    for name in ("bounded", "esd", "vdu"):
        kind, given = registry.get(name), {}
        if kind.estimator:
            given["posterior"] = GaussianPosterior(mean={}, variance={}, estimator="none")
        assert bool(given) == (name == "vdu")
        assert not needs_selection(kind(**given), has_retain=False)
