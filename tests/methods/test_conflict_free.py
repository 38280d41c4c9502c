import math

import pytest
import torch
from torch import nn

from toys import SCHEDULE, Adapter, face, no_draws, noised
from vdu.core.errors import InputError
from vdu.core.types import Tools
from vdu.methods.conflict_free import ConflictFree, projected_sum
from vdu.posterior.gaussian import GaussianPosterior
from vdu.training.loop import TrainSettings, train


def roles():
    return {role: noised(6, seed) for seed, role in enumerate(("forget", "retain"))}


def posterior_of(names=("a", "b"), variances=(3.0, 1.0)) -> GaussianPosterior:
    tensors = {name: torch.tensor(value) for name, value in zip(names, variances, strict=True)}
    return GaussianPosterior(
        mean={name: torch.tensor(9.0) for name in tensors},
        variance=tensors,
        estimator="test",
        name_filter="|".join(names),
    )


def make(denoiser=None, **options):
    denoiser = denoiser or face()
    return denoiser, ConflictFree(**options).prepare(denoiser, Tools(n_forget=3))


def pairs(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def parameters_of(a, b):
    return {"a": nn.Parameter(torch.tensor(a)), "b": nn.Parameter(torch.tensor(b))}


# The combination

CASES = {
    "no conflict, short": ((0.1, 0.2), (3.0, 4.0), 0.5, (3.1, 4.2)),
    "no conflict, cut to a length of 0.5": ((0.0, 2.0), (3.0, 4.0), 0.1, (3.0, 4.5)),
    "conflict, its part along k is gone": ((-1.0, 0.5), (5.0, 0.0), 1.0, (5.0, 0.5)),
    "conflict, then cut": ((-1.0, 2.0), (5.0, 0.0), 0.2, (5.0, 1.0)),
    "right against k: nothing is left": ((-3.0, -4.0), (3.0, 4.0), 1.0, (3.0, 4.0)),
    "along k: no conflict, and no projection": ((0.3, 0.4), (3.0, 4.0), 1.0, (3.3, 4.4)),
    "a keep gradient of 0 allows nothing": ((1.0, 1.0), (0.0, 0.0), 1.0, (0.0, 0.0)),
    "a forget gradient of 0": ((0.0, 0.0), (3.0, 4.0), 0.1, (3.0, 4.0)),
    "both 0": ((0.0, 0.0), (0.0, 0.0), 0.1, (0.0, 0.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_combination_by_hand(case):
    forget, keep, share, expected = CASES[case]
    _, ready = make(forget_share=share)
    given = {"forget": pairs(*forget), "keep": pairs(*keep)}
    found = ready.combine(given)
    assert [float(value) for value in found] == pytest.approx(list(expected), abs=1e-12)
    assert [float(value) for value in given["keep"]] == list(keep)  # nothing is overwritten


def test_what_is_added_never_opposes_the_keep_gradient_nor_passes_its_share():
    source, opposed = torch.Generator().manual_seed(0), 0
    _, ready = make(forget_share=0.3)
    for _ in range(50):
        forget, keep = ([torch.randn(shape, generator=source) for shape in ((3, 2), (4,))] for _ in range(2))
        opposed += float(torch.dot(flat(forget), flat(keep))) < 0
        combined = ready.combine({"forget": forget, "keep": keep})
        added = flat(combined) - flat(keep)
        assert float(torch.dot(added, flat(keep))) >= -1e-5  # float32
        assert float(added.norm()) <= 0.3 * float(flat(keep).norm()) + 1e-5
        assert float(torch.dot(added, flat(forget))) > 0  # what is left is still forgetting
        assert [value.dtype for value in combined] == [torch.float32] * 2
    assert 10 < opposed < 40


def flat(tensors):
    return torch.cat([value.flatten() for value in tensors])


def test_the_product_runs_over_all_parameters_together():
    """Per tensor the first would conflict and the second not; together they do not."""
    forget, keep = pairs(-1.0, 2.0), pairs(1.0, 1.0)
    assert [float(value) for value in projected_sum(forget, keep, share=9.0)] == [0.0, 3.0]
    assert [float(value) for value in projected_sum(pairs(3.0, 4.0), pairs(0.0, 10.0), share=0.25)] == [1.5, 12.0]


def test_the_order_is_precondition_project_cap():
    """σ² = (3, 1) has mean 2, so f = (−1, 2) becomes (−1.5, 1); off k = (1, 1) comes (−1.25, 1.25); cut to half of k's √2."""
    _, ready = make(posterior=posterior_of(), precondition=True, forget_share=0.5)
    found = ready.combine({"forget": pairs(-1.0, 2.0), "keep": pairs(1.0, 1.0)})
    assert [float(value) for value in found] == pytest.approx([0.5, 1.5], rel=1e-12)
    _, plain = make(forget_share=0.5)
    found = plain.combine({"forget": pairs(-1.0, 2.0), "keep": pairs(1.0, 1.0)})
    unit = math.sqrt(0.5) / math.sqrt(5)
    assert [float(value) for value in found] == pytest.approx([1 - unit, 1 + 2 * unit], rel=1e-12)


def test_weights_without_a_variance_keep_their_gradient():
    _, ready = make(posterior=posterior_of(("b",), (7.0,)), precondition=True, forget_share=9.0)
    found = ready.combine({"forget": pairs(1.0, 2.0), "keep": pairs(1.0, 1.0)})
    assert [float(value) for value in found] == [2.0, 3.0]  # one covered weight: its σ² is the mean


def test_frozen_weights_have_no_place_in_the_list():
    """Nor in the mean of σ², nor in the distance: b is the only weight, so its σ² is the mean."""
    denoiser = face()
    denoiser.network.a.requires_grad_(False)
    _, ready = make(denoiser, posterior=posterior_of(), precondition=True, radius=1.0, forget_share=9.0)
    assert [float(value) for value in ready.combine({"forget": pairs(2.0), "keep": pairs(1.0)})] == [3.0]
    ready.after_step({"b": parameters_of(1.1, 0.6)["b"]}, {})
    assert ready.state() == {"squared_distance": pytest.approx(0.4**2, abs=1e-6)}


# The trust region


def test_forgetting_stops_outside_the_trust_region_and_goes_on_inside():
    _, ready = make(posterior=posterior_of(), radius=0.5, forget_share=1.0)
    gradients = {"forget": pairs(0.0, 1.0), "keep": pairs(2.0, 0.0)}
    # from (0.5, 0.2), whatever the posterior's mean: Δ = (0.6, 0.3), 0.36/3 + 0.09/1 = 0.21; (0.6, 0.4): 0.28
    for weights, squared, combined in [
        ((0.5, 0.2), 0.0, [2.0, 1.0]),
        ((1.1, 0.5), 0.21, [2.0, 1.0]),
        ((1.1, 0.6), 0.28, [2.0, 0.0]),
        ((-0.1, -0.2), 0.28, [2.0, 0.0]),
        ((1.1, 0.5), 0.21, [2.0, 1.0]),
    ]:
        ready.after_step(parameters_of(*weights), {})
        assert ready.state() == {"squared_distance": pytest.approx(squared, abs=1e-6)}  # σ² and θ in float32
        assert [float(value) for value in ready.combine(gradients)] == combined


def test_the_distance_is_in_the_log_and_in_the_checkpoint():
    denoiser, ready = make(posterior=posterior_of(), radius=0.5, forget_share=1.0)
    ready.after_step(parameters_of(1.1, 0.6), {})
    batch = {"forget": noised(3, 0), "retain": noised(3, 1)}
    observed = ready.losses(denoiser, batch).observed
    assert float(observed["squared_distance"]) == pytest.approx(0.28, abs=1e-6)
    _, other = make(posterior=posterior_of(), radius=0.5, forget_share=1.0)
    assert other.state() == {"squared_distance": 0.0}  # a holder of its own
    other.load_state(ready.state())
    assert other.state() == ready.state()
    assert [float(value) for value in other.combine({"forget": pairs(0.0, 1.0), "keep": pairs(2.0, 0.0)})] == [2.0, 0.0]


def test_without_a_radius_nothing_is_measured():
    denoiser, ready = make()
    ready.after_step(parameters_of(99.0, 99.0), {})
    assert ready.state() == {"squared_distance": 0.0}
    batch = {"forget": noised(3, 0), "retain": noised(3, 1)}
    assert set(ready.losses(denoiser, batch).observed) == {"mse", "retain_mse"} == set(ready.limits)


# The terms


def mse_by_hand(batch, a, b):
    total = 0.0
    for x0, noise, row in zip(batch.x0, batch.noise, batch.index.tolist(), strict=True):
        level = float(SCHEDULE.alpha_bars[row])
        for x, e in zip(x0.flatten().tolist(), noise.flatten().tolist(), strict=True):
            x_t = math.sqrt(level) * x + math.sqrt(1 - level) * e
            total += (e - a * x_t - b * (row + 1) / 9) ** 2
    return total / batch.x0.numel()


def test_the_terms_by_hand():
    denoiser, ready = make()
    batch = {"forget": noised(3, 0), "retain": noised(5, 1)}
    losses = ready.losses(denoiser, batch)
    forget, keep = (mse_by_hand(batch[role], 0.5, 0.2) for role in ("forget", "retain"))
    found = {name: float(value.detach()) for name, value in losses.terms.items()}
    assert found == pytest.approx({"forget": -forget, "keep": keep}, rel=1e-12)
    observed = {name: float(value) for name, value in losses.observed.items()}
    assert observed == pytest.approx({"mse": forget, "retain_mse": keep}, rel=1e-12)
    assert not any(value.requires_grad for value in losses.observed.values())


def test_a_small_step_forgets_and_keeps():
    """Central differences of the hand-written errors; the step of the loop's own gradient, but without Adam."""
    denoiser, ready = make(forget_share=1.0)
    adapter = Adapter(ready, denoiser, roles)
    train(denoiser.network, adapter, no_draws, TrainSettings(steps=1, learning_rate=1e-12))
    forget, keep, h = noised(6, 0), noised(6, 1), 1e-5
    slopes = {
        name: [
            (mse_by_hand(part, 0.5 + h, 0.2) - mse_by_hand(part, 0.5 - h, 0.2)) / (2 * h),
            (mse_by_hand(part, 0.5, 0.2 + h) - mse_by_hand(part, 0.5, 0.2 - h)) / (2 * h),
        ]
        for name, part in (("forget", forget), ("keep", keep))
    }
    f, k = [-value for value in slopes["forget"]], slopes["keep"]
    inner = f[0] * k[0] + f[1] * k[1]
    assert inner < 0  # these batches do conflict
    f = [value - inner / (k[0] ** 2 + k[1] ** 2) * other for value, other in zip(f, k, strict=True)]
    factor = min(1.0, math.hypot(*k) / math.hypot(*f))
    expected = [other + factor * value for value, other in zip(f, k, strict=True)]
    assert [float(value) for value in adapter.seen] == pytest.approx(expected, rel=1e-6)
    moved = (0.5 - 1e-4 * expected[0], 0.2 - 1e-4 * expected[1])
    assert mse_by_hand(keep, *moved) < mse_by_hand(keep, 0.5, 0.2)
    alone = (0.5 - 1e-4 * k[0], 0.2 - 1e-4 * k[1])
    assert mse_by_hand(forget, *moved) > mse_by_hand(forget, *alone)


def test_a_run_stops_forgetting_at_its_radius_and_resumes_with_the_same_bits(tmp_path):
    ends = {}
    for name, radius, parts in (("free", None, [40]), ("held", 0.05, [40]), ("resumed", 0.05, [25, 40])):
        for steps in parts:
            options = {"posterior": posterior_of(), "radius": radius} if radius else {}
            denoiser, ready = make(forget_share=3.0, **options)
            settings = TrainSettings(steps=steps, learning_rate=1e-2)
            train(
                denoiser.network,
                Adapter(ready, denoiser, roles),
                no_draws,
                settings,
                folder=tmp_path / name,
                resume=True,
            )
        ends[name] = torch.stack([value.detach() for value in denoiser.network.parameters()])
    assert torch.equal(ends["held"], ends["resumed"])
    errors = {name: mse_by_hand(noised(6, 0), *end.tolist()) for name, end in ends.items()}
    assert errors["free"] > errors["held"]


# Options and invariants


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 1.0}, "posterior: none given with precondition or radius"),
        ({"precondition": True}, "posterior: none given with precondition or radius"),
        ({"posterior": posterior_of()}, "posterior: given, but neither precondition nor radius uses it"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ConflictFree(**options)
