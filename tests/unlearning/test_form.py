"""What takes the place of the concept, and whole runs of the peers on models with labels and with prompts."""

from dataclasses import replace

import pytest
import torch

import tiny_pipelines
from vdu.core.errors import InputError
from vdu.core.rng import derive_seed
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.methods.distillation import RetainDistillation
from vdu.models.adapt import adapt
from vdu.models.networks import new_pipeline
from vdu.posterior.isotropic import fit_isotropic
from vdu.replay import auxiliaries
from vdu.replay.generated import cached_samples, image_seeds
from vdu.unlearning import engine
from vdu.unlearning.fit_posterior import fit_posterior
from vdu.unlearning.unlearn import planned, unlearn

NAMES = ("dark", "bright", "grey")
PIXELS = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
QUICK = {
    "sampler": Sampler("ddim", 2, microbatch_size=64),
    "steps": 2,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "progress": None,
}


@pytest.fixture
def labelled():
    return new_pipeline((1, 8, 8), seed=0, class_names=NAMES)


@pytest.fixture
def caught(monkeypatch):
    """The auxiliaries that a run made."""
    found, make = [], engine.make_auxiliaries
    monkeypatch.setattr(
        engine, "make_auxiliaries", lambda *given, **named: found.append(make(*given, **named)) or found[-1]
    )
    return found


def moved(before, after):
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize(
    ("method", "instead"), [("esd", None), ("esd", "grey"), ("concept-ablation", None), ("concept-ablation", 2)]
)
def test_a_label_goes_to_the_null_class_or_to_another_one(labelled, caught, method, instead):
    made = unlearn(labelled, method, forget_label="bright", instead=instead, **QUICK)
    assert caught[0].tools.substitute["class_labels"].tolist() == [3 if instead is None else 2]
    assert moved(labelled.unet.state_dict(), made.pipeline.unet.state_dict())
    if method == "concept-ablation":
        drawn = caught[0].sets["instead"]
        assert len(drawn) == 256 and set(drawn.labels.tolist()) == {1} and drawn.class_names == NAMES
        assert made.network_evaluations >= 256 * 2


def test_what_is_drawn_instead_is_what_the_original_draws_under_that_label(labelled, caught):
    """The label of the drawing is the other one, that of the training the one to forget."""
    made = unlearn(labelled, "concept-ablation", forget_label="bright", instead="grey", **QUICK)
    seeds = image_seeds(derive_seed(made.plan.run_seed, "instead"), 64)
    expected = to_uint8(sample(adapt(labelled), seeds, QUICK["sampler"], labels=["grey"] * 64))
    assert torch.equal(caught[0].sets["instead"].images[:64], expected)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("esd", {"instead": "bright"}, "instead: got bright, which is to be forgotten"),
        ("esd", {"instead": "green"}, "instead 'green': unknown; the classes are"),
        ("anchor", {"instead": "grey"}, "instead: the method anchor draws nothing in its place; leave it out.$"),
        (
            "erasediff",
            {"instead": "grey"},
            "the method erasediff draws nothing in its place with these options; leave it out, or choose",
        ),
        (
            "erasediff",
            {"instead": "grey", "target": "uniform-fresh"},
            "erasediff draws nothing in its place with these options",
        ),
        (
            "distillation",
            {"instead": "grey", "lead": "retrack"},
            "distillation draws nothing in its place with these options",
        ),
        (
            "esd",
            {"train": "cross-attention"},
            "'cross-attention', and this UNet2DModel has no such layers, so nothing would train",
        ),
        ("esd", {"train": "non-cross-attention"}, "'non-cross-attention', and this UNet2DModel has no such layers"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_drawn(labelled, monkeypatch, method, options, message):
    with pytest.raises(InputError, match=message):
        unlearn(labelled, method, forget_label="bright", **QUICK | options)


def other_posterior(make_pipeline):
    other = make_pipeline(num_class_embeds=3)
    with torch.no_grad():
        other.unet.conv_in.weight.mul_(2)
    return {"method": "vdu", "posterior": fit_posterior(other, "isotropic", generator=torch.Generator())}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda _: {"retain": PIXELS}, "the model is class-conditional, and these images have no labels"),
        (
            lambda _: {"retain": ImageSet(PIXELS, torch.ones(8, dtype=torch.int64))},
            r"--retain: all 8 images are of a class to be forgotten \(1\); expected others",
        ),
        (other_posterior, "posterior: was fitted to the model with SHA-256"),
    ],
)
def test_what_needs_no_drawn_image_is_refused_before_the_forget_set_is_drawn(
    make_pipeline, monkeypatch, options, message
):
    pipeline, given = make_pipeline(num_class_embeds=3), options(make_pipeline)

    def drawn(*_, **__):
        raise AssertionError("an image was drawn")

    monkeypatch.setattr("vdu.unlearning.labels.sample", drawn)
    how = {"method": "finetune", "forget_label": 1, "sampler": QUICK["sampler"]}
    with pytest.raises(InputError, match=message):
        planned(pipeline, **how | given)
    with pytest.raises(AssertionError, match="an image was drawn"):  # without it, the forget set is drawn
        planned(pipeline, **how)


def test_a_drawn_forget_set_is_what_the_model_draws_under_its_label(make_pipeline):
    pipeline = make_pipeline(num_class_embeds=3)
    retain = ImageSet(PIXELS, torch.arange(8) % 3)
    plan = planned(pipeline, "finetune", forget_label=1, retain=retain, sampler=QUICK["sampler"], seed=7)
    assert plan.forget.labels is not None and plan.forget.labels.tolist() == [1] * 256
    seeds = image_seeds(derive_seed(7, "forget set"), 4)
    first = to_uint8(sample(adapt(pipeline), seeds, QUICK["sampler"], labels=[1] * 4))
    assert torch.equal(plan.forget.images[:4], first)
    assert plan.retain is not None and torch.equal(plan.retain.images, PIXELS[retain.labels != 1])


def test_a_model_without_a_null_class_needs_another_one(make_pipeline):
    pipeline = make_pipeline(num_class_embeds=3)
    with pytest.raises(
        InputError, match="--instead is missing: the method esd leads to the predictions without a class"
    ):
        planned(pipeline, "esd", forget_label=1)
    for other in (0, 2):
        assert planned(pipeline, "esd", forget_label=1, instead=other, sampler=QUICK["sampler"]).prompts == {
            "instead": other
        }


def test_an_unconditional_model_takes_nothing_instead(make_pipeline):
    images = ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match="--instead: got one for an unconditional model"):
        planned(make_pipeline(), "esd", forget=images, instead="x")
    with pytest.raises(InputError, match="concept-ablation: this model is unconditional"):
        planned(make_pipeline(), "concept-ablation", forget=images)


@pytest.mark.slow
@pytest.mark.parametrize(("train", "inside"), [("cross-attention", True), ("non-cross-attention", False)])
def test_esd_x_and_esd_u_for_a_prompt(caught, train, inside):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = tiny_pipelines.stable_diffusion()
    made = unlearn(pipeline, "esd", forget_prompt="cat", train=train, **QUICK)
    names = moved(pipeline.unet.state_dict(), made.pipeline.unet.state_dict())
    assert names and all(("attn2" in name) == inside and "norm" not in name for name in names)
    empty = made.plan.original.condition([None])["encoder_hidden_states"]
    assert torch.equal(caught[0].tools.substitute["encoder_hidden_states"], empty)


def test_for_words_it_is_a_prompt():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    with pytest.raises(InputError, match="--instead: got 3; expected a prompt"):
        planned(tiny_pipelines.stable_diffusion(), "esd", forget_prompt="cat", instead=3)


def test_images_without_captions_have_nothing_to_lead_away_from():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    images = ImageSet(torch.zeros(4, 3, 16, 16, dtype=torch.uint8))
    for method in ("esd", "concept-ablation", "uce"):
        with pytest.raises(
            InputError, match="--forget: .* no captions, .* expected --forget-prompt, which says what they show"
        ):
            planned(tiny_pipelines.stable_diffusion(), method, forget=images)
    captioned = replace(images, labels=torch.zeros(4, dtype=torch.int64), class_names=("cat",))
    with pytest.raises(
        InputError, match="--forget-prompt is missing: the method uce needs what is to be forgotten in words"
    ):
        planned(tiny_pipelines.stable_diffusion(), "uce", forget=captioned)


@pytest.mark.parametrize("instead", [None, "grey"])
def test_distillation_shows_all_generated_samples_under_the_label_unless_one_is_named_instead(
    labelled, caught, monkeypatch, instead
):
    whole = auxiliaries.resemblance
    quick = {"score_steps": 2, "steps": 2, "force": True}
    monkeypatch.setattr(auxiliaries, "resemblance", lambda *given, **options: whole(*given, **options | quick))
    options = {"self_improvement": 0.0, "n_own_samples": 90, "full_length": True, "batch_size": 8}
    unlearn(labelled, "distillation", forget_label="bright", instead=instead, **QUICK | options)
    made, drawn = caught[0], cached_samples(adapt(labelled), 90, QUICK["sampler"])[0]
    shown, bright = made.sets["own_forget"], int((drawn.labels == 1).sum())
    assert made.tools.substitute["class_labels"].tolist() == [3 if instead is None else 2]
    assert set(shown.labels.tolist()) == {1}
    if instead is None:  # those that match the forget set first, as the stopping rule's picture has them
        assert torch.equal(shown.images[:bright], drawn.images[drawn.labels == 1])
        assert torch.equal(shown.images[bright:], drawn.images[drawn.labels != 1])
    else:
        assert torch.equal(shown.images, drawn.images[drawn.labels == 1])


def test_under_labels_all_noise_levels_are_used_unless_a_range_is_given(labelled, capsys):
    how = {"forget_label": "bright", "sampler": QUICK["sampler"]}
    assert planned(labelled, "distillation", **how).chosen.method.alpha_bar_range == (0.0, 1.0)
    given = planned(labelled, "distillation", alpha_bar_range=(0.1, 0.5), **how)
    assert given.chosen.method.alpha_bar_range == (0.1, 0.5)
    named = planned(labelled, "distillation", instead="grey", **how)
    assert named.chosen.method.alpha_bar_range == RetainDistillation.alpha_bar_range
    assert "taken as they are" not in capsys.readouterr().err
    made = planned(labelled, RetainDistillation(), **how)  # an object is taken as it is, and the record says so
    said = "alpha_bar_range=0.0015,0.66. By its name, distillation would have its defaults for a model with labels and a null class"
    assert said in capsys.readouterr().err
    assert made.chosen.method.alpha_bar_range == RetainDistillation.alpha_bar_range
    assert made.chosen.options == ("alpha_bar_range=0.0015,0.66",)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"repulsion_scale": 50.0}, {"lead": "forget-model"}, {"gradient_length": 0.5}])
def test_options_of_a_target_that_the_substitute_replaces_are_refused(labelled, options):
    name, value = next(iter(options.items()))
    told = {"forget_label": "bright", "keep_scale": 0.0, **options}
    with pytest.raises(InputError, match=f"--option {name}={value}: has no effect where something takes the place"):
        planned(labelled, "distillation", instead="grey", **told)
    planned(labelled, "distillation", **told)  # without a substitute it has one


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("salun", {}),
        ("salun", {"instead": "grey"}),
        ("erasediff", {"target": "relabel"}),
        ("erasediff", {"target": "relabel", "instead": "grey"}),
        ("siss", {}),
        ("selective-amnesia", {"instead": 0}),
    ],
)
def test_the_others_run_under_labels_with_images_to_keep(labelled, caught, method, options):
    source = torch.Generator().manual_seed(0)
    kept = ImageSet(
        torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8, generator=source),
        torch.arange(12) % 2 * 2,
        class_names=NAMES,
    )
    if method == "selective-amnesia":
        options = options | {"posterior": fit_isotropic(dict(labelled.unet.named_parameters()), 1.0)}
    made = unlearn(labelled, method, forget_label="bright", retain=kept, **QUICK | options)
    assert moved(labelled.unet.state_dict(), made.pipeline.unet.state_dict())
    tools = caught[0].tools
    assert (tools.substitute is not None) == ("instead" in options)
    if method == "salun":
        assert (
            set(tools.forget_condition["class_labels"].tolist()) == {1}
            and len(tools.forget_condition["class_labels"]) == 256
        )
