import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation import damage_vectors, solve_strength, solve_strengths
from contrans_lens.evaluation.budget_search import BudgetSearch
from tests.tiny_models import D_MODEL, TEXTS, hf_tiny, open_tiny

HOOK_POINT = "blocks.1.hook_resid_post"


def vectors(n, seed=0):
    return torch.randn(n, D_MODEL, generator=torch.Generator().manual_seed(seed))


def raised_tokens():
    """Vectors that raise tokens which no text has, so that perplexity grows without end."""
    return hf_tiny("gpt2")[0].lm_head.weight.detach()[[40, 200, 330]]


def search(curve, target=0.1, first=0.01, largest=100.0, checks=3):
    """Run one search on a known curve."""
    state = BudgetSearch(target, 0.02, first, largest, checks)
    for _ in range(60):
        asked = state.ask()
        if not asked:
            return state.result(target, "kl")
        for strength in asked:
            assert 0 < strength <= largest
            assert strength not in state.tried
            state.tell(strength, curve(strength))
    raise AssertionError("the search does not end")


@settings(max_examples=100, deadline=None)
@given(scale=st.floats(1e-3, 1e3), power=st.floats(0.5, 4.0), first=st.floats(1e-3, 10.0), target=st.floats(1e-3, 5.0))
def test_power_laws_are_solved_in_few_steps(scale, power, first, target):
    solved = search(lambda s: scale * s**power, target, first, largest=1e9)
    assert solved.reached
    assert solved.monotone
    assert scale * solved.strength**power == pytest.approx(target, rel=0.021)
    assert len(solved.trace) <= 40


def test_a_saturating_curve_is_solved_or_honestly_not_reached():
    assert search(lambda s: 0.2 * math.tanh(s) ** 2).strength == pytest.approx(math.atanh(math.sqrt(0.5)), rel=0.03)
    missed = search(lambda s: 0.05 * math.tanh(s) ** 2)
    assert not missed.reached
    assert (missed.strength, missed.measured) == (100.0, pytest.approx(0.05))


def test_the_first_of_several_crossings_is_found():
    def hump(s):  # crosses 0.1 near 1, falls below it, and rises for good at 10
        return 0.15 * math.exp(-((s - 1.5) ** 2)) + 1e-3 * s**2

    assert search(hump, first=9.0, checks=9).strength == pytest.approx(0.85, rel=0.05)
    assert search(hump, first=0.5).strength == pytest.approx(0.85, rel=0.05)
    assert search(hump, first=9.0, checks=0).strength == pytest.approx(10, rel=0.05)


def test_a_dip_on_the_way_is_reported():
    solved = search(lambda s: s * s * (1 if s < 0.1 or s > 0.3 else -0.5), target=0.2, first=0.05)
    assert solved.reached
    assert not solved.monotone
    assert solved.strength == pytest.approx(math.sqrt(0.2), rel=0.02)


def test_a_jump_ends_at_its_upper_side():
    solved = search(lambda s: 0.0 if s < 2 else 1.0)
    assert solved.strength == pytest.approx(2, rel=1e-3)
    assert solved.measured == 1.0
    assert solved.reached


def test_what_is_not_finite_bounds_the_search():
    solved = search(lambda s: s * s if s < 5 else math.nan, target=20.0)
    assert solved.strength == pytest.approx(math.sqrt(20), rel=0.02)
    assert all(math.isfinite(value) for _, value in solved.trace)
    with pytest.raises(EvaluationError, match="NaN or infinity from strength"):
        search(lambda s: s * s if s < 5 else math.nan, target=30.0)


@pytest.mark.parametrize("measure", ["kl", "perplexity_ratio"])
def test_the_measure_at_the_solved_strength_is_the_budget(measure):
    model = open_tiny("gpt2", "bridge")
    budget = 0.05 if measure == "kl" else 1.03
    chosen, last = raised_tokens(), "blocks.3.hook_resid_post"
    together = solve_strengths(model, TEXTS, last, chosen, budget=budget, measure=measure)
    for vector, solved in zip(chosen, together, strict=True):
        assert solved.reached
        [result] = damage_vectors(model, TEXTS, last, solved.strength * vector[None])
        there = result.kl if measure == "kl" else result.perplexity / result.unsteered_perplexity
        assert there == pytest.approx(solved.measured, rel=1e-4)
        excess = 1.0 if measure == "perplexity_ratio" else 0.0
        assert solved.measured - excess == pytest.approx(budget - excess, rel=0.021)
        below = [value for strength, value in solved.trace if strength < solved.strength]
        assert all(value < budget for value in below)
    alone = solve_strength(model, TEXTS, last, chosen[1], budget=budget, measure=measure)
    assert alone.strength == pytest.approx(together[1].strength, rel=0.02)


def test_not_reached_is_said():
    model = open_tiny("gpt2", "bridge")
    solved = solve_strength(model, TEXTS, HOOK_POINT, vectors(1)[0], budget=5.0, max_strength=0.01)
    assert not solved.reached
    assert solved.strength == pytest.approx(0.01)
    assert solved.measured < 5.0
    assert solved.to_dict()["trace"][-1][0] == pytest.approx(0.01)


def test_the_scale_of_the_vector_does_not_matter():
    model = open_tiny("gpt2", "bridge")
    [vector] = vectors(1)
    small, large = solve_strengths(model, TEXTS, HOOK_POINT, torch.stack([1e-4 * vector, 1e4 * vector]), budget=0.1)
    assert small.strength * 1e-4 == pytest.approx(large.strength * 1e4, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0.0}, "no damage"),
        ({"budget": 0.9, "measure": "perplexity_ratio"}, "no damage"),
        ({"budget": math.inf}, "no damage"),
        ({"budget": 0.1, "max_strength": -1.0}, "max_strength"),
        ({"budget": 0.1, "vector": torch.zeros(D_MODEL)}, "zero"),
        ({"budget": 0.1, "vector": torch.ones(3)}, "32"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"vector": vectors(1)[0]} | change
    vector = arguments.pop("vector")
    with pytest.raises(EvaluationError, match=message):
        solve_strength(open_tiny("gpt2", "bridge"), TEXTS, HOOK_POINT, vector, **arguments)
