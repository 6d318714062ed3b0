"""What a model stands of the ways to save work at a hook point: found out by trying, once per model."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from contrans_lens.evaluation.continuations import TokenRow
from contrans_lens.evaluation.passes import CellPasses, token_batch
from contrans_lens.evaluation.resuming import Residuals
from contrans_lens.models import HookedModel

_PROBE_TOKENS = 6
_ODD_SHAPES = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError)  # what models raise

_TRIED: weakref.WeakKeyDictionary[HookedModel, dict[tuple[str, bool], "Stands"]] = weakref.WeakKeyDictionary()
"""What was found out about models, by hook point and whether a common beginning was to be tried."""


@dataclass(frozen=True)
class Stands:
    """What a model stands at a hook point."""

    resuming: bool
    trimming: bool
    cutting: bool


def what_it_stands(
    model: HookedModel,
    passes: CellPasses,
    rows: Sequence[TokenRow],
    hook_point: str,
    entry: str,
    *,
    sharing_beginnings: bool,
    token_budget: int,
) -> Stands:
    """What the model stands at a hook point, tried the first time it is asked.

    Args:
        model: the model.
        passes: the ways to run it that are compared.
        rows: whose tokens it is tried on.
        hook_point: where additions will be made.
        entry: the entry point of that hook point.
        sharing_beginnings: try a common beginning too.
        token_budget: most tokens in one forward pass.
    """
    known = _TRIED.setdefault(model, {})
    key = (hook_point, sharing_beginnings)
    if key not in known:
        known[key] = _try(model, passes, rows, hook_point, entry, sharing_beginnings, token_budget)
    return known[key]


@torch.no_grad()
def _try(
    model: HookedModel,
    passes: CellPasses,
    rows: Sequence[TokenRow],
    hook_point: str,
    entry: str,
    sharing_beginnings: bool,
    token_budget: int,
) -> Stands:
    """Try on a few tokens of two rows with three large and different additions.

    The rows differ in length and, beyond a common beginning, in their tokens.
    """
    cut = _PROBE_TOKENS // 2
    tokens = (rows[0].tokens * _PROBE_TOKENS)[:_PROBE_TOKENS]
    other = tokens[:cut] + (rows[-1].tokens[::-1] * _PROBE_TOKENS)[: _PROBE_TOKENS - cut - 1]
    batch = token_batch([TokenRow(ids, (), "", 1, False) for ids in (tokens, other)])
    reads = (batch.lengths - 1)[:, None]
    residual = Residuals(model, [entry], token_budget).of(range(2), batch)[entry]
    norm = residual[:, 1:].float().norm(dim=-1).mean()
    directions = torch.randn(3, residual.shape[-1], generator=torch.Generator().manual_seed(0))
    additions = directions / directions.norm(dim=1, keepdim=True) * norm.cpu()
    expected = passes.plain(batch, additions, hook_point, reads).float()
    spread = float((expected - expected.mean(0)).abs().max())

    def succeeds(cut: int, trim: bool) -> bool:
        try:
            found = passes.resumed(batch, residual, additions, hook_point, reads, cut, trim).float()
        except _ODD_SHAPES:
            return False
        return found.shape == expected.shape and float((found - expected).abs().max()) <= 1e-2 * spread

    trims = succeeds(0, True)
    resumes = trims or succeeds(0, False)
    return Stands(resumes, trims, resumes and sharing_beginnings and succeeds(cut, trims))
