"""The stated rule that turns rows into a verdict.

1. The native effect must be real: its interval lies above zero. Without a ceiling nothing can be said to transfer.
2. The transplanted effect must be real: its interval lies above zero.
3. It must beat every family of control draws: p <= .05 one-sided, where p = (1 + #{draw >= effect}) / (1 + #draws).
4. Where the layers were chosen by evidence, that choice must have passed its gates
   (:mod:`contrans_lens.selection.gates`).
5. ``transfers`` asks that the lower end of the recovered share is at least .80; ``transfers in part`` is the rest.

Any clause of 1-4 that fails gives ``does not transfer``, and the reason names it.
"""

from collections.abc import Mapping, Sequence

from contrans_lens.pipeline.result import Row, Share
from contrans_lens.selection import LayerReport

TRANSFERS = "transfers"
IN_PART = "transfers in part"
DOES_NOT = "does not transfer"

SHARE_FLOOR = 0.80
ALPHA = 0.05
CONTROL_ROWS = ("random", "random_covariance", "random_source", "shuffled_map")


def judge(rows: Sequence[Row], share: Share, layers: LayerReport | None = None) -> tuple[str, str]:
    """Apply the rule of this module.

    Args:
        rows: the rows of a transplant, ``native`` and ``transplanted`` among them.
        share: the share of the native effect that was recovered.
        layers: what the evidence said about the layers, where it chose them.

    Returns:
        The verdict and its reason, numbers included.
    """
    named: Mapping[str, Row] = {row.name: row for row in rows}
    native, moved = named["native"], named["transplanted"]
    if native.effect_ci[0] <= 0:
        return (
            DOES_NOT,
            f"no ceiling: the target's own vector has effect {_interval(native)}, which holds zero",
        )
    if moved.effect_ci[0] <= 0:
        return DOES_NOT, f"the transplanted effect {_interval(moved)} is not above zero"
    for name in CONTROL_ROWS:
        control = named.get(name)
        if control is not None and control.p_value is not None and control.p_value > ALPHA:
            drawn = f"{control.p_value:.3f} over {len(control.draws)} draws"
            return (
                DOES_NOT,
                f"effect {moved.effect:+.3f} is within reach of the control '{name}' (p = {drawn})",
            )
    if layers is not None and not layers.works:
        return DOES_NOT, layers.reason
    low = share.ci[0]
    if low is not None and low >= SHARE_FLOOR:
        return (
            TRANSFERS,
            f"lower end of the recovered share {low:.0%} >= {SHARE_FLOOR:.0%}; all controls beaten",
        )
    shown = "undefined" if low is None else f"{low:.0%}"
    return IN_PART, f"all controls beaten, but the recovered share's lower end is {shown} < {SHARE_FLOOR:.0%}"


def _interval(row: Row) -> str:
    return f"{row.effect:+.3f} [{row.effect_ci[0]:+.3f}, {row.effect_ci[1]:+.3f}]"
