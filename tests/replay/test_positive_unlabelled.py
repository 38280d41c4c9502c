import pytest
import torch
from scipy.stats import beta

from vdu.core.errors import InputError
from vdu.replay.positive_unlabelled import estimate_rates, estimate_share


def scores(n: int, share: float, seed: int, gap: float = 6.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normal scores, forget images higher by a gap; and which of the unlabelled ones are forget images."""
    source = torch.Generator().manual_seed(seed)
    is_forget = torch.arange(n) < round(share * n)
    forget = torch.randn(n, generator=source, dtype=torch.float64) + gap
    return forget, torch.randn(n, generator=source, dtype=torch.float64) + gap * is_forget, is_forget


def test_an_exact_mixture_gives_its_exact_share():
    # at threshold 2: 8 of 10 and 3 of 20, a ratio of 0.1875; at threshold 1: all and 14 of 20; above 2 nothing
    forget = torch.tensor([2.0] * 8 + [1.0] * 2)
    unlabelled = torch.tensor([2.0] * 3 + [1.0] * 11 + [0.0] * 6)
    assert estimate_share(forget.repeat(500), unlabelled.repeat(500)) == pytest.approx(0.15 / 0.8)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.8])
def test_the_share_of_a_random_mixture_is_found(share):
    found = [estimate_share(*scores(400, share, seed)[:2]) for seed in range(20)]
    # gap 6: 1 in 1000 passes the middle, so nothing is hidden; the smallest of many noisy ratios is a little too small
    assert sum(found) / 20 == pytest.approx(share, abs=0.005 + 0.03 * share)


def test_the_share_does_not_depend_on_the_scale_of_the_scores():
    forget, unlabelled, _ = scores(300, 0.2, 0, gap=2.0)
    assert estimate_share(forget.exp(), unlabelled.exp()) == estimate_share(forget, unlabelled)


def test_false_positives_are_estimated_without_labels():
    forget, unlabelled, is_forget = scores(4000, 0.2, 0, gap=5.0)
    rates = estimate_rates(forget, unlabelled, threshold=1.0, generator=torch.Generator().manual_seed(0))
    true = float((unlabelled[~is_forget] >= 1.0).double().mean())  # about 0.159
    assert rates.false_positive_rate == pytest.approx(true, abs=0.01)
    assert rates.false_positive_rate < rates.false_positive_rate_high < 0.2
    assert rates.miss_rate == pytest.approx(float((forget < 1.0).double().mean()))
    assert (rates.n_forget, rates.n_unlabelled) == (4000, 4000)


def test_never_seen_is_not_never():
    forget, unlabelled = torch.full((50,), 1.0), torch.tensor([1.0] * 20 + [-1.0] * 80)
    rates = estimate_rates(forget, unlabelled, threshold=0.0, generator=torch.Generator().manual_seed(0))
    assert (rates.share, rates.miss_rate, rates.false_positive_rate) == (0.2, 0.0, 0.0)
    assert rates.false_positive_rate_high == pytest.approx(
        beta.ppf(0.975, 1, 80), rel=0.03
    )  # Clopper and Pearson; −ln is its limit


def test_no_scores_are_refused():
    with pytest.raises(InputError, match="got 0 forget and 3 unlabelled"):
        estimate_share(torch.zeros(0), torch.zeros(3))
