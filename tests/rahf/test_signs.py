import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.rahf.controls import scaled
from contrans_lens.rahf.signs import signs_exchanged
from contrans_lens.rahf.summaries import SummarisedDifferences
from contrans_lens.rahf.tokens import AnswerRow


class Counted(SummarisedDifferences):
    """Every token of row n is n + 1 everywhere."""

    def __init__(self, n_rows: int) -> None:
        self.hook_points = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
        self.where = "answer"
        self.d_model = 3
        self.fingerprint = None
        self.rows = tuple(AnswerRow((1, 2, *range(3, 4 + number % 3)), 2) for number in range(n_rows))
        self.groups = tuple("ab"[number % 2] for number in range(n_rows))

    def of(self, rows: list[int] | range) -> Float[Tensor, "token layer d_model"]:
        values = [float(row + 1) for row in rows for _ in self.rows[row].answer]
        return torch.tensor(values)[:, None, None].expand(-1, 2, 3)

    def residual_norms(self) -> Float[Tensor, " layer"] | None:
        return torch.tensor([4.0, 5.0])


@pytest.mark.parametrize("per_pair", [1, 2])
def test_half_of_the_pairs_are_exchanged_as_wholes(per_pair: int):
    source = Counted(20)
    signed = signs_exchanged(source, per_pair, seed=3)
    signs = torch.stack([signed.of([row])[0, 0, 0] / (row + 1) for row in range(20)])
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert (signs == -1).sum() == 10
    if per_pair == 2:
        assert torch.equal(signs[::2], signs[1::2])
    whole = signed.of(range(20))
    assert torch.equal(whole.abs(), source.of(range(20)))
    assert torch.equal(torch.cat([signed.of([row]) for row in range(20)]), whole)
    assert torch.equal(signed.residual_norms(), source.residual_norms())


def test_seeds_decide_which():
    source = Counted(20)
    assert signs_exchanged(source, 1, seed=3).flipped == signs_exchanged(source, 1, seed=3).flipped
    assert signs_exchanged(source, 1, seed=3).flipped != signs_exchanged(source, 1, seed=4).flipped


def test_the_sources_numbers_are_not_touched():
    source = scaled(Counted(4), 2.0)
    before = source.of(range(4)).clone()
    signs_exchanged(source, 1).of(range(4))
    assert torch.equal(source.of(range(4)), before)
