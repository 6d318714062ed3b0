"""A result of a run that nothing was trained for, for the tests of what is made of results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from contrans_lens.evaluation import Interval
from contrans_lens.rahf.norms import DifferenceNorms
from contrans_lens.rahf.result import AlphaTrial, RahfResult
from contrans_lens.rahf.scoring import Kind, Scored
from contrans_lens.rahf.settings import AlignSettings
from contrans_lens.rahf.training import Cost, LossCurve

POINTS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
BASE = 0.5


def span(value: float, width: float = 0.02, *, n: int = 40, n_groups: int = 12) -> Interval:
    return Interval(value, value - width, value + width, 0.95, n, n_groups)


def damage(kl: float) -> dict[str, Any]:
    pair = [kl * 0.9, kl * 1.1]
    return {
        "kl": kl,
        "kl_ci": pair,
        "kl_p95": 3 * kl,
        "top_changed": 0.125,
        "top_changed_ci": [0.1, 0.15],
        "nll": 1.0,
        "nll_ci": [0.9, 1.1],
        "perplexity": 2.75,
        "perplexity_ci": [2.5, 3.0],
        "unsteered_perplexity": 2.5,
        "n_tokens": 100,
        "n_texts": 4,
    }


def scored(
    name: str, kind: Kind, value: float, *, aligned: float = 0.9, kl: float | None = 0.01, **other: Any
) -> Scored:
    row = Scored(
        name=name,
        kind=kind,
        folder=None if kind in ("base", "prompt") else name.removesuffix(" at equal KL"),
        probability=span(value),
        accuracy=span(value, 0.1),
        margin=span(8 * (value - 0.5), 0.5),
        change=None if kind == "base" else span(value - BASE),
        lead=None if kind == "aligned" else span(aligned - value),
        matched=span(value, n=40),
        damage=None if kl is None else damage(kl),
    )
    return replace(row, **other)


def rows(aligned: float = 0.9, shuffled: float = 0.51, random: float = 0.95, equal: float = 0.53) -> tuple[Scored, ...]:
    return (
        scored("base", "base", BASE, aligned=aligned, kl=0.0),
        scored("prompt", "prompt", 0.8, aligned=aligned, kl=None),
        scored("scit", "step 1", 0.6, aligned=aligned),
        scored("aligned", "aligned", aligned, aligned=aligned, kl=0.05),
        scored("shuffled 0", "shuffled", shuffled, aligned=aligned),
        scored("random 0", "random", random, aligned=aligned, kl=0.5),
        scored("random 0 at equal KL", "random at equal KL", equal, aligned=aligned, kl=0.05, scale=0.25),
    )


def norms(n_offsets: int = 3) -> DifferenceNorms:
    return DifferenceNorms(
        hook_points=POINTS,
        where="predicting",
        layers=(1.0, 2.0),
        layer_intervals=(span(1.0), span(2.0)),
        offsets=((1.0,) * n_offsets, (2.0,) * n_offsets),
        offset_intervals=((span(1.0), *(None,) * (n_offsets - 1)),) * 2,
        counts=(40,) * n_offsets,
        residual_norms=(10.0, 20.0),
    )


def result(folder: Path = Path("run"), **other: Any) -> RahfResult:
    made = RahfResult(
        model={"name": "tiny <b>model</b>", "architecture": "x"},
        preferences={
            "name": "good & kind",
            "hash": "0" * 64,
            "topics": ["kindness"],
            "parts": {"train": {"pairs": 80, "groups": 20}, "validation": {"pairs": 20, "groups": 6}},
            "scored": 40,
            "left_out": 0,
            "too_long": 0,
            "longest_answer": 3,
            "cut": {"step 1: scit": {"prompts": 0, "answers": 0, "rows": 80}},
            "report": None,
        },
        instructions={"": {"positive": "Be <kind>.\n", "negative": "Be rude.\n"}},
        settings=AlignSettings(alpha=2.0).to_dict(),
        hook_points=POINTS,
        alpha=2.0,
        trials=(),
        rows=rows(),
        relative_error=0.3,
        validation_relative_error=0.35,
        norms=norms(),
        curves={"scit": LossCurve((10, 20), (2.0, 1.0), {"accuracy": (0.5, 1.0)}), "fit": LossCurve((10,), (3.0,))},
        validation_curves={"fit": LossCurve((0, 10), (4.0, 3.0))},
        costs={"step 1: scit": Cost(10.0, 9.0, 20, 1000, 6000, 64), "step 2": Cost(1.0, 0.5, 0, 200, 600, 0)},
        control_seconds=12.0,
        folder=folder,
        command="contrans-lens rahf --base '<x>'",
    )
    return replace(made, **other)


def trials(*values: tuple[float, float, bool]) -> tuple[AlphaTrial, ...]:
    return tuple(AlphaTrial(alpha, span(p), span(0.95 - p), 0.01, chosen) for alpha, p, chosen in values)
