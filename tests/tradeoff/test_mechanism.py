from dataclasses import replace

import pytest
import torch

from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation import score_steered
from contrans_lens.evaluation.behaviours import Choices, LogitShift, PairedAnswers, Words
from contrans_lens.interventions import Intervention, steer
from contrans_lens.models import logits, tokenize
from contrans_lens.texts import ChoiceItem, EvaluationItem
from contrans_lens.tradeoff import (
    Curve,
    alignment_mechanism,
    analyse,
    direction,
    helpfulness_mechanism,
    strength_grid,
    sweep,
    tradeoff_plan,
)
from tests.tiny_models import D_MODEL, KINDS, open_tiny
from tests.tradeoff.toy import D, LinearModel

POST = "blocks.0.hook_resid_post"
PROMPTS = ("He said: the answer is", "Question: Is the sky green? Answer:", "She felt", "the old man", "No")
PAIRS = tuple(EvaluationItem(prompt, "4", "7", f"group {i % 3}") for i, prompt in enumerate(PROMPTS))
CHOICES = tuple(ChoiceItem(prompt, ("4", "7", "!", ",", "?"), (i % 5,)) for i, prompt in enumerate(PROMPTS))


@pytest.fixture(scope="module")
def toy():
    return LinearModel()


def unit(seed=0, width=D):
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return vector / vector.norm()


def test_the_final_state_moves_in_proportion_to_the_strength(toy):
    strengths = [-3.0, -1.0, -0.25, 0.25, 1.0, 3.0]
    cells = [direction(POST, unit())[0].with_strength(r) for r in strengths]
    shift = LogitShift(CHOICES).measure(toy, [(cell,) for cell in cells])
    size = float(toy.carried(unit(), 0).norm())
    expected = torch.tensor([[abs(r) * size] * len(CHOICES) for r in strengths], dtype=torch.float64)
    assert torch.allclose(shift.column("delta"), expected, rtol=0, atol=1e-12)


def test_strength_zero_is_bit_identical_to_no_hook(toy):
    batch = tokenize(toy, list(PROMPTS))
    plain = logits(toy, batch)
    scores = score_steered(toy, PAIRS, [(), (direction(POST, unit())[0].with_strength(0.0),)])
    assert torch.equal(scores[0], scores[1])
    again = logits(toy, batch)
    assert torch.equal(plain, again)  # nothing was left behind


def test_alignment_follows_the_law_exactly_and_is_predicted(toy):
    """A linear model shifts the log-odds of an item by the same amount at each unit of strength."""
    same = tuple(replace(PAIRS[0], group=name) for name in "ab")
    plan = tradeoff_plan({"v": direction(POST, unit())}, PairedAnswers(same, "b"), strength_grid(8.0, 6))
    result = sweep(toy, plan)
    found = analyse(result)
    fitted, mechanism = found.directions["v"].alignment, found.directions["v"].mechanism
    tokens = [int(toy.tokenizer("4").input_ids[0]), int(toy.tokenizer("7").input_ids[0])]
    moved = toy.unembed.weight.detach() @ toy.carried(unit(), 0)
    gain = float(moved[tokens[0]] - moved[tokens[1]]) / 2
    assert fitted.a.value == pytest.approx(gain, abs=1e-9)
    assert mechanism.constants["a"].value == pytest.approx(gain, abs=1e-12)
    assert mechanism.constants["Delta"].value * mechanism.constants["lambda"].value == pytest.approx(gain, abs=1e-12)
    assert mechanism.constants["slope0"].value == pytest.approx(fitted.slope0.value, abs=1e-9)
    assert mechanism.measured["slope0"].value == pytest.approx(fitted.slope0.value, rel=0.2)  # a line, not a tanh
    assert mechanism.linearity == pytest.approx({"delta": 1.0, "gap": 1.0}, abs=1e-12)
    assert fitted.fits["tanh"].r_squared == pytest.approx(1.0, abs=1e-12)


def test_helpfulness_near_zero_is_the_predicted_parabola(toy):
    """Second differences of the measured mean give the curvature that the logit shifts predict."""
    largest = 0.02
    plan = tradeoff_plan(
        {"v": direction(POST, unit(1))},
        PairedAnswers(PAIRS, "b"),
        strength_grid(largest, 2, 1.0),
        helpfulness=Choices(CHOICES, name="h"),
    )
    result = sweep(toy, plan)
    means = result.curve("v", "h").mean
    linear = float(means[4] - means[0]) / (2 * largest)
    curvature = -float(means[4] + means[0] - 2 * means[2]) / (2 * largest**2)
    mu, sigma = (result.curve("v", "h shift", name) for name in ("mu", "sigma"))
    p0 = result.measurement("v", "h shift").column("p0")[0]
    found = helpfulness_mechanism(mu, sigma, p0, helpfulness=result.curve("v", "h"), window=largest)
    predicted = found.constants
    assert found.measured["k"].value == pytest.approx(curvature, rel=0.05)
    assert found.measured["l"].value == pytest.approx(linear, rel=1e-3)
    assert float(p0.mean()) == pytest.approx(float(means[2]), abs=1e-12)
    assert predicted["mu_even"].value == pytest.approx(0, abs=1e-9)  # a linear model has no even part
    assert predicted["k_even"].value == pytest.approx(predicted["k"].value, abs=1e-9)
    assert predicted["l"].value == pytest.approx(linear, rel=1e-3)
    assert predicted["k"].value == pytest.approx(curvature, rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_shifts_equal_their_definitions(architecture, kind):
    model = open_tiny(architecture, kind)
    vector = 2 * unit(3, D_MODEL).float()
    cell = (Intervention(POST, vector, unit="absolute"),)
    choices = tuple(ChoiceItem(item.prompt, item.choices, (0, 2)) for item in CHOICES)
    found = LogitShift(choices).measure(model, [cell, ()])
    p = Choices(choices).measure(model, [(), cell]).column("p_restricted")
    assert torch.allclose(found.column("p0")[0], p[0], atol=1e-6)
    assert torch.allclose(found.column("gap")[0], p[1].logit() - p[0].logit(), atol=1e-3)
    assert float(found.column("delta")[1].abs().max()) == pytest.approx(0, abs=1e-4)
    for number, item in enumerate(choices):
        batch = tokenize(model, [item.prompt])
        base = logits(model, batch)[0, -1].double()
        with steer(model, cell):
            moved = logits(model, batch)[0, -1].double()
        right = [int(tokenize(model, [item.prompt + item.choices[j]]).tokens[0][-1]) for j in (0, 2)]
        weights = base.softmax(0)
        of_right = (weights[right] / weights[right].sum() * (moved - base)[right]).sum()
        others = torch.ones_like(base, dtype=torch.bool)
        others[right] = False
        shift = (moved - base - of_right)[others]
        share = weights[others] / weights[others].sum()
        mean = (share * shift).sum()
        assert float(found.column("mu_full")[0, number]) == pytest.approx(float(mean), abs=2e-3)
        spread = (share * (shift - mean).square()).sum().sqrt()
        assert float(found.column("sigma_full")[0, number]) == pytest.approx(float(spread), abs=2e-3)
        assert float(found.column("p0_full")[0, number]) == pytest.approx(float(weights[right].sum()), abs=1e-5)


def test_only_probabilities_of_whole_answers_are_predicted(toy):
    def planned(helpfulness):
        directions = {"v": direction(POST, unit(2))}
        return tradeoff_plan(directions, PairedAnswers(PAIRS, "b"), strength_grid(1.0, 3), helpfulness=helpfulness)

    def shifts(helpfulness):
        return [each.name for each in planned(helpfulness).behaviours if each.name.startswith("h ")]

    assert shifts(Choices(CHOICES, name="h")) == shifts(Words(CHOICES, name="h")) == ["h shift"]
    assert shifts(Choices(CHOICES, "characters", name="h")) == shifts(Words(CHOICES, "first", name="h")) == []
    of_right = analyse(sweep(toy, planned(Choices(CHOICES, name="h")))).directions["v"]
    of_counts = analyse(sweep(toy, planned(Choices(CHOICES, name="h", primary="accuracy")))).directions["v"]
    assert of_right.cost_mechanism is not None
    assert of_counts.cost_mechanism is None


def curve(values, strengths=(-2.0, -1.0, 0.0, 1.0, 2.0)):
    return Curve(torch.tensor(strengths), torch.tensor(values))


def test_what_both_signs_do_alike_is_told_from_what_they_do_apart():
    r = torch.tensor([-0.4, -0.2, -0.1, 0.0, 0.1, 0.2, 0.4], dtype=torch.float64)
    mu = Curve(r, r[:, None] * torch.tensor([1.0, -0.5]) + r[:, None] ** 2 * torch.tensor([2.0, 0.4]))
    sigma = Curve(r, r[:, None].abs() * torch.tensor([0.3, 0.3]))
    p0 = torch.tensor([0.5, 0.8])
    found = helpfulness_mechanism(mu, sigma, p0, window=0.4).constants
    assert found["mu_even"].value == pytest.approx(1.2, abs=1e-6)
    expected = 0.25 * 2.0 / 2 + 0.16 * 0.4 / 2
    assert found["k_even"].value - found["k"].value == pytest.approx(expected, abs=1e-6)


def test_too_few_strengths_or_items_are_named():
    flat = curve([[0.0, 0.0]] * 5)
    p0 = torch.tensor([0.5, 0.5])
    with pytest.raises(TradeoffError, match=r"fewer than two strengths within 0\.5"):
        alignment_mechanism(flat, flat, p0, window=0.5)
    with pytest.raises(TradeoffError, match="fewer than two strengths besides 0"):
        helpfulness_mechanism(curve([[0.0]] * 3, (-1.0, 0.0, 1.0)), curve([[0.0]] * 3, (-1.0, 0.0, 1.0)), p0[:1])
    with pytest.raises(TradeoffError, match="one group"):
        alignment_mechanism(curve([[0.0]] * 5), curve([[0.0]] * 5), p0[:1])
