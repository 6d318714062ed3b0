"""The weak points of a run of RAHF, said where they occur in it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from contrans_lens.rahf.scoring import decisive_controls

if TYPE_CHECKING:
    from contrans_lens.rahf.result import RahfResult

_SHORT_ANSWER = 2  # tokens
_LARGE_KL = 0.1  # nats per token
_FEW_GROUPS = 8
_NOTABLE = 0.1  # of the aligned model's change, in a control
_LARGE_ERROR = 0.7  # of the way to the targets that the fit has left
_GENERALISES = 0.2  # difference of the relative error between training and validation answers


def weak_points(result: "RahfResult") -> list[str]:
    """Sentences about what a reader should not overlook; none where nothing was noticed."""
    return [*_positions(result), *_scored(result), *_controls(result), *_lengths(result), *_fit(result), *_cost(result)]


def _positions(result: "RahfResult") -> Iterator[str]:
    longest = len(result.norms.counts)
    if result.settings["where"] == "answer" and longest <= _SHORT_ANSWER:
        yield (
            f"The activity was moved at the answers' own tokens (where='answer'), and the longest has {longest}: the "
            "first token of an answer is decided on before it, where nothing was moved. Use where='predicting'."
        )
    elif result.settings["where"] == "answer" and result.norms.counts:
        yield (
            "The activity was moved at the answers' own tokens only (where='answer', as in the paper): what decides "
            "the first token lies before it."
        )


def _scored(result: "RahfResult") -> Iterator[str]:
    aligned = result.row("aligned").probability
    if aligned.n_groups < _FEW_GROUPS:
        yield (
            f"The {aligned.n} scored pairs are of {aligned.n_groups} groups only, which are what is resampled: the "
            "intervals rest on few units."
        )
    left_out = result.preferences["left_out"]
    if left_out:
        yield f"{left_out} test pairs were not scored: they are longer than the context, or their answers are one."


def _controls(result: "RahfResult") -> Iterator[str]:
    controls, moved = decisive_controls(result.rows), result.row("aligned").change
    if not controls:
        yield "No controls were run: a change of P(chosen) may have other reasons than the preference."
    for row in controls:
        change = row.change
        clearly = change is not None and (change.low > 0 or change.high < 0)
        if clearly and change and moved and abs(change.value) > _NOTABLE * abs(moved.value):
            yield (
                f"The control {row.name} moves P(chosen) too, by {change.value:+.3f} [{change.low:+.3f}, "
                f"{change.high:+.3f}]: part of the change has other reasons than the preference."
            )
    for row in result.rows:
        lead = row.lead
        if row.kind == "prompt" and row.change and row.change.low > 0 and lead is not None and not lead.low > 0:
            yield (
                f"Saying p+ before the prompt does as much: the aligned model is ahead of it by {lead.value:+.3f} "
                f"[{lead.low:+.3f}, {lead.high:+.3f}]."
            )


def _lengths(result: "RahfResult") -> Iterator[str]:
    row = result.row("aligned")
    if row.matched is None:
        yield (
            "Too few scored pairs have answers of about one length: a model that came to prefer long or short answers "
            "would look the same."
        )
    elif result.row("base").matched is not None and row.matched.n < row.probability.n:
        base = result.row("base").matched
        if base is not None and row.matched.low <= base.high:
            yield (
                f"Among the {row.matched.n} pairs with answers of about one length, P(chosen) is "
                f"{row.matched.value:.3f} [{row.matched.low:.3f}, {row.matched.high:.3f}] and the base's "
                f"{base.value:.3f} [{base.low:.3f}, {base.high:.3f}]: the rise may be one of length."
            )


def _fit(result: "RahfResult") -> Iterator[str]:
    error, held_out = result.relative_error, result.validation_relative_error
    if error > _LARGE_ERROR:
        yield f"The fit has left {error:.0%} of the way to its targets: train it longer, or give it a higher rank."
    if held_out is not None and held_out - error > _GENERALISES:
        yield (
            f"The fit misses {held_out:.0%} of the way on validation answers and {error:.0%} on those it was trained "
            "on: it has learnt them by heart in part."
        )
    if len(result.trials) > 1 and result.alpha in (result.trials[0].alpha, result.trials[-1].alpha):
        yield f"The chosen alpha {result.alpha:g} is at the end of those that were tried; others beyond may be better."


def _cost(result: "RahfResult") -> Iterator[str]:
    damage = result.row("aligned").damage
    if damage is None:
        yield "Damage was not measured, because no neutral texts were given."
    elif damage["kl"] > _LARGE_KL:
        yield (
            f"The aligned model is {damage['kl']:.3f} nats per token away from the base on neutral text, more than "
            f"{_LARGE_KL:g}: it has changed where it was not meant to. A smaller alpha costs less."
        )
