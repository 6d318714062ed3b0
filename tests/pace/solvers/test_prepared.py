import pytest
import torch
from torch.nn.functional import normalize

from contrans_lens.errors import PaceError
from contrans_lens.pace.solvers import PreparedAtoms
from contrans_lens.pace.solvers import prepared as prepared_module
from tests.pace.solvers.cases import both, random_atoms

ATOMS = random_atoms(60, 20, mean=0.4)


def test_unit_atoms_are_kept_to_the_bit_and_rounded_ones_restored():
    assert torch.equal(PreparedAtoms.of(ATOMS).atoms, ATOMS)
    rounded = PreparedAtoms.of(ATOMS.bfloat16()).atoms
    assert torch.allclose(rounded.norm(dim=1), torch.ones(60), atol=1e-6)
    assert torch.allclose(rounded, ATOMS, atol=5e-3)


def test_the_gram_matrix_is_made_where_it_fits(monkeypatch):
    made = PreparedAtoms.of(ATOMS).gram
    assert made is not None
    assert torch.allclose(made, ATOMS @ ATOMS.T)
    monkeypatch.setattr(prepared_module, "GRAM_BYTES", 4 * 60 * 60 - 1)
    assert PreparedAtoms.of(ATOMS).gram is None
    assert PreparedAtoms.of(ATOMS, gram=True).gram is not None
    assert PreparedAtoms.of(ATOMS, gram=False).gram is None


def test_products_are_the_same_with_the_gram_matrix_and_without():
    index, values = torch.tensor([[3, 7, -1], [5, -1, -1]]), torch.tensor([[1.0, -2, 0], [3, 0, 0]])
    dense = torch.zeros(2, 60)
    dense[0, 3], dense[0, 7], dense[1, 5] = 1, -2, 3
    for atoms in both(ATOMS):
        assert torch.allclose(atoms.combine(index, values), dense @ ATOMS, atol=1e-6)
        assert torch.allclose(atoms.explained(index, values), dense @ ATOMS @ ATOMS.T, atol=1e-6)
        found = atoms.inner(index[:, :1], index[:, 1:2])
        assert torch.allclose(found[0, 0, 0], ATOMS[3] @ ATOMS[7], atol=1e-6)


def test_copies_are_represented_by_the_first_of_them():
    atoms = torch.cat([ATOMS, ATOMS[[3, 5]], -ATOMS[[5, 59]], normalize(7 * ATOMS[[3]].double(), dim=1).float()])
    prepared = PreparedAtoms.of(atoms)
    assert prepared.representative.tolist() == [*range(60), 3, 5, 5, 59, 3]
    assert prepared.copies.tolist() == [60, 61, 62, 63, 64]
    assert prepared.distinct.tolist() == list(range(60))
    assert PreparedAtoms.of(atoms.flip(0)).representative.tolist()[:5] == [0, 1, 2, 2, 0]


def test_close_atoms_are_no_copies():
    moved = normalize(ATOMS + 1e-3 * torch.randn(60, 20, generator=torch.Generator().manual_seed(3)), dim=1)
    assert len(PreparedAtoms.of(torch.cat([ATOMS, moved])).copies) == 0


def test_many_copies_of_few_atoms_stay_cheap():
    atoms = random_atoms(3, 16).repeat(4000, 1)
    atoms[6000:] *= -1
    prepared = PreparedAtoms.of(atoms, gram=False)
    assert torch.equal(prepared.representative, torch.arange(3).repeat(4000))


@pytest.mark.parametrize("d_model", [1, 2, 3])
def test_copies_are_found_in_narrow_spaces(d_model):
    atoms = normalize(torch.randn(4, d_model, generator=torch.Generator().manual_seed(0)), dim=1)
    representative = PreparedAtoms.of(torch.cat([atoms, -atoms])).representative
    cosines = (torch.cat([atoms, -atoms]) @ torch.cat([atoms, -atoms]).T).abs()
    assert torch.equal(representative, (cosines > 1 - 1e-6).int().argmax(1))


def test_another_device_holds_the_same():
    moved = PreparedAtoms.of(ATOMS).to("meta")
    assert moved.device.type == "meta"
    assert moved.gram is not None
    assert (moved.n_atoms, moved.d_model) == (60, 20)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (torch.full((1, 20), torch.nan), "NaN"),
        (torch.full((1, 20), torch.inf), "NaN"),
        (torch.zeros(1, 20), "norm 0;"),
        (2 * ATOMS[:1], "norm 2;"),
    ],
)
def test_atoms_that_are_no_directions_are_refused(broken, message):
    with pytest.raises(PaceError, match=message):
        PreparedAtoms.of(torch.cat([ATOMS, broken]))


def test_no_atoms_are_refused():
    with pytest.raises(PaceError, match="at least one"):
        PreparedAtoms.of(torch.zeros(0, 20))
