"""Refits of the curves behind the figures of Wolf et al. 2024: the tables of the spec's third fixture."""

import json

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit, least_squares

from contrans_lens.tradeoff.curve import Curve
from contrans_lens.tradeoff.fits import fit_alignment, fit_helpfulness

# name in the file, series, sign, B(0), a, b0, R^2
BEHAVIOUR = [
    ("behavior_harmful_Llama-2-13b_harmfulness", "behavior_harmful_mean", 1, -0.48, "0.504", "-0.562", ".974"),
    ("behavior_harmful_Llama-2-13b-chat_harmfulness", "behavior_harmful_mean", -1, -1.0, "1.313", "-3.379", ".998"),
    ("behavior_bias_Llama-2-13b_fairness", "behavior_bias_mean", 1, 0.75, "2.835", "1.683", ".985"),
    # The table prints 3.110 here, which is where scipy's default tolerance leaves off; see the test below.
    ("behavior_bias_Llama-2-13b-chat_fairness", "behavior_bias_mean", -1, -1.0, "3.111", "-8.345", ".993"),
]
SUBJECTS = ("international_law", "medical_genetics", "high_school_computer_science")
# model and vector: c, l, k of each subject
HELPFULNESS = {
    # The table prints +.004 for the second l: .00348, rounded twice; see the test below.
    "Llama-2-13b_harmfulness": ((".442", "+.010", ".0179"), (".339", "+.003", ".0086"), (".364", "+.003", ".0076")),
    "Llama-2-13b-chat_harmfulness": (
        (".707", "+.014", ".0196"),
        (".581", "+.005", ".0144"),
        (".522", "+.028", ".0176"),
    ),
    "Llama-2-13b_fairness": ((".442", "-.011", ".0131"), (".339", "-.006", ".0055"), (".364", "-.006", ".0054")),
    "Llama-2-13b-chat_fairness": ((".711", "+.009", ".0084"), (".579", "+.001", ".0079"), (".525", "-.001", ".0068")),
}


@pytest.fixture(scope="module")
def figures(shared_dir):
    path = shared_dir / "data" / "wolf_tradeoff" / "figure_curves.json"
    if not path.is_file():
        pytest.skip("the numbers behind the published figures are not in ../shared")
    return json.loads(path.read_text())


def _curve(figures, name, series, sign=1):
    points = sorted((float(strength), sign * value) for strength, value in figures[name][series].items())
    return Curve.from_means([strength for strength, _ in points], [value for _, value in points], name)


def _printed(value, like):
    """The number with as many decimals as the table prints, written as the table writes it."""
    decimals = len(like.split(".")[1])
    text = f"{value:+.{decimals}f}" if like[0] == "+" else f"{value:.{decimals}f}"
    return text if "0." in like else text.replace("0.", ".")


@pytest.mark.parametrize(("name", "series", "sign", "start", "a", "b0", "r_squared"), BEHAVIOUR)
def test_behaviour_table(figures, name, series, sign, start, a, b0, r_squared):
    curve = _curve(figures, name, series, sign)
    fit = fit_alignment(curve, window=(-3.0, 5.0), n_resamples=0)
    assert fit.n_points == 41
    assert curve.at_zero == start
    assert _printed(fit.a.value, a) == a
    assert _printed(fit.b0.value, b0) == b0
    assert _printed(fit.fits["tanh"].r_squared, r_squared) == r_squared


@pytest.mark.parametrize(("vector", "subject"), [(v, s) for v in HELPFULNESS for s in range(3)])
def test_helpfulness_table(figures, vector, subject):
    curve = _curve(figures, f"{SUBJECTS[subject]}_{vector}", "p_mean_relative")
    fit = fit_helpfulness(curve, window=(-2.0, 2.0), n_resamples=0)
    assert fit.n_points == 9
    for found, printed in zip((fit.H0, fit.linear, fit.k), HELPFULNESS[vector][subject], strict=True):
        assert _printed(found.value, printed) == printed
    assert 0.977 <= round(fit.fits["parabola"].r_squared, 3) <= 1.0
    strengths, means = curve.window(-2.0, 2.0).strengths.numpy(), curve.window(-2.0, 2.0).mean.numpy()
    assert [-fit.k.value, fit.linear.value, fit.H0.value] == pytest.approx(np.polyfit(strengths, means, 2), abs=1e-12)


def test_the_one_gain_that_differs_was_printed_before_the_search_had_ended(figures):
    """Table: a = 3.110. The optimum is 3.11055; scipy's default start and tolerance stop at 3.11049."""
    name, series, sign = BEHAVIOUR[3][:3]
    part = _curve(figures, name, series, sign).window(-3.0, 5.0)
    r, means = part.strengths.numpy(), part.mean.numpy()

    def residual(parameters):
        return np.tanh(parameters[0] * r + parameters[1]) - means

    exact = least_squares(residual, (3, -8), xtol=1e-15, ftol=1e-15, gtol=1e-15)
    early, _ = curve_fit(lambda r, a, b0: np.tanh(a * r + b0), r, means)
    fit = fit_alignment(part, n_resamples=0)
    assert fit.a.value == pytest.approx(exact.x[0], abs=2e-6)
    assert fit.b0.value == pytest.approx(exact.x[1], abs=5e-6)
    assert fit.fits["tanh"].rss <= float((residual(early) ** 2).sum())
    assert f"{early[0]:.3f}" == "3.110"


def test_the_one_linear_term_that_differs_was_rounded_twice(figures):
    """Table: l = +.004. It is .00348, which is .0035 to four decimals and .003 to three."""
    curve = _curve(figures, "medical_genetics_Llama-2-13b_harmfulness", "p_mean_relative")
    assert fit_helpfulness(curve, window=(-2.0, 2.0), n_resamples=0).linear.value == pytest.approx(0.0034827, abs=1e-7)


def test_published_bells_have_costs_and_their_tops_are_found(figures):
    """With the chance level of four choices as the floor, the default window is near the one chosen by hand."""
    for vector in HELPFULNESS:
        curve = _curve(figures, f"international_law_{vector}", "p_mean_relative")
        by_hand = fit_helpfulness(curve, window=(-2.0, 2.0), n_resamples=0)
        by_itself = fit_helpfulness(curve, floor=0.25, n_resamples=0)
        assert by_itself.k.value == pytest.approx(by_hand.k.value, rel=0.3)
        assert -3 <= by_itself.window[0] <= -1
        assert 1.5 <= by_itself.window[1] <= 3
        assert by_itself.cost_detected is None  # one item: no interval, so nothing is claimed


def test_the_fits_name_their_rivals(figures):
    harm = fit_alignment(_curve(figures, *BEHAVIOUR[0][:3]), window=(-3.0, 5.0), n_resamples=0)
    assert harm.best.name == "plateaus"  # it starts from a plateau at -.76
    complies = fit_alignment(_curve(figures, *BEHAVIOUR[1][:3]), window=(-3.0, 5.0), n_resamples=0)
    assert complies.best.name == "tanh"
    assert complies.saturated
    assert not harm.saturated
    half = torch.tensor([complies.r_half.value], dtype=torch.float64)
    assert float(complies.fits["tanh"].predict(half)) == pytest.approx(0.0, abs=1e-12)
