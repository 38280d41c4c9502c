"""Is there something to forget, and did the training change anything?"""

import json

import pytest
import torch
from torch import nn

import tiny_pipelines
from vdu.core.errors import DivergenceError, InputError
from vdu.data.images import ImageSet
from vdu.diffusion.schedule import NoiseSchedule
from vdu.methods.vdu import gradient_ascent
from vdu.models.words import TextDenoiser
from vdu.unlearning.effect import require_concepts
from vdu.unlearning.unlearn import unlearn

ATTENTION = {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("AttnUpBlock2D",)}


class Echo(nn.Module):
    """ε_θ(x_t, t, c) = c, one number."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x_t, timestep, word):
        return word.view(-1, 1, 1, 1).expand_as(x_t)


class Pixels(TextDenoiser):
    is_latent = False  # pyright: ignore


def model(**numbers):
    def words(asked, device):
        return {"word": torch.tensor([{None: 0.0, "fox": 5.0, **numbers}[each] for each in asked])}

    return Pixels(Echo(), NoiseSchedule.linear(), "epsilon", (1, 4, 4), {}, words=words)


def images(n=6, shape=(1, 4, 4), seed=0):
    source = torch.Generator().manual_seed(seed)
    return ImageSet(torch.randint(256, (n, *shape), dtype=torch.uint8, generator=source))


@pytest.mark.parametrize(
    ("cat", "instead", "known"),
    [
        (0.21, None, True),  # the median of the others is 2² = 4, and 1 % of it 0.2²
        (0.19, None, False),
        (-0.21, None, True),
        (5.19, "fox", False),  # the distance from what takes its place counts
        (0.0, "fox", True),
    ],
)
def test_a_concept_is_told_from_its_substitute_as_other_prompts_are(cat, instead, known):
    asked = (model(cat=cat, dog=2.0, tree=-9.0, sea=0.1), images(), ["cat"], ["dog", "tree", "sea"], instead)
    if known:
        require_concepts(*asked)
    else:
        with pytest.raises(InputError, match=r"under 'cat' the model predicts what it predicts under .* --force"):
            require_concepts(*asked)


def test_a_model_that_ignores_words_knows_no_concept():
    with pytest.raises(InputError, match="under 'cat' the model predicts what it predicts under 'no prompt'"):
        require_concepts(model(cat=0.0, dog=0.0), images(), ["cat"], ["dog"], None)


@pytest.mark.slow
def test_a_prompt_without_effect_is_refused_and_forced():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline, asked = (
        tiny_pipelines.stable_diffusion(),
        {
            "forget": images(shape=(3, 16, 16)),
            "forget_prompt": "cat",
            "train": "attention",
            "learning_rate": 1e-3,
            "steps": 1,
            "batch_size": 4,
        },
    )
    assert unlearn(pipeline, "ascent", **asked, progress=None).warning is None
    for name, value in pipeline.unet.named_parameters():
        if "attn2.to_v" in name:
            nn.init.zeros_(value)  # no word reaches the image
    with pytest.raises(InputError, match="under 'cat' the model predicts what it predicts under 'no prompt'"):
        unlearn(pipeline, "ascent", **asked, progress=None)
    unlearn(pipeline, "ascent", **asked, progress=None, force=True)


def run(pipeline, rate, **options):
    return unlearn(
        pipeline,
        gradient_ascent(),
        forget=images(shape=(1, 8, 8)),
        steps=2,
        batch_size=4,
        learning_rate=rate,
        **options,
    )


def test_next_to_no_effect_is_a_warning(make_pipeline, tmp_path, capsys):
    made = run(make_pipeline(), 1e-9, folder=tmp_path)  # the biases are 0 and move
    assert 0 < made.prediction_change < 1e-4
    assert "warning: the predictions for the forget set moved by" in capsys.readouterr().err
    assert repr(made).count("\n") == 2 and "Raise --learning-rate" in repr(made)
    assert json.loads((tmp_path / "run.json").read_text())["prediction_change"] == made.prediction_change
    made = run(make_pipeline(), 1e-3, progress=None)
    assert made.prediction_change > 1e-3 and made.warning is None and repr(made).count("\n") == 1


@pytest.mark.parametrize("train", ["attention", "lora:2"])
def test_no_effect_at_all_is_an_error(make_pipeline, tmp_path, train):
    pipeline = make_pipeline(**ATTENTION)
    with pytest.raises(
        InputError, match="after 2 steps no weight differs from the original's, so nothing was forgotten"
    ):
        run(pipeline, 1e-20, train=train, folder=tmp_path / "run", progress=None)
    assert not (tmp_path / "run" / "pipeline").exists()
    run(pipeline, 1e-3, train=train, progress=None)


@pytest.mark.parametrize("folder", [None, "run"])
def test_a_divergence_in_the_last_step_is_one(make_pipeline, tmp_path, folder):
    """After it no loss is computed; the weights are finite, and what they predict is not."""
    where = folder and tmp_path / folder
    with pytest.raises(
        DivergenceError, match="diverged at step 1: the predictions of the trained model are not finite"
    ):
        unlearn(
            make_pipeline(), gradient_ascent(), forget=images(shape=(1, 8, 8)), steps=1, batch_size=4, learning_rate=1e30,
            folder=where, progress=None,
        )  # fmt: skip
    assert where is None or not (where / "pipeline").exists()


def test_the_change_is_that_of_the_predictions(make_pipeline):
    """By hand at one level: ‖ε_θ − ε₀‖ over ‖ε₀‖ of the result that is returned, its average and merged corrections included."""
    from vdu.diffusion.schedule import batch_at
    from vdu.models.adapt import adapt
    from vdu.unlearning import effect

    pipeline = make_pipeline(**ATTENTION)
    patch = pytest.MonkeyPatch()
    patch.setattr(effect, "LEVELS", (0.3,))
    made = run(pipeline, 1e-2, train="lora:2", ema_decay=0.5, progress=None)
    patch.undo()
    x0 = images(shape=(1, 8, 8)).floats()[: effect.N_IMAGES]
    noise = torch.randn(x0.shape, generator=effect.generator(0, "effect"))
    before, after = (
        adapt(each).noise(batch_at(x0, noise, 0.3, adapt(each).schedule)).detach().double()
        for each in (pipeline, made.pipeline)
    )
    assert made.prediction_change == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
