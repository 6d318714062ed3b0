"""The mean residual norm at hook points: the unit in which strengths are told."""

from collections.abc import Sequence

from torch import Tensor

from contrans_lens.errors import HookPointError
from contrans_lens.models import HookedModel, HookFunction, TokenBatch, hooks, layer_of, resid_post, run


def mean_norms(model: HookedModel, batches: Sequence[TokenBatch], hook_points: Sequence[str]) -> dict[str, float]:
    """Mean norm of the activation at hook points over real tokens other than the first of each row.

    The first token is left out (where there are others): its massive activations would decide the mean.
    """
    totals = dict.fromkeys(hook_points, 0.0)
    count = 0

    def measured(name: str) -> HookFunction:
        def measure(activation: Tensor) -> None:
            norms = activation.float().norm(dim=-1)[mask.to(activation.device)]
            totals[name] += float(norms.double().sum())

        return measure

    for batch in batches:
        mask = batch.mask.clone()
        if int(batch.lengths.min()) > 1:
            mask[:, 0] = False
        count += int(mask.sum())
        with hooks(model, {name: measured(name) for name in totals}):
            run(model, batch, stop_after=_last_of(hook_points))
    return {name: total / count for name, total in totals.items()}


def _last_of(hook_points: Sequence[str]) -> str | None:
    """A hook point after which none of the given ones comes; None if that cannot be told from their names."""
    if len(hook_points) == 1:
        return hook_points[0]
    try:
        return resid_post(max(layer_of(name) for name in hook_points))
    except HookPointError:
        return None
