"""Small differences to fit adapters on, shared by the tests of the fit and of its oracle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.models import Fingerprint, fingerprint
from contrans_lens.rahf.tokens import AnswerRow, Where
from tests.tiny_models import D_MODEL, hf_tiny, open_tiny

POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
"""Two of the four blocks are run."""
ROWS = (
    AnswerRow((5, 17, 40, 8, 33, 21), 3),
    AnswerRow((9, 80, 12, 64), 2),
    AnswerRow((71, 30, 2, 55, 18, 90, 44, 6, 23), 4),
    AnswerRow((31, 66), 1),
    AnswerRow((50, 4, 77, 61, 13), 4),
)
"""Different lengths of prompts and answers: three, two, five, one and one token are read."""


WRITERS = {"gpt2": ("c_attn", "c_proj"), "llama": ("v_proj", "o_proj", "down_proj")}
"""Modules that write into the residual stream: adapters of query and value projections alone cannot reach made-up
differences, which lie in no direction that attention writes to."""


@dataclass(frozen=True, eq=False)
class MadeDifferences:
    """Differences that a test has made up."""

    values: Float[Tensor, "token layer d_model"]
    hook_points: tuple[str, ...] = POINTS
    where: Where = "answer"
    rows: tuple[AnswerRow, ...] = ROWS
    fingerprint: Fingerprint | None = None

    @property
    def d_model(self) -> int:
        return self.values.shape[-1]

    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        pieces = self.values.split([len(row.answer) for row in self.rows])
        return torch.cat([pieces[row] for row in rows])


def made(seed: int = 0, scale: float = 1.0, **options: Any) -> MadeDifferences:
    """Random differences; every direction is the sum of a shared one and of the token's own."""
    generator = torch.Generator().manual_seed(seed)
    points, rows = options.get("hook_points", POINTS), options.get("rows", ROWS)
    shared = torch.randn(len(points), D_MODEL, generator=generator)
    own = torch.randn(sum(len(row.answer) for row in rows), len(points), D_MODEL, generator=generator)
    return MadeDifferences(scale * (shared + 0.3 * own), **options)


def fingerprint_of(architecture: str) -> Fingerprint:
    """That of a tiny model."""
    return fingerprint(open_tiny(architecture))


def hidden_states(architecture: str, row: AnswerRow, model: Any = None) -> Tensor:
    """The oracle: Hugging Face's own ``hidden_states`` of one row alone, ``[layer, pos, d_model]``, all blocks run."""
    model = hf_tiny(architecture)[0] if model is None else model
    with torch.no_grad():
        found = model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states
    return torch.stack(found)[:, 0]
