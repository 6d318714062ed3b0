"""Rows of large matrices, looked at a block at a time: they may be mapped from disk."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import PaceError

_BLOCK_BYTES = 1 << 26


def row_blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views of a tensor's rows on the CPU, one after the other."""
    width = max(1, tensor[:1].numel() * tensor.element_size())
    return tensor.detach().to("cpu").split(max(1, _BLOCK_BYTES // width))


def check_unit_rows(rows: Float[Tensor, "atom d_model"], names: Sequence[str], hook_point: str) -> None:
    """Refuse atoms that are not finite or not of unit length.

    Raises:
        PaceError: names the first such atom.
    """
    tolerance = max(1e-4, 4 * torch.finfo(rows.dtype).eps)
    begin = 0
    for block in row_blocks(rows):
        norms = torch.linalg.vector_norm(block, dim=1, dtype=torch.promote_types(rows.dtype, torch.float32))
        wrong = ((norms - 1).abs() <= tolerance).logical_not().nonzero()  # NaN fails every comparison
        if len(wrong):
            name, norm = names[begin + int(wrong[0])], float(norms[wrong[0]])
            raise PaceError(
                f"the atom {name!r} at {hook_point} has norm {norm:.6g}; atoms must be finite and of unit length: "
                "divide each by its norm, and leave out those that have none."
            )
        begin += len(block)
