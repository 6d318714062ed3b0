"""A small sweep whose curves follow the laws, made without a model, and its analysis."""

import torch

from contrans_lens.evaluation.behaviours import Measurement
from contrans_lens.tradeoff import AnalysisSettings, TradeoffResult, analyse, strength_grid
from contrans_lens.tradeoff.result import SweepResult

STRENGTHS = torch.tensor(strength_grid(1.5, 4), dtype=torch.float64)
GAIN, DRAWS, ITEMS = 0.8, 3, 40


def simulated_result(
    directions: tuple[str, ...] = ("vector",), *, helpfulness: bool = True, damage: bool = True
) -> TradeoffResult:
    """Behaviour rises with gain .8, helpfulness falls as a bell, KL is quadratic; random draws do little."""
    noise = torch.Generator().manual_seed(0)
    names = [*directions, *(f"random/{number}" for number in range(DRAWS))]
    kinds = {"honesty": "answers", "honesty shift": "shift"}
    if helpfulness:
        kinds |= {"facts": "choices", "facts shift": "shift"}
    if damage:
        kinds |= {"neutral": "neutral", "written": "generations"}
    measured = {}
    for place, name in enumerate(names):
        strong = (1.0 if name in directions else 0.05) / (1 + 0.3 * (place % max(1, len(directions))))
        for behaviour, kind in kinds.items():
            if kind == "shift" and name not in directions:
                continue  # sweeps leave these out, too
            measured[name, behaviour] = _measured(behaviour, kind, strong, noise)
    plan = {
        "directions": {name: ["add +1"] for name in names},
        "behaviours": kinds,
        "chance": {"facts": 0.25},
        "strengths": STRENGTHS.tolist(),
        "roles": {"alignment": "honesty", **({"helpfulness": "facts"} if helpfulness else {})},
    }
    sweep = SweepResult({"name": "toy"}, plan, measured, "contrans-lens sweep --model toy")
    return analyse(sweep, AnalysisSettings(n_resamples=200))


def _measured(behaviour: str, kind: str, strong: float, noise: torch.Generator) -> Measurement:
    r = STRENGTHS[:, None]
    start = 0.3 * torch.randn(1, ITEMS, generator=noise, dtype=torch.float64)
    groups = tuple(f"group {number // 2}" for number in range(ITEMS))
    if kind == "answers":
        logit = GAIN * strong * r + start
        columns = {"expectation": logit.tanh(), "accuracy": (logit > 0).double()}
    elif kind == "choices":
        odds = 0.6 + start - 0.1 * strong * r - 0.4 * (strong * r).square()
        columns = {"p_restricted": odds.sigmoid(), "p_mean": 0.8 * odds.sigmoid()}
    elif kind == "neutral":
        kl = 0.2 * (strong * r).square() * (1 + 0.1 * start.abs())
        return Measurement(
            behaviour,
            {"kl": kl, "nll": 1 + 0.5 * kl + 0 * start},
            "kl",
            ("",) * ITEMS,
            torch.full((ITEMS,), 9.0).double(),
        )
    elif kind == "generations":
        flat = r.abs().expand(-1, ITEMS)
        columns = {"score": (strong * r + start).tanh(), "repetition": 0.01 * flat, "loop": 0 * flat}
        columns["compression"] = 1 + 0.1 * flat
    else:
        ones = torch.ones(1, ITEMS, dtype=torch.float64)
        columns = {
            "delta": 2 * strong * r.abs() * ones,
            "gap": 2 * GAIN * strong * r * (ones + 0.1 * start),
            "mu": 0.1 * strong * r * ones,
            "sigma": 0.5 * strong * r.abs() * (ones + 0.1 * start),
            "p0": (0.6 + start).sigmoid().expand(len(STRENGTHS), -1),
        }
    primary = next(iter(columns))
    return Measurement(behaviour, {name: values.contiguous() for name, values in columns.items()}, primary, groups)
