from dataclasses import replace

import pytest
import torch

from contrans_lens.errors import EvaluationError, TradeoffError
from contrans_lens.evaluation import bootstrap_mean_ci, damage, paired_difference_ci, prompt_damage, scaled, score_items
from contrans_lens.evaluation.behaviours import Choices, NeutralText, PairedAnswers
from contrans_lens.texts import PromptCue
from contrans_lens.tradeoff import compare, direction
from tests.tiny_models import open_tiny
from tests.tradeoff.sweeping import CHOICES, FIRST, NEUTRAL, PAIRS, SECOND, unit

CUE = PromptCue("Everyone is happy. ", "Everyone is sad. ")
METHODS = {
    "transplanted": direction(FIRST, unit(0), residual_norm=2.0),
    "native": direction(SECOND, unit(1), residual_norm=2.0),
    "several layers": direction(FIRST, unit(2), residual_norm=2.0) + direction(SECOND, unit(3), residual_norm=2.0),
    "random": [direction(FIRST, unit(10 + draw), residual_norm=2.0) for draw in range(4)],
    "words": CUE,
}
BEHAVIOURS = (PairedAnswers(PAIRS, "mood"), Choices(CHOICES, name="facts"))


@pytest.fixture(scope="module")
def model():
    return open_tiny("gpt2", "bridge")


@pytest.fixture(scope="module")
def comparison(model):
    return compare(model, METHODS, BEHAVIOURS, NeutralText(NEUTRAL), budget=0.02, reference="native")


def test_every_direction_is_written_at_the_budget_of_its_worse_sign(model, comparison):
    for name in ("transplanted", "native", "several layers"):
        strength = comparison.row(name, "mood").strength
        costs = [damage(model, NEUTRAL, scaled(METHODS[name], sign * strength)).kl for sign in (1, -1)]
        assert max(costs) == pytest.approx(0.02, rel=0.03)
        assert comparison.damage(name).kl == pytest.approx(sum(costs) / 2, rel=1e-3)
        assert comparison.row(name, "mood").reached
    low, high = comparison.damage("native").kl_ci
    assert low < comparison.damage("native").kl < high


def test_effects_and_differences_equal_single_measurements(model, comparison):
    groups = [item.group for item in PAIRS]
    effects = {}
    for name in ("transplanted", "native"):
        strength = comparison.row(name, "mood").strength
        plus, minus = (2 * score_items(model, PAIRS, scaled(METHODS[name], s * strength)) - 1 for s in (1, -1))
        effects[name] = plus - minus
        row = comparison.row(name, "mood")
        expected = bootstrap_mean_ci(plus - minus, groups)
        assert row.effect.value == pytest.approx(expected.value, abs=1e-5)
        assert row.effect.low == pytest.approx(expected.low, abs=1e-4)
        assert row.plus.value == pytest.approx(float(plus.mean()), abs=1e-5)
    apart = comparison.row("transplanted", "mood").difference
    expected = paired_difference_ci(effects["transplanted"], effects["native"], groups)
    assert (apart.value, apart.low, apart.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-4
    )
    assert comparison.row("native", "mood").difference is None


def test_change_is_what_both_signs_do_alike(model, comparison):
    values = comparison.values["facts"]
    both, plain = values["native"].column("accuracy"), values["unsteered"].column("accuracy")
    expected = bootstrap_mean_ci(both.mean(0) - plain[0])
    found = comparison.row("native", "facts", "accuracy").change
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_words_are_measured_at_their_own_damage(model, comparison):
    row = comparison.row("words", "mood")
    asked = [BEHAVIOURS[0].with_prefix(prefix).items for prefix in (CUE.positive, CUE.negative)]
    plus, minus = (2 * score_items(model, items) - 1 for items in asked)
    assert row.effect.value == pytest.approx(float((plus - minus).mean()), abs=1e-5)
    costs = [prompt_damage(model, NEUTRAL, prefix).kl for prefix in (CUE.positive, CUE.negative)]
    assert comparison.damage("words").kl == pytest.approx(sum(costs) / 2)
    assert row.strength is None
    at_words = compare(model, METHODS, BEHAVIOURS[:1], NeutralText(NEUTRAL), budget="words", reference="native")
    assert at_words.budget == pytest.approx(sum(costs) / 2)


def test_families_are_ranked_against_the_reference(comparison):
    row = comparison.row("random", "mood")
    assert len(row.draws) == row.n_draws == 4
    reference = comparison.row("native", "mood").effect.value
    assert row.p_value == pytest.approx((1 + sum(abs(each) >= abs(reference) for each in row.draws)) / 5)
    assert row.effect.value == pytest.approx(sum(row.draws) / 4)


def test_the_unsteered_model_has_no_effect(model, comparison):
    row = comparison.row("unsteered", "facts")
    expected = Choices(CHOICES).measure(model, [()]).column().mean()
    assert row.plus.value == row.minus.value == pytest.approx(float(expected), abs=1e-6)
    assert (row.effect.value, row.effect.low, row.effect.high) == (0, 0, 0)
    assert comparison.damage("unsteered").kl == pytest.approx(0, abs=1e-5)


def test_without_a_budget_directions_stay_as_given(model):
    given = compare(
        model, {"native": scaled(METHODS["native"], 0.3)}, BEHAVIOURS[:1], NeutralText(NEUTRAL), budget=None
    )
    plus = 2 * score_items(model, PAIRS, scaled(METHODS["native"], 0.3)) - 1
    assert given.row("native", "mood").plus.value == pytest.approx(float(plus.mean()), abs=1e-5)
    assert given.row("native", "mood").strength is None
    assert given.budget is None


def test_the_unsteered_model_can_be_measured_alone_and_beside_words(model):
    alone = compare(model, {}, BEHAVIOURS, NeutralText(NEUTRAL), budget=None)
    assert [row.method for row in alone.damages] == ["unsteered"]
    assert alone.reference == "unsteered"
    assert all(row.difference is None for row in alone.rows)
    words = compare(model, {"words": CUE}, BEHAVIOURS[:1], NeutralText(NEUTRAL), budget=0.1)
    row = words.row("words", "mood")
    assert row.effect.value == pytest.approx(row.plus.value - row.minus.value)
    assert row.difference is None


def test_tables_hold_every_column_and_print(comparison):
    table = comparison.table()
    assert set(table["method"]) == {*METHODS, "unsteered"}
    assert set(table.query("behaviour == 'facts'")["column"]) >= {"p_mean", "p_restricted", "mc1", "accuracy"}
    assert len(comparison.table(primary_only=True)) == 2 * (len(METHODS) + 1)
    assert "transplanted" in str(comparison)
    assert comparison.summary()["reference"] == "native"


def test_perplexity_can_be_the_budget(model):
    # An untrained model is hardly worse than chance, so not every direction can make it so.
    methods = {f"v{seed}": direction(FIRST, unit(seed), residual_norm=2.0) for seed in range(6)}
    found = compare(model, methods, BEHAVIOURS[:1], NeutralText(NEUTRAL), budget=1.02, measure="perplexity_ratio")
    reached = [name for name in methods if found.row(name, "mood").reached]
    assert reached
    for name in reached:
        strength = found.row(name, "mood").strength
        both = [damage(model, NEUTRAL, scaled(methods[name], sign * strength)) for sign in (1, -1)]
        assert max(each.perplexity / each.unsteered_perplexity for each in both) == pytest.approx(1.02, abs=2e-3)


@pytest.mark.parametrize(
    ("methods", "options", "error", "message"),
    [
        ({"words": CUE}, {"budget": 0.1, "reference": "words"}, TradeoffError, "there are none"),
        ({"unsteered": METHODS["native"]}, {"budget": 0.1}, TradeoffError, "choose another"),
        ({"a": METHODS["native"], "f": METHODS["random"][:1]}, {"budget": 0.1}, TradeoffError, "has 1 draws"),
        ({"a": METHODS["native"]}, {"budget": 0.1, "reference": "b"}, TradeoffError, "'b'"),
        ({"a": METHODS["native"]}, {"budget": "words"}, TradeoffError, "of words there are none"),
        ({"a": METHODS["native"]}, {"budget": -1.0}, EvaluationError, "no damage"),
        ({"a": scaled(METHODS["native"], 0.0)}, {"budget": 0.1}, EvaluationError, "does nothing"),
    ],
)
def test_bad_comparisons_are_refused(model, methods, options, error, message):
    with pytest.raises(error, match=message):
        compare(model, methods, BEHAVIOURS[:1], NeutralText(NEUTRAL), **options)


def test_numbers_that_are_no_means_are_in_the_summary(model):
    class Talking(PairedAnswers):
        def measure(self, model, cells, *, token_budget=None):
            found = super().measure(model, cells, token_budget=token_budget)
            return replace(found, whole={"count": torch.arange(len(cells), dtype=torch.float64)})

    found = compare(model, {"native": METHODS["native"]}, (Talking(PAIRS, "mood"),), NeutralText(NEUTRAL), budget=None)
    assert found.summary()["whole"] == {"mood": {"unsteered": {"count": [0.0]}, "native": {"count": [1.0, 2.0]}}}


def test_unknown_rows_are_named(comparison):
    with pytest.raises(TradeoffError, match="no row 'x' on 'mood'"):
        comparison.row("x", "mood")
    with pytest.raises(TradeoffError, match="no method 'x'"):
        comparison.damage("x")
    assert torch.is_tensor(comparison.values["mood"]["random"].column())


def test_with_one_sign_methods_are_compared_with_the_unsteered_model(model, tmp_path):
    neutral = NeutralText(NEUTRAL)
    found = compare(model, METHODS, BEHAVIOURS[:1], neutral, budget=0.02, reference="native", signs="plus")
    groups = [item.group for item in PAIRS]
    base = 2 * score_items(model, PAIRS) - 1
    for name in ("transplanted", "native"):
        row = found.row(name, "mood")
        cell = scaled(METHODS[name], row.strength)
        assert damage(model, NEUTRAL, cell).kl == pytest.approx(0.02, rel=0.03)
        assert found.damage(name).kl == pytest.approx(damage(model, NEUTRAL, cell).kl, rel=1e-3)
        expected = bootstrap_mean_ci(2 * score_items(model, PAIRS, cell) - 1 - base, groups)
        assert (row.effect.value, row.effect.low) == pytest.approx((expected.value, expected.low), abs=1e-4)
        assert row.change == row.effect
        assert row.minus.value == pytest.approx(float(base.mean()), abs=1e-6)
    words = found.row("words", "mood")
    prompted = BEHAVIOURS[0].with_prefix(CUE.positive).measure(model, [()]).column("expectation")[0]
    assert words.effect.value == pytest.approx(float((prompted - base).mean()), abs=1e-5)
    cost = prompt_damage(model, NEUTRAL, CUE.positive)
    assert found.damage("words").kl == pytest.approx(cost.kl, rel=1e-6)
    assert found.damage("words").perplexity == pytest.approx(cost.perplexity, rel=1e-6)
    folder = found.save(tmp_path / "one sign")
    assert found.summary()["signs"] == "plus"
    assert (folder / "effects.png").exists()
    assert not (folder / "changes.png").exists()
    assert "both signs alike" not in (folder / "report.html").read_text()
