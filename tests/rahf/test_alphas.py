import pytest
import torch

from contrans_lens.rahf.alphas import chosen_alpha
from contrans_lens.rahf.scoring import Reading
from contrans_lens.rahf.verdict import ALPHA_RULE, AS_GOOD

UNITS = [f"group {number // 2}" for number in range(24)]


def reading(*odds: float, kl: float | None = None) -> Reading:
    values = tuple(odds[number % len(odds)] + 0.01 * number for number in range(24))
    return Reading(values, None if kl is None else {"kl": kl})


def taken(readings: dict[float, Reading]) -> float:
    [chosen] = [trial.alpha for trial in chosen_alpha(readings, UNITS, 0) if trial.chosen]
    return chosen


def test_the_best_one_is_taken_though_it_costs_more():
    assert taken({0.5: reading(0.0, kl=0.001), 1.0: reading(2.0, kl=0.5), 2.0: reading(-1.0, kl=0.1)}) == 1.0


def test_within_noise_the_one_that_costs_least_is_taken():
    # The second and the third are better on some groups and worse on others.
    noisy = Reading(tuple(2.0 + (-1) ** (number // 2) for number in range(24)), {"kl": 0.2})
    steady = Reading((1.95,) * 24, {"kl": 0.1})
    assert taken({0.5: reading(0.0, kl=0.001), 1.0: noisy, 2.0: steady}) == 2.0


def test_a_hair_less_for_a_lower_price_is_taken():
    # P(chosen) .993 against .999 in every pair: clear, and of no use.
    best, near, less = (Reading((odds,) * 24, {"kl": kl}) for odds, kl in ((7.0, 0.5), (5.0, 0.01), (3.0, 0.001)))
    assert taken({0.5: less, 1.0: near, 2.0: best}) == 1.0


def test_without_neutral_texts_the_smallest_of_equals_is_taken():
    assert taken({2.0: reading(1.0), 1.0: reading(1.0), 5.0: reading(1.0)}) == 1.0


def test_trials_say_how_far_each_is_behind():
    low, high = chosen_alpha({1.0: reading(0.0), 2.0: reading(2.0)}, UNITS, 0)
    assert high.behind.value == high.behind.low == 0.0
    assert low.behind.value == pytest.approx(high.probability.value - low.probability.value)
    assert low.behind.low > 0
    assert (low.kl, low.chosen, high.chosen) == (None, False, True)


def test_the_limit_that_readers_are_told_is_the_one_that_holds():
    assert f"at most {AS_GOOD} below" in ALPHA_RULE
    # The same in every pair, so that no interval holds zero: a little less than the limit below, and a little more.
    best, less = torch.tensor(0.9).logit(), [torch.tensor(0.9 - AS_GOOD + off).logit() for off in (0.001, -0.001)]
    for odds, expected in zip(less, (1.0, 2.0), strict=True):
        steady = {1.0: Reading((float(odds),) * 24, {"kl": 0.1}), 2.0: Reading((float(best),) * 24, {"kl": 0.2})}
        assert taken(steady) == expected
