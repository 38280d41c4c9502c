"""Attacks against hand-written loops, sklearn, and models that have or have not memorised their members."""

import json

import pytest
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.data.images import ImageSet, to_float
from vdu.diffusion.sampling import Sampler
from vdu.diffusion.schedule import NoiseSchedule
from vdu.models.denoiser import PipelineDenoiser
from vdu.probes.context import ProbeContext
from vdu.probes.membership import auc, loss_scores, pia_row, pia_scores, probe, separation, tpr_at_fpr

SCHEDULE = NoiseSchedule.linear(50, 1e-3, 0.2)
SHAPE = (1, 4, 4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, seed=0):
    return ImageSet(torch.randint(0, 256, (n, *SHAPE), generator=generator(seed), dtype=torch.uint8))


class Memory(nn.Module):
    """ε of a model whose data are the members alone: x̂0 is their posterior mean, in closed form."""

    def __init__(self, members, sign=1.0):
        super().__init__()
        self.members = nn.Parameter(members.floats().double())
        self.sign = sign

    def forward(self, x_t, t):
        a = SCHEDULE.alpha_bars[t]
        distance = (x_t[:, None] - a.sqrt().view(-1, 1, 1, 1, 1) * self.members).flatten(2).square().sum(2)
        share = torch.softmax(-distance / (2 * (1 - a[:, None])), dim=1)
        x0 = torch.einsum("nm,mchw->nchw", share, self.members)
        a = a.view(-1, 1, 1, 1)
        return self.sign * (x_t - a.sqrt() * x0) / (1 - a).sqrt()


class Blank(nn.Module):
    """ε of a model of independent pixels of mean 0 and variance ⅓, which knows no image."""

    def __init__(self):
        super().__init__()
        self.variance = nn.Parameter(torch.tensor(1 / 3, dtype=torch.float64))

    def forward(self, x_t, t):
        a = SCHEDULE.alpha_bars[t].view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x_t / (a * self.variance + 1 - a)


def face(network):
    return PipelineDenoiser(network, SCHEDULE, "epsilon", SHAPE, {})


ATTACKS = {"loss": lambda *given: loss_scores(*given, generator=generator()), "pia": pia_scores}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_model_that_memorised_its_members_gives_them_away(attack):
    members, others = images(40, 1), images(40, 2)
    denoiser = face(Memory(members))
    found = separation(*(ATTACKS[attack](denoiser, each) for each in (members, others)), generator=generator())
    assert found.auc > 0.99
    assert found.tpr > 0.9
    swapped = separation(*(ATTACKS[attack](denoiser, each) for each in (others, members)), generator=generator())
    assert swapped.auc == pytest.approx(1 - found.auc, abs=1e-12)
    assert swapped.tpr == 0


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_model_that_saw_neither_tells_nothing(attack):
    sorts = images(200, 1), images(200, 2)
    found = separation(*(ATTACKS[attack](face(Blank()), each) for each in sorts), generator=generator())
    low, high = found.auc_interval
    assert low < 0.5 < high
    assert high - low < 0.2


def test_a_member_whose_loss_is_too_high_is_seen_as_well():
    members, others = images(40, 1), images(40, 2)
    scores = [loss_scores(face(Memory(members, -1.0)), each, generator=generator()) for each in (members, others)]
    assert float(auc(*scores)) != pytest.approx(0.5, abs=0.1)


def test_loss_by_hand():
    denoiser, some = face(Memory(images(5))), images(3, 4)
    noises = torch.randn(4, *SHAPE, generator=generator(7))
    wanted = []
    for x0 in some.floats().double():
        losses = []
        for noise, row in zip(noises.double(), (6, 18, 31, 43), strict=True):  # (k + ½) 50 / 4, rounded down
            a = SCHEDULE.alpha_bars[row]
            x_t = a.sqrt() * x0 + (1 - a).sqrt() * noise
            error = noise - denoiser.network(x_t[None], torch.tensor([row]))[0]
            losses.append(float((error**2).sum()) / 16)
        wanted.append(-sum(losses) / 4)
    assert loss_scores(denoiser, some, 4, generator=generator(7)).tolist() == pytest.approx(wanted, rel=1e-5)


class Flow(nn.Module):
    """The exact velocity ε − x0 of a flow whose data are one image; its time is 1000 s."""

    def __init__(self, member):
        super().__init__()
        self.member = nn.Parameter(member.floats().double())

    def forward(self, x_t, t):
        return (x_t - self.member) / (t / 1000).view(-1, 1, 1, 1)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_is_asked_at_its_own_time_and_noise(shift):
    member, other = images(1), images(1, seed=1)
    model = PipelineDenoiser(Flow(member), NoiseSchedule.flow(50, shift), "flow_prediction", SHAPE, {})
    assert loss_scores(model, member, 5, generator=generator()).item() == pytest.approx(0, abs=1e-12)
    assert loss_scores(model, other, 5, generator=generator()).item() < -1e-2
    assert pia_scores(model, member).item() == pytest.approx(0, abs=1e-6) and pia_scores(model, other).item() < -1e-2


def test_pia_by_hand():
    # a memory's answer to its own first prediction does not depend on that prediction's timestep; this one's does
    denoiser, some, row = face(Blank()), images(3, 4), pia_row(SCHEDULE)
    a, wanted = float(SCHEDULE.alpha_bars[row]), []
    for x0 in some.floats().double():
        first = denoiser.network(x0[None], torch.tensor([0]))
        second = denoiser.network(a**0.5 * x0[None] + (1 - a) ** 0.5 * first, torch.tensor([row]))
        wanted.append(-(float(sum(abs(value) ** 4 for value in (first - second).flatten().tolist())) ** 0.25))
    assert pia_scores(denoiser, some).tolist() == pytest.approx(wanted, rel=1e-5)


def test_pia_looks_at_the_same_noise_level_in_every_schedule():
    assert pia_row(NoiseSchedule.linear()) == 200
    wanted = float(NoiseSchedule.linear().alpha_bars[200])
    cosine = NoiseSchedule.cosine()
    assert float(cosine.alpha_bars[pia_row(cosine)]) == pytest.approx(wanted, abs=0.002)


@pytest.mark.parametrize("attack", ATTACKS)
def test_scores_depend_on_the_image_alone(attack):
    modes = []
    some, denoiser, before = images(7), face(Memory(images(5))), torch.random.get_rng_state()
    denoiser.network.train()
    denoiser.network.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    scores = ATTACKS[attack](denoiser, some)
    torch.testing.assert_close(scores[2:4], ATTACKS[attack](denoiser, some.select([2, 3])))
    assert torch.equal(before, torch.random.get_rng_state())
    assert denoiser.network.training
    assert set(modes) == {False}  # no dropout while measuring


@pytest.mark.parametrize("step", [None, 0.5])  # 0.5: many ties
@pytest.mark.parametrize(("m", "n"), [(30, 30), (250, 400), (400, 100), (50, 250)])
def test_agrees_with_sklearn(step, m, n):
    from sklearn.metrics import roc_auc_score, roc_curve

    scores = torch.randn(m + n, generator=generator(m), dtype=torch.float64)
    scores[:m] += 1
    if step:
        scores = (scores / step).round() * step
    truth = [1] * m + [0] * n
    assert float(auc(scores[:m], scores[m:])) == pytest.approx(roc_auc_score(truth, scores.numpy()), abs=1e-12)
    false, true, _ = roc_curve(truth, scores.numpy(), drop_intermediate=False)
    for fpr in (0.0, 0.01, 0.1):
        wanted = true[false <= fpr + 1e-12].max()
        assert float(tpr_at_fpr(scores[:m], scores[m:], fpr)) == pytest.approx(wanted, abs=1e-12)


def test_leading_dimensions_are_separate_experiments():
    members, others = torch.randn(3, 20, generator=generator()), torch.randn(3, 30, generator=generator(1))
    for function in (auc, tpr_at_fpr):
        alone = torch.stack([function(*pair) for pair in zip(members, others, strict=True)])
        assert torch.equal(function(members, others), alone)


def test_the_interval_of_auc_has_the_width_of_the_rank_test():
    m, n = 300, 200
    found = separation(
        torch.randn(m, generator=generator(1)), torch.randn(n, generator=generator(2)), generator=generator(3)
    )
    deviation = ((m + n + 1) / (12 * m * n)) ** 0.5  # of Mann–Whitney's statistic under no difference
    low, high = found.auc_interval
    # 1000 resamples know a 2.5 % limit to about 5 %
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert low < found.auc < high


def test_a_hundredth_of_few_is_none():
    others = torch.arange(99.0)
    members = torch.tensor([98.5, 97.5, 98.0])
    assert float(tpr_at_fpr(members, others)) == pytest.approx(1 / 3)  # above every one
    assert float(tpr_at_fpr(members, torch.cat([others, torch.tensor([-1.0])]))) == pytest.approx(
        1
    )  # one of 100 may be


def test_bad_numbers_are_refused():
    with pytest.raises(InputError, match="fpr: got 1, expected a fraction within"):
        tpr_at_fpr(torch.zeros(3), torch.zeros(3), 1)
    with pytest.raises(InputError, match="scores: got 1 of members and 3 of others"):
        separation(torch.zeros(1), torch.zeros(3), generator=generator())
    with pytest.raises(InputError, match="scores: 1 of 5 values are NaN"):
        separation(torch.tensor([0.0, torch.nan]), torch.zeros(3), generator=generator())
    with pytest.raises(InputError, match="n_resamples: got 3"):
        separation(torch.zeros(3), torch.zeros(3), generator=generator(), n_resamples=3)
    with pytest.raises(InputError, match=r"n_levels: got 51, expected 1 … 50"):
        loss_scores(face(Blank()), images(2), 51, generator=generator())
    with pytest.raises(
        InputError, match=r"images: got 2 of shape \[1, 3, 3\], expected at least one of shape \[1, 4, 4\]"
    ):
        pia_scores(face(Blank()), ImageSet(torch.zeros(2, 1, 3, 3, dtype=torch.uint8)))
    with pytest.raises(InputError, match="n_images: got 1"):
        probe(case(), n_images=1)


def case(**changes):
    members = images(30, 1)
    given = {
        "original": face(Memory(members)),
        "unlearned": face(Blank()),
        "retrained": None,
        "forget": members,
        "forget_held_out": images(25, 2),
        "retain": None,
        "retain_held_out": None,
        "is_forget": lambda some: torch.zeros(len(some), dtype=torch.bool),
        "sampler": Sampler(),
        "seed": 0,
        "progress": False,
    }
    return ProbeContext(**{**given, **changes})


def test_probe_matches_members_and_held_out_in_number():
    result = probe(case())
    assert json.loads(json.dumps(result)) == result
    assert result["status"] == "measured"
    assert [(row["model"], row["attack"]) for row in result["rows"]] == [
        ("original", "loss"),
        ("original", "pia"),
        ("unlearned", "loss"),
        ("unlearned", "pia"),
    ]
    for row in result["rows"]:
        assert (row["n_members"], row["n_held_out"]) == (25, 25)
        for name in ("auc", "tpr_at_1_fpr"):
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
    assert [row["auc"]["value"] > 0.99 for row in result["rows"]] == [True, True, False, False]
    assert result["rows"][2]["auc"]["low"] < 0.5 < result["rows"][2]["auc"]["high"]
    assert result["protocol"]["false_positives_allowed"] == 0


def test_probe_repeats_itself():
    first, again = (probe(case(), n_images=10) for _ in range(2))
    assert first["rows"] == again["rows"]
    assert {row["n_members"] for row in first["rows"]} == {10}
    assert first["rows"] != probe(case(seed=1), n_images=10)["rows"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"forget_held_out": None}, {"code": "no_held_out_images"}),
        ({"forget": images(1)}, {"code": "too_few_members", "n_members": 1, "n_held_out": 25}),
    ],
)
def test_probe_is_not_run_without_two_sorts(changes, found):
    assert probe(case(**changes)) == {"status": "not run", **found}


def test_stored_pixels_are_what_the_network_sees():
    some = images(2)
    seen = []

    class Watch(Blank):
        def forward(self, x_t, t):
            seen.append(x_t)
            return super().forward(x_t, t)

    pia_scores(face(Watch()), some)
    assert torch.equal(seen[0], to_float(some.images).double())
