"""The weak points of a run of RAHF, said where they occur in it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from contrans_lens.evaluation import Interval
from contrans_lens.rahf.scoring import decisive_controls
from contrans_lens.rahf.verdict import AS_GOOD

if TYPE_CHECKING:
    from contrans_lens.rahf.result import RahfResult

_SHORT_ANSWER = 2  # tokens
_LARGE_KL = 0.1  # nats per token
_FEW_PAIRS = 10
_FEW_GROUPS = 8
_NOTABLE = 0.1  # of the aligned model's change, in a control
_LEAST = 0.05  # of P(chosen), that a control has to move it by
_ZERO = 0.0005  # of P(chosen): what is less is printed as none
_LARGE_ERROR = 0.7  # of the way to the targets that the fit has left
_GENERALISES = 0.2  # difference of the relative error between training and validation answers


def weak_points(result: "RahfResult") -> list[str]:
    """Sentences about what a reader should not overlook; none where nothing was noticed."""
    return [
        *_positions(result),
        *_scored(result),
        *_controls(result),
        *_lengths(result),
        *_fit(result),
        *_alpha(result),
        *_cost(result),
        *_cut(result),
    ]


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
    if aligned.n < _FEW_PAIRS:
        yield f"Only {aligned.n} pairs of {aligned.n_groups} groups were scored: so few say little."
    elif aligned.n_groups < _FEW_GROUPS:
        yield (
            f"The {aligned.n} scored pairs are of {aligned.n_groups} groups only, which are what is resampled: the "
            "intervals rest on few units."
        )
    left_out = result.preferences["left_out"]
    if left_out > aligned.n:
        yield (
            f"More than half of the test pairs, {left_out} of {left_out + aligned.n}, were not scored: they are longer "
            "than the context, or their answers are one. The scores hold for the others, which are the shorter ones."
        )
    elif left_out:
        were = "test pair was not scored: it is" if left_out == 1 else "test pairs were not scored: they are"
        yield f"{left_out} {were} longer than the context, or both answers are the same tokens."


def _controls(result: "RahfResult") -> Iterator[str]:
    controls, moved = decisive_controls(result.rows), result.row("aligned").change
    if not controls:
        yield "No controls were run: a change of P(chosen) may have other reasons than the preference."
    for row in controls:
        change = row.change
        if change is None or moved is None or change.contains(0.0):
            continue
        if abs(change.value) >= max(_LEAST, _NOTABLE * abs(moved.value)):
            yield f"The control {row.name} moves P(chosen) too, by {_told(change)}: {_meaning(row.kind)}."
    for row in result.rows:
        lead = row.lead
        if row.kind == "prompt" and row.change and row.change.low > 0 and lead is not None and not lead.low > 0:
            yield from _words(lead)


def _meaning(kind: str) -> str:
    if kind == "shuffled":
        return "part of the change has other reasons than the preference"
    return "a direction at random moves it as well, to a side that chance decides, so that a change alone says little"


def _words(lead: Interval) -> Iterator[str]:
    """How the aligned model stands to p+ in words, where it is not clearly ahead; nothing where they are one."""
    if abs(lead.value) < _ZERO and (lead.high < 0 or max(-lead.low, lead.high) < _ZERO):
        return
    size, place = f"{abs(lead.value):.3f}", "behind" if lead.value < 0 else "ahead"
    if lead.high < 0:
        reach = f"[{-lead.high:.3f}, {-lead.low:.3f}]"
        yield f"Saying p+ before the prompt does more: the aligned model is behind it by {size} {reach}."
    else:
        yield (
            "Saying p+ before the prompt does as much, as far as these pairs tell: the aligned model is "
            f"{place} by {size}, and the interval of the difference [{lead.low:+.3f}, {lead.high:+.3f}] holds zero."
        )


def _cut(result: "RahfResult") -> Iterator[str]:
    for step, cuts in result.preferences["cut"].items():
        note = cut_caution(cuts["prompts"], cuts["answers"], cuts["rows"])
        if note is not None:
            yield f"{step}: {note}"


def cut_caution(cut_prompts: int, cut_answers: int, n_rows: int) -> str | None:
    """What was cut off the prompts and answers that a model was trained on or read at; None where nothing was.

    Args:
        cut_prompts: rows whose prompt lost tokens on its left.
        cut_answers: rows whose answer lost tokens on its right.
        n_rows: all rows.
    """
    parts = [
        f"1 {what} lost its {end} tokens" if number == 1 else f"{number} {what}s lost their {end} tokens"
        for what, end, number in (("prompt", "first", cut_prompts), ("answer", "last", cut_answers))
        if number
    ]
    if not parts:
        return None
    return (
        f"Of {n_rows} rows, {' and '.join(parts)}, because of the limits of tokens or of the context: what was cut was "
        "neither trained on nor read."
    )


def _lengths(result: "RahfResult") -> Iterator[str]:
    row = result.row("aligned")
    if row.change is None or not row.change.low > 0:
        return
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
    if round(error, 2) >= 1:
        yield (
            f"The fit is no nearer to its targets than the base: it has left {error:.0%} of the way. Train it longer "
            "or at a lower rate, give it a higher rank, or take a smaller alpha."
        )
    elif error > _LARGE_ERROR:
        yield f"The fit has left {error:.0%} of the way to its targets: train it longer, or give it a higher rank."
    if held_out is not None and round(held_out, 2) >= 1 > round(error, 2):
        yield (
            f"On validation answers the fit is no nearer to its targets than the base: it misses {held_out:.0%} of the "
            f"way there, and {error:.0%} on those it was trained on: what it has learnt does not carry over."
        )
    elif held_out is not None and held_out < 1 and held_out - error > _GENERALISES:
        yield (
            f"The fit misses {held_out:.0%} of the way on validation answers and {error:.0%} on those it was trained "
            "on: it has learnt them by heart in part."
        )


def _alpha(result: "RahfResult") -> Iterator[str]:
    trials, change = sorted(result.trials, key=lambda trial: trial.alpha), result.row("aligned").change
    if len(trials) < 2:
        return
    alike = [trial for trial in trials if trial.behind.low <= 0 or trial.behind.value <= AS_GOOD]
    still = change is not None and (change.contains(0.0) or abs(change.value) < AS_GOOD)
    if len(alike) == len(trials) and still and change is not None:
        yield (
            f"No alpha from {trials[0].alpha:g} to {trials[-1].alpha:g} had an effect that can be told from none: on "
            f"validation pairs all give one P(chosen), and on test pairs that of {result.alpha:g} moved it by "
            f"{_told(change)}."
        )
        return
    # The rule takes the cheapest of equals, so that the lowest says nothing of lower ones unless it is better alone.
    best = max(trials, key=lambda trial: trial.probability.value)
    if best.alpha == result.alpha and (best is trials[-1] or (best is trials[0] and alike == [best])):
        side = "larger" if best is trials[-1] else "smaller"
        yield (
            f"The chosen alpha {result.alpha:g} is the best of those that were tried and at their end; {side} ones may "
            "be better."
        )


def _cost(result: "RahfResult") -> Iterator[str]:
    damage = result.row("aligned").damage
    if damage is None:
        yield "Damage was not measured, because no neutral texts were given."
    elif damage["kl"] > _LARGE_KL:
        yield (
            f"The aligned model is {damage['kl']:.3f} nats per token away from the base on neutral text, more than "
            f"{_LARGE_KL:g}: it has changed where it was not meant to. A smaller alpha costs less."
        )


def _told(span: Interval) -> str:
    return f"{span.value:+.3f} [{span.low:+.3f}, {span.high:+.3f}]"
