import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from vdu.core.errors import InputError
from vdu.posterior.gaussian import GaussianPosterior

SHAPES = {"conv.weight": (3, 2, 2), "attn.q": (4,), "scale": ()}


def named(seed: int, dtype=torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}


def make(dtype=torch.float32, **others) -> GaussianPosterior:
    variance = {name: tensor.exp() for name, tensor in named(1, dtype).items()}
    return GaussianPosterior(mean=named(0, dtype), variance=variance, estimator="test", **others)


def test_penalty_is_the_sum_over_all_entries():
    posterior, theta = make(), named(2)
    expected = 0.0
    for name in SHAPES:
        delta = theta[name].numpy().astype(np.float64) - posterior.mean[name].numpy()
        expected += float((delta**2 / (2 * posterior.variance[name].numpy().astype(np.float64))).sum())
    assert posterior.penalty(theta).dtype == torch.float64
    assert float(posterior.penalty(theta)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [0.3, -2.0])
def test_gradient_is_autograd_of_the_penalty(scale):
    posterior = make(torch.float64)
    parameters = {name: nn.Parameter(tensor) for name, tensor in named(2, torch.float64).items()}
    truth = torch.autograd.grad(scale * posterior.penalty(parameters), [parameters[name] for name in SHAPES])
    parameters["attn.q"].grad = torch.full((4,), 7.0, dtype=torch.float64)
    value = posterior.add_gradient(parameters, scale)
    for name, gradient in zip(SHAPES, truth, strict=True):
        before = 7.0 if name == "attn.q" else 0.0
        torch.testing.assert_close(parameters[name].grad, gradient + before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value, posterior.penalty(parameters).detach(), rtol=1e-12, atol=0.0)


def test_uncovered_parameters_get_no_gradient_and_missing_ones_are_refused():
    posterior = make()
    parameters = {name: nn.Parameter(tensor) for name, tensor in named(2).items()}
    parameters["other"] = nn.Parameter(torch.ones(1))
    posterior.add_gradient(parameters, 1.0)
    assert parameters["other"].grad is None
    with pytest.raises(InputError, match=r"1 of the posterior's 3 names missing, first \['scale'\]"):
        posterior.add_gradient({name: parameters[name] for name in ("conv.weight", "attn.q")}, 1.0)


def test_save_and_load_give_the_same_posterior(tmp_path):
    posterior = make(n_members=5, prior_precision=2.5, n_train=60, name_filter=".", temperature=0.5,
                     sources={"a": "0" * 64}, extras={"loss": 1.25})  # fmt: skip
    posterior.save(tmp_path / "posterior.safetensors")
    loaded = GaussianPosterior.load(tmp_path / "posterior.safetensors")
    for kind in ("mean", "variance"):
        before, after = getattr(posterior, kind), getattr(loaded, kind)
        assert list(before) == list(after) == sorted(SHAPES)
        assert all(torch.equal(before[name], after[name]) for name in SHAPES)
    names = ("estimator", "n_members", "prior_precision", "temperature", "n_train", "name_filter", "sources", "extras")
    assert {name: getattr(loaded, name) for name in names} == {name: getattr(posterior, name) for name in names}
    assert loaded.sha256 == posterior.sha256 != posterior.scaled(2.0).sha256
    assert [path.name for path in tmp_path.iterdir()] == ["posterior.safetensors"]


def test_float64_is_float32_on_disk(tmp_path):
    make(torch.float64).save(tmp_path / "p")
    loaded = GaussianPosterior.load(tmp_path / "p")
    assert loaded.mean["attn.q"].dtype == loaded.variance["scale"].dtype == torch.float32
    assert loaded.sha256 == make(torch.float64).sha256


def rewrite(path, metadata=lambda text: {"vdu_posterior": text}, **changes):
    """The file once more, with other metadata or tensors and without its checksum."""
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["vdu_posterior"])
        assert len(record.pop("checksum")) == 64
        text = json.dumps(record)
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    tensors.update({key.replace("__", "/"): tensor for key, tensor in changes.items()})
    save_file(tensors, path, metadata=metadata(text))


CASES = [
    ({"metadata": lambda text: None}, "no 'vdu_posterior' metadata"),
    ({"metadata": lambda text: {"vdu_posterior": "[1]"}}, "not a JSON record"),
    (
        {"metadata": lambda text: {"vdu_posterior": text.replace('format_version": 1', 'format_version": 99')}},
        "format version 99, expected 1",
    ),
    ({"metadata": lambda text: {"vdu_posterior": text.replace('"n_train"', '"n_trained"')}}, "record fields differ"),
    ({"mean__scale": torch.tensor(math.nan)}, "posterior mean of scale: 1 of 1 values are NaN"),
    ({"variance__scale": torch.tensor(math.nan)}, "posterior variance of scale: 1 of 1 entries are NaN"),
    ({"variance__scale": torch.tensor(0.0)}, "posterior variance of scale: 1 of 1 entries"),
    ({"variance__scale": torch.tensor(-1.0)}, "posterior variance of scale: 1 of 1 entries"),
    ({"variance__scale": torch.tensor(math.inf)}, "posterior variance of scale: 1 of 1 entries"),
    ({"variance__scale": torch.ones(2)}, r"scale: got shape \(2,\), expected \(\)"),
    ({"mean__more": torch.ones(2)}, "more: missing"),
    ({"stranger": torch.ones(2)}, "unexpected tensor 'stranger'"),
    ({"mean__scale": torch.tensor(1.0, dtype=torch.float64)}, "unexpected tensor 'mean/scale'"),
]


@pytest.mark.parametrize(("changes", "message"), CASES, ids=[message[:24] for _, message in CASES])
def test_strangers_are_refused(tmp_path, changes, message):
    make().save(tmp_path / "p")
    rewrite(tmp_path / "p", **changes)
    with pytest.raises(InputError, match=message):
        GaussianPosterior.load(tmp_path / "p")


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="not a readable safetensors file"):
        GaussianPosterior.load(tmp_path / "absent")
    make().save(tmp_path / "p")
    (tmp_path / "p").write_bytes((tmp_path / "p").read_bytes()[:-3])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        GaussianPosterior.load(tmp_path / "p")


def test_a_variance_that_float32_cannot_hold_is_refused():
    with pytest.raises(InputError, match="posterior variance of w: 1 of 2 entries"):
        GaussianPosterior(
            mean={"w": torch.zeros(2).double()}, variance={"w": torch.tensor([1.0, 1e-60]).double()}, estimator="test"
        )


def test_numbers_of_the_record_must_be_finite():
    for value in (math.nan, math.inf, 10**400, "much", None, torch.zeros(2)):
        with pytest.raises(InputError, match="posterior record: extras: 'loss' is .*; expected finite numbers by name"):
            make(extras={"loss": value})


def test_check_matches_lists_the_first_differences():
    posterior = make()
    posterior.check_matches(named(5))
    strangers = {"conv.weight": torch.zeros(3, 2), "attn.q": torch.zeros(4), "module.scale": torch.zeros(())}
    with pytest.raises(InputError, match=r"(?s)conv.weight: got shape \(3, 2\), expected \(3, 2, 2\).*scale: "):
        posterior.check_matches(strangers.items())


def test_name_filter_ignores_other_parameters():
    posterior = GaussianPosterior(
        mean={"attn.q": torch.zeros(4)}, variance={"attn.q": torch.ones(4)}, estimator="test", name_filter="^attn"
    )
    posterior.check_matches(named(5))
    assert torch.equal(posterior.with_mean(named(5)).mean["attn.q"], named(5)["attn.q"])


def test_training_the_network_leaves_a_posterior_of_its_weights_as_it_was():
    mean = {name: nn.Parameter(tensor) for name, tensor in named(2).items()}
    variance = {name: tensor.exp() for name, tensor in named(1).items()}
    posterior = GaussianPosterior(mean=mean, variance=variance, estimator="test")
    others = [posterior.to(dtype=torch.float32), posterior.only(SHAPES), posterior.scaled(1.0)]
    with torch.no_grad():
        for tensor in (*mean.values(), *variance.values()):
            tensor.add_(1)
    for made in (posterior, *others):
        for name in SHAPES:
            assert torch.equal(made.mean[name], named(2)[name])
            assert torch.equal(made.variance[name], named(1)[name].exp())
    assert others[1].mean["scale"] is posterior.mean["scale"]  # no second copy


def test_with_mean_copies():
    parameters = {name: nn.Parameter(tensor) for name, tensor in named(2).items()}
    posterior = make().with_mean(parameters)
    with torch.no_grad():
        parameters["scale"].add_(1)
    assert torch.equal(posterior.mean["scale"], named(2)["scale"])
    assert not posterior.mean["scale"].requires_grad
    with pytest.raises(InputError, match="new mean: names or shapes differ"):
        make().with_mean({"scale": torch.zeros(())})


def test_temperature_scales_the_variance_and_is_recorded():
    posterior, theta = make(), named(2)
    hot = posterior.scaled(4.0).scaled(0.5)
    assert hot.temperature == pytest.approx(2)
    torch.testing.assert_close(hot.variance["attn.q"], 2 * posterior.variance["attn.q"])
    assert float(hot.penalty(theta)) == pytest.approx(float(posterior.penalty(theta)) / 2, rel=1e-6)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match=r"temperature: got .*expected a number above 0"):
            posterior.scaled(bad)


def test_samples_have_the_posterior_mean_and_variance():
    n = 40_000
    posterior = GaussianPosterior(
        mean={"w": torch.full((n,), 3.0)}, variance={"w": torch.full((n,), 4.0)}, estimator="t"
    )
    state = torch.get_rng_state()
    draw = posterior.sample(torch.Generator().manual_seed(0))["w"].double()
    assert torch.equal(state, torch.get_rng_state())
    assert float(draw.mean()) == pytest.approx(3.0, abs=4 * 2 / math.sqrt(n))  # four standard errors
    assert float(draw.var()) == pytest.approx(4.0, abs=4 * 4 * math.sqrt(2 / n))
    assert torch.equal(draw, posterior.sample(torch.Generator().manual_seed(0))["w"].double())


def test_to_changes_the_dtype_of_both_parts():
    posterior = make().to(dtype=torch.float64)
    assert posterior.mean["scale"].dtype == posterior.variance["scale"].dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda each: each.scaled("2"), "temperature: got '2'; expected a number above 0"),
        (lambda each: each.sample(0), r"generator: got 0; expected a torch\.Generator"),
        (lambda each: each.with_mean(None), "mean: got None; expected tensors by name"),
        (lambda each: each.to("gpu"), "device: got 'gpu'; expected a torch.device"),
        (lambda each: each.to(dtype="float16"), "dtype: got 'float16'; expected a torch.dtype"),
        (lambda each: each.penalty(nn.Linear(2, 2)), "parameters: got a Linear; expected tensors by name"),
        (lambda each: each.check_matches(nn.Linear(2, 2)), "named_parameters: got a Linear; expected tensors by name"),
        (lambda each: each.save(3), "path: got 3; expected a path"),
        (lambda each: each.only("attn.q"), "names: got 'attn.q'; expected a list of names"),
        (lambda each: each.only(["attn.q", "nope"]), r"names: 1 of 2 are not among the posterior's 3 .*\['nope'\]"),
        (lambda each: each.only(torch.tensor(2)), "names: got a Tensor; expected a list of names"),
        (lambda each: each.to(2**63), "device: got 9223372036854775808; expected a torch.device"),
        (lambda each: each.add_gradient({}, scale=math.nan), "scale: got nan; expected a finite number"),
        (lambda _: make(extras=3), "posterior record: extras: got 3; expected finite numbers by name"),
        (lambda _: make(sources="x"), "posterior record: sources: got 'x'; expected hashes"),
        (lambda _: make(sources={"model": 3}), "posterior record: sources: 'model' is 3; expected hashes"),
        (lambda _: make(name_filter=3), "name_filter: got 3; expected a regular expression"),
        (lambda _: make(temperature=-1.0), "temperature: got -1.0; expected a number above 0"),
        (lambda _: make(n_train=-5), "n_train: got -5; expected at least 1"),
        (lambda _: make(n_train=2.0), "n_train: got 2.0; expected a whole number, at least 1"),
    ],
)
def test_wrong_arguments_are_refused_in_words(call, message):
    with pytest.raises(InputError, match=message):
        call(make())
