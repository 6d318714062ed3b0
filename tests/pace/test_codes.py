import pytest
import torch

from contrans_lens.errors import PaceError
from contrans_lens.pace.codes import SparseCodes, compact_codes, join_codes

CODES = SparseCodes(
    torch.tensor([[3, 0, -1], [2, -1, -1], [-1, -1, -1]]), torch.tensor([[1.0, -2, 0], [4, 0, 0], [0] * 3]), 5
)
DENSE = torch.tensor([[-2.0, 0, 0, 1, 0], [0, 0, 4, 0, 0], [0] * 5])


def test_dense_codes_have_every_coefficient_in_its_place():
    assert torch.equal(CODES.dense(), DENSE)
    assert CODES.counts().tolist() == [2, 1, 0]
    assert CODES.n_rows == 3


def test_a_row_lists_its_atoms_by_size():
    assert CODES.row(0) == [(0, -2.0), (3, 1.0)]
    assert CODES.row(2) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_combining_is_the_product_with_the_dense_codes(dtype):
    atoms = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    made = CODES.combine(atoms)
    assert made.dtype == torch.float32
    assert torch.allclose(made, DENSE @ atoms.float(), atol=1e-6)


def test_only_chosen_atoms_keep_their_coefficients():
    chosen = torch.tensor([True, True, False, False, True])
    assert torch.equal(CODES.only(chosen).dense(), DENSE * chosen)
    assert CODES.only(chosen).counts().tolist() == [1, 0, 0]
    assert torch.equal(CODES.only(chosen).dense() + CODES.only(~chosen).dense(), DENSE)


def test_rescaling_multiplies_rows():
    assert torch.equal(CODES.rescaled(torch.tensor([2.0, 3, 4])).dense(), DENSE * torch.tensor([[2.0], [3], [4]]))


def test_codes_without_columns_combine_to_nothing():
    empty = SparseCodes(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0), 5)
    assert torch.equal(empty.combine(torch.ones(5, 4)), torch.zeros(2, 4))
    assert torch.equal(empty.dense(), torch.zeros(2, 5))
    assert empty.only(torch.ones(5, dtype=torch.bool)).row(1) == []


def test_compact_codes_drop_zeros_and_keep_the_order():
    atoms, values = torch.tensor([[4, 1, 3, 2], [0, 1, 2, -1]]), torch.tensor([[0.0, 5, 0, 6], [0, 0, 7, 0]])
    made = compact_codes(atoms, values, 5)
    assert made.atoms.tolist() == [[1, 2], [2, -1]]
    assert made.values.tolist() == [[5, 6], [7, 0]]


def test_joined_codes_are_the_rows_in_turn():
    narrow = SparseCodes(torch.tensor([[1]]), torch.tensor([[9.0]]), 5)
    joined = join_codes([CODES, narrow, CODES])
    assert torch.equal(joined.dense(), torch.cat([DENSE, narrow.dense(), DENSE]))


def test_codes_that_fit_no_dictionary_are_refused():
    # The run-time checks of the shapes may come before the package's own.
    with pytest.raises((PaceError, TypeError)):
        SparseCodes(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 2), 5)
    with pytest.raises(PaceError, match="outside"):
        SparseCodes(torch.tensor([[5]]), torch.ones(1, 1), 5)
    with pytest.raises(PaceError, match="outside"):
        SparseCodes(torch.tensor([[-2]]), torch.ones(1, 1), 5)
    with pytest.raises(PaceError, match="one flag per atom"):
        CODES.only(torch.ones(4, dtype=torch.bool))
    with pytest.raises(PaceError, match="made on"):
        CODES.combine(torch.ones(4, 4))
    with pytest.raises(PaceError, match="one dictionary"):
        join_codes([CODES, SparseCodes(CODES.atoms, CODES.values, 6)])
    with pytest.raises(PaceError, match="one dictionary"):
        join_codes([])
