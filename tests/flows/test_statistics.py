"""The statistics of `compare` say what scipy says on the same numbers, and their words say what the numbers do."""

import numpy as np
import pytest
from scipy import stats

from ratchet.flows.statistics import (
    EXACT_BELOW,
    Paired,
    bonett_price,
    difference_words,
    holm,
    mcnemar,
    p_words,
    paired,
    paired_bootstrap,
    verdict_words,
    wilson,
)


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (5, 0), (3, 9), (12, 12), (20, 4), (0, 24)])
def test_few_differing_items_are_told_apart_by_the_exact_test(gained: int, lost: int) -> None:
    assert gained + lost < EXACT_BELOW
    both_tails = 2 * sum(stats.binom.pmf(range(min(gained, lost) + 1), gained + lost, 0.5))
    assert pytest.approx(min(1.0, both_tails)) == mcnemar(gained, lost)


@pytest.mark.parametrize(("gained", "lost"), [(121, 59), (15, 10), (40, 0), (300, 310)])
def test_many_differing_items_are_told_apart_by_chi_squared_with_the_continuity_correction(gained: int, lost: int) -> None:
    assert pytest.approx(stats.chi2.sf((abs(gained - lost) - 1) ** 2 / (gained + lost), 1)) == mcnemar(gained, lost)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)
    assert abs(mcnemar(gained, lost) - stats.binomtest(gained, gained + lost).pvalue) < 0.02, "which is close to the exact test"


def test_nothing_that_differs_and_as_much_gained_as_lost_are_no_evidence() -> None:
    assert 1.0 == mcnemar(0, 0) == mcnemar(7, 7) == mcnemar(50, 50)


def test_the_interval_of_a_difference_of_shares_is_bonett_and_prices() -> None:
    low, high = bonett_price(1, 7, 21)  # by hand: up 2/23, down 8/23, variance (10/23 - (6/23)^2) / 23
    assert pytest.approx((-6 / 23 - 1.959964 * 0.126274, -6 / 23 + 1.959964 * 0.126274), abs=1e-5) == (low, high)
    assert -1 <= bonett_price(0, 3, 3)[0] < 0.0 == round(sum(bonett_price(4, 4, 90)), 12)


def test_the_interval_of_a_difference_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = [low <= 0.1 <= high for up, down, _ in rng.multinomial(120, [0.2, 0.1, 0.7], size=2000) for low, high in [bonett_price(up, down, 120)]]
    assert 0.935 < np.mean(hits) < 0.97


RATES = np.random.default_rng(1).binomial(4, 0.4, size=(2, 300)) / 4 + np.array([[0.0], [0.06]])


def test_the_paired_bootstrap_agrees_with_scipys() -> None:
    differences = RATES[1] - RATES[0]
    low, high, p = paired_bootstrap(list(differences))
    theirs = stats.bootstrap((differences,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(9)).confidence_interval
    assert pytest.approx((theirs.low, theirs.high), abs=0.003) == (low, high)
    assert pytest.approx(stats.ttest_rel(RATES[1], RATES[0]).pvalue, abs=0.01) == p


def test_the_paired_bootstrap_says_the_same_of_the_same_numbers_in_any_order() -> None:
    differences = list(RATES[1] - RATES[0])
    assert paired_bootstrap(differences) == paired_bootstrap(differences[::-1])
    assert (0.0, 0.0, 1.0) == paired_bootstrap([0.0] * 9)
    assert paired_bootstrap([0.25] * 9)[2] < 0.001


def test_under_no_difference_the_bootstrap_finds_one_as_often_as_it_may() -> None:
    rng = np.random.default_rng(3)
    found = [paired_bootstrap(list(rng.integers(-2, 3, size=80) / 4), resamples=400, seed=n)[2] < 0.05 for n in range(600)]
    assert 0.02 < np.mean(found) < 0.085


def test_holm_corrects_step_by_step() -> None:
    assert pytest.approx([0.03, 0.06, 0.06, 0.02]) == holm([0.01, 0.04, 0.03, 0.005])
    assert [1.0, 1.0] == holm([0.9, 0.6])
    assert ([], [0.04]) == (holm([]), holm([0.04]))


def test_holm_refuses_exactly_what_the_step_down_rule_refuses() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        found = list(rng.uniform(0, 0.1, size=6))
        order, refused = sorted(found), set[float]()
        for step, p in enumerate(order):
            if p > 0.05 / (len(order) - step):
                break
            refused.add(p)
        assert [p in refused for p in found] == [corrected <= 0.05 for corrected in holm(found)]


def test_wilsons_interval_is_the_textbooks() -> None:
    z, n, share = stats.norm.ppf(0.975), 40, 7 / 40
    middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    assert pytest.approx(((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))) == wilson(7, 40)
    assert 0.0 == wilson(0, 400)[0] < wilson(0, 400)[1] < 0.01


def test_single_answers_go_to_mcnemar_and_rates_to_the_bootstrap() -> None:
    single = paired([0, 0, 1, 1, 0], [1, 1, 1, 0, 0])
    assert ("McNemar, exact", 2, 1, 5) == (single.method, single.gained, single.lost, single.items)
    assert (0.4, 0.6, 1.0) == (single.before, single.after, single.p)
    rates = paired([0.0, 0.25, 0.5, 1.0], [0.5, 0.25, 0.5, 1.0])
    assert ("paired bootstrap", 0.125) == (rates.method, rates.difference)
    assert "McNemar" == paired([0] * 60, [1] * 30 + [0] * 30).method


def test_values_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        paired([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="no pairs"):
        paired([], [])


def found(difference: float, low: float, high: float, before: float = 0.4) -> Paired:
    return Paired(items=9, before=before, after=before + difference, low=low, high=high, p=0.1, gained=1, lost=1, method="")


def test_the_words_say_what_is_a_difference_and_what_is_not() -> None:
    better = "round 3 is better than round 0 by 14.0 points [8.2, 19.9], p = 0.0003 after correction for 3 comparisons"
    assert better == verdict_words("round 3", "round 0", found(0.14, 0.082, 0.199), 0.0003, 3)
    assert "b is worse than a by 14.0 points [8.2, 19.9], p < 0.0001" == verdict_words("b", "a", found(-0.14, -0.199, -0.082), 0.00001, 1)
    assert "no difference can be told between b and a: -1.0 points [-5.0, 3.0], p = 0.60" == verdict_words(
        "b", "a", found(-0.01, -0.05, 0.03), 0.6, 1
    )
    assert "b is higher than a by 0.500 [0.200, 0.800], p = 0.020" == verdict_words("b", "a", found(0.5, 0.2, 0.8, 3.0), 0.02, 1, ("higher", "lower"))


def test_a_p_on_the_border_reads_as_what_it_is() -> None:
    assert ("p = 0.049", "p = 0.051", "p = 0.0050", "p < 0.0001") == (p_words(0.0491), p_words(0.0509), p_words(0.005), p_words(0.00009))
    assert "+0.0 points [-19.8, 19.8]" == difference_words(found(0.0, -0.198, 0.198), signed=True)
