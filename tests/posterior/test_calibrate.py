import math

import pytest
import torch

from vdu.core.errors import InputError
from vdu.core.rng import draw_seed
from vdu.posterior.calibrate import calibrate_temperature, mean_is_usable
from vdu.posterior.denoising import draw, fixed_loss
from vdu.posterior.isotropic import fit_isotropic

N = 40


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def setup(constant, variance: float):
    samples = torch.rand(N, 1, 8, 8, generator=seeded(9)) * 2 - 1
    return fit_isotropic(dict(constant.network.named_parameters()), variance), samples


@pytest.mark.parametrize("variance", [1e-6, 0.3, 1e5])
@pytest.mark.parametrize("increase", [0.02, 0.2])
def test_closed_form(constant, schedule, variance, increase):
    """At b = 0 the pair ±z gives the loss ‖ε‖² + τσ²‖z‖², so τ = increase · mean ‖ε‖² / (σ² mean ‖z‖²)."""
    posterior, samples = setup(constant, variance)
    tau, record = calibrate_temperature(
        constant, posterior, samples, relative_increase=increase, schedule=schedule, generator=seeded(), batch_size=16
    )
    generator = seeded()
    noise = draw(samples, len(schedule), generator).noise
    z = torch.stack([torch.randn(64, generator=seeded(draw_seed(generator))) for _ in range(2)])
    noise2, z2 = (float(t.double().square().flatten(1).sum(1).mean()) for t in (noise, z))
    assert tau == pytest.approx(increase * noise2 / (variance * z2), rel=0.021)  # the bisection's 0.02 in log τ
    assert increase <= record["relative_increase"] <= increase * 1.021
    assert record["loss"] == pytest.approx(7 * noise2, rel=1e-5)  # (T − 1) · sum over pixels
    assert record["network_evaluations"] % N == 0


def test_tau_undoes_a_scale_of_the_variance(constant, schedule):
    posterior, samples = setup(constant, 0.1)
    taus = [
        calibrate_temperature(constant, p, samples, schedule=schedule, generator=seeded(), log_tolerance=1e-3)[0]
        for p in (posterior, posterior.scaled(7.0), posterior)
    ]
    assert taus[0] == taus[2]
    assert taus[0] / taus[1] == pytest.approx(7.0, rel=2.1e-3)


def test_batch_size_does_not_matter(constant, schedule):
    posterior, samples = setup(constant, 0.1)
    taus = [
        calibrate_temperature(constant, posterior, samples, schedule=schedule, generator=seeded(), batch_size=b)[0]
        for b in (1, 7, 64)
    ]
    assert taus[0] == taus[1] == taus[2]  # a bisection: equal unless a loss falls within rounding of the target


@pytest.mark.parametrize("fail_at_call", [1, 2, 5, None])
def test_weights_and_modes_come_back_bit_by_bit(constant, schedule, fail_at_call):
    posterior, samples = setup(constant, 0.1)
    with torch.no_grad():
        constant.network.bias.copy_(torch.randn(1, 8, 8, generator=seeded(3)))
    before, state = constant.network.bias.detach().clone(), torch.get_rng_state()
    predict, calls = constant.noise, []

    def failing(batch):
        calls.append(constant.network.training)
        if len(calls) == fail_at_call:
            raise RuntimeError("out of memory")
        return predict(batch)

    constant.noise = failing
    options = {"schedule": schedule, "generator": seeded()}
    if fail_at_call:
        with pytest.raises(RuntimeError, match="out of memory"):
            calibrate_temperature(constant, posterior, samples, **options)
    else:
        calibrate_temperature(constant, posterior, samples, **options)
    assert torch.equal(constant.network.bias, before)
    assert constant.network.dropout.training and not any(calls)  # dropout off inside, as before outside
    assert torch.equal(torch.get_rng_state(), state)


def test_an_insensitive_network_is_refused(constant, schedule):
    posterior, samples = setup(constant, 1.0)
    constant.noise = lambda batch: torch.zeros_like(batch.x_t)
    with pytest.raises(InputError, match="no temperature within 10"):
        calibrate_temperature(constant, posterior, samples, schedule=schedule, generator=seeded())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"relative_increase": 0.0}, "got relative_increase 0.0"), ({"n_weight_draws": 0}, "n_weight_draws 0")],
)
def test_refusals(constant, schedule, options, message):
    posterior, samples = setup(constant, 1.0)
    with pytest.raises(InputError, match=message):
        calibrate_temperature(constant, posterior, samples, schedule=schedule, generator=seeded(), **options)


def test_a_broken_network_is_refused(constant, schedule):
    posterior, samples = setup(constant, 1.0)
    with torch.no_grad():
        constant.network.bias.fill_(math.nan)
    with pytest.raises(InputError, match="loss at the network's own weights: got nan"):
        mean_is_usable(constant, posterior, samples, schedule=schedule, generator=seeded())


@pytest.mark.parametrize(("shift", "ok"), [(0.0, True), (0.2, True), (0.5, False)])
def test_mean_ratio(constant, schedule, shift, ok):
    """At θ* = 0 and μ* = c the ratio is 1 + c² up to the sampling of ε."""
    posterior, samples = setup(constant, 1.0)
    moved = posterior.with_mean({"bias": torch.full((1, 8, 8), shift)})
    ratio, usable = mean_is_usable(constant, moved, samples, schedule=schedule, generator=seeded())
    assert ratio == pytest.approx(1 + shift**2, abs=8 * shift / math.sqrt(N * 64))  # 4 standard errors of 2c·mean ε
    assert usable is ok
    assert not constant.network.bias.any()


def test_a_mean_without_a_finite_loss_is_not_usable(constant, schedule):
    posterior, samples = setup(constant, 1.0)
    moved = posterior.with_mean({"bias": torch.full((1, 8, 8), 1e38)})
    assert mean_is_usable(constant, moved, samples, schedule=schedule, generator=seeded()) == (math.inf, False)


def test_a_posterior_of_another_network_is_refused(constant, schedule):
    _, samples = setup(constant, 1.0)
    other = fit_isotropic({"bias": torch.zeros(3)}, 1.0)
    with pytest.raises(InputError, match=r"bias: got shape \(1, 8, 8\), expected \(3,\)"):
        mean_is_usable(constant, other, samples, schedule=schedule, generator=seeded())


def test_every_sample_is_measured_under_its_own_label(conditional, schedule):
    """By hand, sample by sample, from the same draws; and the calls of the network do not mix labels up."""
    samples = torch.rand(5, 1, 2, 2, generator=seeded(1), dtype=torch.float64)
    labels, weight = [0, 1, 1, 0, 1], conditional.network.weight.detach()
    draws, expected = draw(samples, len(schedule), seeded(2)), 0.0
    for x, label, row, noise in zip(samples, labels, draws.index, draws.noise, strict=True):
        a = schedule.alpha_bars[row]
        x_t = a.sqrt() * x.flatten() + (1 - a).sqrt() * noise.flatten()
        expected += 7 * float((noise.flatten() - weight[label] @ x_t).square().sum()) / 5  # T − 1 = 7
    for batch_size in (1, 2, 64):
        loss = fixed_loss(conditional, samples, seeded(2), schedule, "uniform", batch_size, labels)
        with torch.no_grad():
            assert loss() == pytest.approx(expected, rel=1e-6)
