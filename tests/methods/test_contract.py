"""What every method keeps to, whatever its formula; the formulas are in the files beside this one.

Options are read from a method's dataclass, so that a new method, or a new option, is under the contract without a line here.
"""

import math
from dataclasses import MISSING, fields, replace

import pytest
import torch

from toys import SCHEDULE, SHAPE, Adapter, face, labelled, no_draws, noised, under_labels
from vdu.core.errors import InputError
from vdu.core.rng import isolated_global
from vdu.core.types import Tools
from vdu.diffusion.sampling import Sampler
from vdu.methods import registry
from vdu.posterior.gaussian import GaussianPosterior
from vdu.training.loop import TrainSettings, train

# the one place that says which methods there are
METHODS = {name: registry.get(name) for name in registry.names() if name != "auto"}

WORDS = {
    "form": "margin",
    "weights": "elbo",
    "target": "relabel",
    "lead": "retrack",
    "replay": "self",
}  # another choice
ZERO = {  # options that may be 0
    "alpha", "gamma", "repulsion_scale", "keep_scale", "gradient_length", "self_improvement", "inner_steps", "ewc", "replay_weight",
    "mask_seed", "pool_size", "hold_weight", "keep_weight",
}  # fmt: skip
NEEDS_POSTERIOR = {"vdu", "selective-amnesia"}
WITH_POSTERIOR = {"conflict-free": {"radius": 1.0}}  # options without which a posterior is refused
RANGES = [(0.7, 0.2), (-0.1, 0.5), (0.5, 1.1), (math.nan, 1.0), (0.5,), (0.1, 0.2, 0.3)]


def posterior_of(*names, variance=1.0):
    tensors = {name: torch.tensor(0.3, dtype=torch.float64) for name in names or ("a", "b")}
    return GaussianPosterior(
        mean=tensors,
        variance={name: torch.full_like(value, variance) for name, value in tensors.items()},
        estimator="test",
    )


def make(name, **options):
    needed = {"posterior": posterior_of()} if name in NEEDS_POSTERIOR else {}
    return METHODS[name](**needed | {"schedule": SCHEDULE} | options)


def options_of(name):
    """A method's own settings: name → default."""
    hidden = {"tools", "schedule", "posterior"}
    return {
        item.name: item.default
        for item in fields(METHODS[name])
        if item.init
        and item.metadata.get("option", True)
        and item.name not in hidden
        and not item.name.startswith("_")
        and item.default is not MISSING
    }


def takes_posterior(name):
    return any(item.name == "posterior" and item.init for item in fields(METHODS[name]))


ALL = sorted(METHODS)
TRAINED = [name for name in ALL if not METHODS[name].in_closed_form()]
LABELLED = " (labels)"  # the same method for a model with labels
FORMS = [name for name in TRAINED if name != "concept-ablation"] + [name + LABELLED for name in TRAINED]
OPTIONS = [(name, option) for name in ALL for option in options_of(name)]


def tools(**changes):
    given = {
        "teacher": face(0.6, 0.1), "forget_model": face(0.7, 0.1), "self_model": face(0.4, 0.3),
        "classifier": lambda x_t, alpha_bar: x_t.flatten(1).sum(1), "retained": noised(5, 8).x0, "forget": noised(7, 9).x0,
        "sampler": Sampler("ddim", 3),
    }  # fmt: skip
    return Tools(n_forget=7, **given | changes)


def batch_of(method):
    """A batch of every role that a method needs, with the random numbers that it wants drawn for it."""
    batch = {role: noised(4, seed) for seed, role in enumerate(sorted(method.needs))}
    source = torch.Generator().manual_seed(5)
    for role, wanted in getattr(method, "draws", {}).items():
        sizes = {"image": (4,), "element": (4, *SHAPE)}
        drawn = {name: torch.rand(sizes[kind], generator=source, dtype=torch.float64) for name, kind in wanted.items()}
        batch[role] = replace(batch[role], draws=drawn)
    if method._conditional:
        batch = {
            role: under_labels(each, *([0, 2, 0, 2] if role == "retain" else [1] * 4)) for role, each in batch.items()
        }
    return batch


def of_labels():
    """Tools for a model with three labels, of which 1 is forgotten and nothing in particular takes its place."""
    others = {
        name: labelled(*values)
        for name, values in {"teacher": (0.6, 0.1), "forget_model": (0.7, 0.1), "self_model": (0.4, 0.3)}.items()
    }
    conditions = {"forget_condition": torch.ones(7, dtype=torch.int64), "substitute": torch.tensor([3])}
    return tools(**others, **{name: {"class_labels": value} for name, value in conditions.items()})


def ready(form, **options):
    name = form.removesuffix(LABELLED)
    denoiser, given = (labelled(), of_labels()) if form.endswith(LABELLED) else (face(), tools())
    if name in NEEDS_POSTERIOR and form.endswith(LABELLED):
        options = {"posterior": posterior_of("a", "b", "c")} | options
    return denoiser, make(name, **options).for_model(denoiser).prepare(denoiser, given)


# Options


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_what_is_no_value_of_an_option_is_refused_by_name(name, option):
    default = options_of(name)[option]
    posterior = WITH_POSTERIOR.get(name, {}) | {"posterior": posterior_of()} if default is None else {}
    if isinstance(default, bool) or option.endswith("seed"):
        return  # every value of these is one
    if isinstance(default, str):
        with pytest.raises(InputError, match=f"{option}: got 'nonsense'; expected"):
            make(name, **{option: "nonsense"})
    elif isinstance(default, tuple):
        for wrong in RANGES:
            with pytest.raises(
                InputError, match=f"{option}: got .*; expected two numbers, 0 ≤ smallest ᾱ ≤ largest ᾱ ≤ 1"
            ):
                make(name, **{option: wrong})
    else:
        numbers = [-1] if isinstance(default, int) else [-1.0, math.nan, math.inf]
        for wrong in numbers + ([] if option in ZERO else [0 * numbers[0]]):
            with pytest.raises(InputError, match=f"{option}: got {wrong}; expected"):
                make(name, **posterior | {option: wrong})


@pytest.mark.parametrize("name", ALL)
def test_zero_and_the_ends_of_a_range_are_taken_where_they_mean_something(name):
    for option in ZERO & set(options_of(name)):
        assert getattr(make(name, **{option: 0}), option) == 0
    if "alpha_bar_range" in options_of(name):
        assert make(name, alpha_bar_range=(0.0, 1.0)).alpha_bar_range == (0.0, 1.0)
    if (
        "alpha_bar_range" in options_of(name) and options_of(name).get("weights") != "paper"
    ):  # a weight of Eq. 3 on one level is refused
        level = float(SCHEDULE.alpha_bars[2])
        assert make(name, alpha_bar_range=(level, level)).alpha_bar_range == (level, level)


# Identity


def another(option, default):
    if isinstance(default, bool):
        return not default
    if isinstance(default, str):
        return WORDS[option]
    if isinstance(default, tuple):
        return (0.2, 0.65)
    if option == "classifier_width":  # in groups of eight
        return default + 8
    return 1.0 if default is None else default + 1 if isinstance(default, int) else 1.5 * default


@pytest.mark.parametrize("name", ALL)
def test_the_identity_is_that_of_every_setting_and_of_nothing_else(name):
    defaults = options_of(name)
    posterior = WITH_POSTERIOR.get(name, {}) | {"posterior": posterior_of()}
    made = [make(name)]
    for option, default in defaults.items():
        own = posterior if default is None or option == "precondition" else {}
        made.append(
            make(name, **own | {option: another(option, default)} | ({"radius": 2.0} if option == "radius" else {}))
        )
    if takes_posterior(name):
        made += [make(name, **posterior | {"posterior": posterior_of(variance=value)}) for value in (2.0, 3.0)]
    made.append(METHODS[name](**({"posterior": posterior_of()} if name in NEEDS_POSTERIOR else {})))  # another schedule
    assert len({method.identity for method in made}) == len(made)
    assert make(name).identity == make(name).identity
    if name not in TRAINED:
        return
    _, prepared = ready(name if name in FORMS else name + LABELLED)
    prepared.load_state({key: 7.0 for key in prepared.state()})
    assert prepared.identity == make(name).identity  # neither tools nor what changes in a run


def test_names_are_those_of_the_list():
    assert {name: make(name).name for name in ALL} == {name: name for name in ALL}


# What it is given


@pytest.mark.parametrize("name", ALL)
def test_tools_that_are_missing_are_named(name):
    method = make(name)
    if method.uses:
        with pytest.raises(InputError, match=f"{name}: needs {', '.join(sorted(method.uses))}, got none"):
            method.prepare(face(), Tools(n_forget=7))
    else:
        method.prepare(face(), Tools(n_forget=7))


@pytest.mark.parametrize("name", [name for name in ALL if takes_posterior(name)])
def test_the_posterior_of_another_model_is_refused(name):
    method = make(name, **WITH_POSTERIOR.get(name, {}) | {"posterior": posterior_of("c")})
    with pytest.raises(InputError, match=r"network: names or shapes differ from those expected"):
        method.prepare(face(), tools())


class Watched(dict):
    """A batch that knows which roles were looked at."""

    def __init__(self, *given):
        super().__init__(*given)
        self.seen = set()

    def __getitem__(self, role):
        self.seen.add(role)
        return super().__getitem__(role)


@pytest.mark.parametrize("name", FORMS)
def test_it_reads_what_it_needs_and_gives_finite_terms(name):
    denoiser, method = ready(name)
    batch = Watched(batch_of(method))
    losses = method.losses(denoiser, batch)
    assert batch.seen == method.needs
    assert losses.terms and all(value.shape == () and value.requires_grad for value in losses.terms.values())
    assert not any(value.requires_grad for value in losses.observed.values())
    assert all(bool(value.isfinite()) for value in {**losses.terms, **losses.observed}.values())
    assert set(method.limits) <= set(losses.observed)
    assert not set(losses.terms) & set(losses.observed)  # the loop hands both to after_step, under one name each


@pytest.mark.parametrize("name", FORMS)
def test_only_the_model_itself_learns(name):
    denoiser, method = ready(name)
    sum(method.losses(denoiser, batch_of(method)).terms.values()).backward()
    assert all(value.grad is not None for value in denoiser.network.parameters())
    for other in filter(None, (getattr(method, "tools", None),)):
        for model in filter(None, (other.teacher, other.forget_model, other.self_model)):
            assert all(value.grad is None for value in model.network.parameters())


# Noise levels


@pytest.mark.parametrize("name", FORMS)
def test_levels_are_drawn_within_the_range_and_retained_images_at_all(name):
    ranged = "alpha_bar_range" in options_of(name.removesuffix(LABELLED))
    _, method = ready(name, **{"alpha_bar_range": (0.4, 0.8)} if ranged else {})
    inside = [not ranged or 0.4 <= level <= 0.8 for level in SCHEDULE.alpha_bars.tolist()]
    for role in method.needs:
        found = method.draw_weights(role)
        assert found.shape == (len(SCHEDULE),) and found.dtype == torch.float64
        assert found.bool().tolist() == ([True] * len(SCHEDULE) if role == "retain" else inside)


# Randomness and resume


@pytest.mark.parametrize("name", FORMS)
def test_nothing_is_drawn_outside_its_generators(name):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    denoiser, method = ready(name)
    losses = method.losses(denoiser, batch_of(method))
    gradients = {
        term: torch.autograd.grad(value, list(denoiser.network.parameters()), retain_graph=True)
        for term, value in losses.terms.items()
    }
    if method.per_term:
        method.combine(gradients)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", FORMS)
def test_the_same_batch_gives_the_same_losses_and_weights_stay(name):
    denoiser, method = ready(name)
    before = [value.detach().clone() for value in denoiser.network.parameters()]
    found = []
    for _ in range(2):
        with isolated_global(3):
            found.append({
                key: float(value.detach()) for key, value in method.losses(denoiser, batch_of(method)).terms.items()
            })
    assert found[0] == found[1]
    assert all(torch.equal(value, old) for value, old in zip(denoiser.network.parameters(), before, strict=True))


@pytest.mark.parametrize("name", FORMS)
def test_a_resumed_run_has_the_same_bits(name, tmp_path):
    options = (
        WITH_POSTERIOR.get(name, {}) | {"posterior": posterior_of()} if name in ALL and takes_posterior(name) else {}
    )
    ends = []
    for folder, parts in (("whole", [8]), ("halves", [4, 8])):
        for steps in parts:
            denoiser, method = ready(name, **options)
            train(
                denoiser.network, Adapter(method, denoiser, lambda method=method: batch_of(method)), no_draws,
                TrainSettings(steps=steps, learning_rate=1e-2), folder=tmp_path / folder, resume=True,
            )  # fmt: skip
        ends.append((method.state(), [float(value.detach()) for value in denoiser.network.parameters()]))
    assert ends[0] == ends[1]
    assert ends[0][1] != [float(value.detach()) for value in ready(name)[0].network.parameters()]


@pytest.mark.parametrize("name", FORMS)
def test_a_second_run_starts_where_the_first_did(name):
    denoiser, method = ready(name)
    start = method.state()
    method.load_state({key: 7.0 for key in start})
    assert method.state() == {key: 7.0 for key in start}
    given = of_labels() if name.endswith(LABELLED) else tools()
    assert method.prepare(denoiser, given).state() == start == ready(name)[1].state()
