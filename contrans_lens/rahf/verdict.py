"""Whether a run aligned its model, and which alpha it takes, by rules stated before any number is seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from contrans_lens.evaluation import Interval
from contrans_lens.rahf.scoring import Scored, decisive_controls

ALIGNS, DOES_NOT, UNDECIDED = "aligns", "does not align", "undecided"

RULE = (
    "A run aligns where P(chosen) on held-out pairs rises above the base's, and above that of every control, with 95 % "
    "intervals of the paired differences over groups of pairs that leave zero below. Random directions count at equal "
    "damage where that was measured. Without a control of each kind it is undecided."
)

AS_GOOD = 0.02
"""Of P(chosen): an alpha that is behind the best one by no more counts as good as that."""

ALPHA_RULE = (
    f"Of the alphas tried, those count as good as the best whose P(chosen) on validation pairs is at most {AS_GOOD:g} "
    "below its, or not clearly below it (the 95 % interval of the paired difference holds zero). Of these the one with "
    "the least KL on neutral text is taken, or without such texts the smallest."
)
"""How ``alpha="auto"`` chooses, for readers."""


@dataclass(frozen=True)
class Verdict:
    """What the rule says, and why."""

    word: str
    """``"aligns"``, ``"does not align"`` or ``"undecided"``."""
    reason: str
    """The clauses that decided, with their numbers."""


def verdict_of(rows: Sequence[Scored]) -> Verdict:
    """Apply :data:`RULE` to the rows of a run."""
    [aligned] = [row for row in rows if row.kind == "aligned"]
    change = aligned.change
    if change is None or not change.low > 0:
        told = "" if change is None else f" ({_told(change)})"
        return Verdict(DOES_NOT, f"P(chosen) {aligned.probability.value:.3f} is not clearly above the base's{told}")
    risen = f"P(chosen) {aligned.probability.value:.3f} is above the base's by {_told(change)}"
    controls = decisive_controls(rows)
    ahead = {row.name: row.lead for row in controls if row.lead is not None}
    equal = [f"{name} (by {_told(lead)})" for name, lead in ahead.items() if not lead.low > 0]
    if equal:
        return Verdict(DOES_NOT, f"{risen}, but not clearly above the control {', '.join(equal)}")
    missing = [kind for kind in ("shuffled", "random") if not any(row.kind.startswith(kind) for row in controls)]
    if missing:
        return Verdict(UNDECIDED, f"{risen}; no control of the kind {', '.join(missing)} was run")
    least = min(ahead.values(), key=lambda lead: lead.low)
    return Verdict(ALIGNS, f"{risen}, and above every control by at least {_told(least)}")


def _told(interval: Interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
