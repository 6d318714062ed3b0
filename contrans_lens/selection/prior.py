"""The paper's prior: three quarters of the depth."""

from collections.abc import Sequence

from contrans_lens.errors import SelectionError


def three_quarters(hook_points: Sequence[str]) -> str:
    """The hook point after three quarters of the blocks, as in ConTrans (after block 24 of 32, 30 of 40, 60 of 80).

    Args:
        hook_points: one residual hook point per block, in order.

    Raises:
        SelectionError: there are none.
    """
    if not hook_points:
        raise SelectionError("there are no hook points to choose from.")
    return hook_points[max(round(0.75 * len(hook_points)), 1) - 1]
