import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from contrans_lens.pace.solvers import OMP, PreparedAtoms
from tests.pace.solvers.cases import (
    CHAIN,
    CHAIN_ACTIVATION,
    OBLIQUE,
    OBLIQUE_ACTIVATION,
    both,
    mixed_activations,
    random_atoms,
)


def test_oblique_is_not_orthogonal():
    for atoms in both(OBLIQUE):
        codes = OMP(2).decompose(atoms, OBLIQUE_ACTIVATION)
        assert torch.allclose(codes.dense(), torch.tensor([[2.0, 3.0]]), atol=1e-6)
        left = OBLIQUE_ACTIVATION - codes.only(torch.tensor([True, False])).combine(OBLIQUE)
        assert torch.allclose(left, torch.tensor([[1.5, 2.598076]]), atol=1e-6)


def test_the_chain_of_three_atoms():
    for atoms in both(CHAIN):
        codes = OMP(2).decompose(atoms, CHAIN_ACTIVATION)
        assert codes.atoms.tolist() == [[2, 0]]
        # Least squares on atoms 2 and 0, which are orthogonal: their own correlations 2.2 and 2.
        assert codes.values[0].tolist() == pytest.approx([2.2, 2.0], abs=1e-6)
        unit = OMP(2).decompose(atoms, CHAIN_ACTIVATION / 3)
        assert unit.values[0].tolist() == pytest.approx([0.7333333, 0.6666667], abs=1e-6)
        assert float((CHAIN_ACTIVATION / 3 - unit.combine(CHAIN)).norm()) == pytest.approx(0.1333333, abs=1e-6)


@pytest.mark.parametrize("mean", [0.0, 0.36])
def test_equals_scikit_learn(mean):
    atoms = random_atoms(2000, 128, mean=mean)
    activations = mixed_activations(atoms, 100)
    unit = (activations.double() / activations.double().norm(dim=1, keepdim=True)).numpy()
    expected = orthogonal_mp(atoms.double().numpy().T, unit.T, n_nonzero_coefs=20, precompute=True).T
    for prepared in both(atoms):
        found = OMP(20).decompose(prepared, torch.from_numpy(unit)).dense().numpy()
        assert np.abs(found - expected).max() < 1e-6
        assert ((found != 0).sum(1) == 20).all()


def test_equals_spams_where_both_rules_choose_the_same_atoms():
    # spams takes the atom that lowers the residual most once it is orthogonalised, which is another rule; on
    # sparse sums of nearly orthogonal atoms both find the atoms of the sum.
    spams = pytest.importorskip("spams")
    atoms = random_atoms(2000, 512)
    activations = mixed_activations(atoms, 100, used=8, noise=0.1)
    unit = (activations.double() / activations.double().norm(dim=1, keepdim=True)).numpy()
    expected = spams.omp(
        np.asfortranarray(unit.T), np.asfortranarray(atoms.double().numpy().T), L=8, eps=0.0, numThreads=1
    )
    found = OMP(8).decompose(PreparedAtoms.of(atoms), torch.from_numpy(unit)).dense().numpy()
    assert np.abs(found - expected.toarray().T).max() < 1e-6


def test_planted_atoms_are_recovered():
    atoms = random_atoms(4000, 1024)
    generator = torch.Generator().manual_seed(7)
    planted = torch.stack([torch.randperm(4000, generator=generator)[:12] for _ in range(40)])
    signal = torch.einsum("rk,rkd->rd", torch.rand(40, 12, generator=generator) + 0.5, atoms[planted])
    noise = torch.nn.functional.normalize(torch.randn(40, 1024, generator=generator), dim=1)
    activations = signal + 0.1 * signal.norm(dim=1, keepdim=True) * noise
    for prepared in both(atoms):
        chosen = OMP(12).decompose(prepared, activations).atoms
        assert torch.equal(chosen.sort(1).values, planted.sort(1).values)


def test_tolerance_ends_at_the_first_step_that_reaches_it():
    atoms = random_atoms(200, 64, mean=0.3)
    activations = mixed_activations(atoms, 20)
    norms = activations.norm(dim=1)
    counts = OMP(30, tolerance=0.3).decompose(PreparedAtoms.of(atoms), activations).counts()
    residuals = torch.stack(
        [
            (activations - OMP(k).decompose(PreparedAtoms.of(atoms), activations).combine(atoms)).norm(dim=1)
            for k in range(1, 31)
        ]
    )
    reached = (residuals <= 0.3 * norms).int()
    assert torch.equal(counts, reached.argmax(0) + 1)
    assert len(counts.unique()) > 1
    assert OMP(5, tolerance=1).decompose(PreparedAtoms.of(atoms), activations).counts().tolist() == [0] * 20


def test_residuals_are_orthogonal_to_the_atoms_taken():
    atoms = random_atoms(300, 48, mean=0.5)
    activations = mixed_activations(atoms, 30).double()
    for prepared in both(atoms):
        codes = OMP(10).decompose(prepared, activations)
        residual = activations - codes.values.double()[:, None].bmm(atoms[codes.atoms].double())[:, 0]
        products = torch.einsum("rkd,rd->rk", atoms[codes.atoms].double(), residual)
        assert (products / activations.norm(dim=1, keepdim=True)).abs().max() < 1e-6


def test_it_ends_where_no_atom_adds_anything():
    atoms = random_atoms(40, 64)
    inside = atoms[[4]] * 3
    outside = torch.linalg.svd(atoms).Vh[-1:]
    for prepared in both(atoms):
        codes = OMP(20).decompose(prepared, torch.cat([inside, outside]))
        assert codes.row(0) == [(4, pytest.approx(3.0))]
        assert codes.row(1) == []


def test_no_more_atoms_than_the_space_has_dimensions():
    for prepared in both(random_atoms(30, 4)):
        activations = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
        codes = OMP(20).decompose(prepared, activations)
        assert codes.atoms.shape[1] == 4
        assert torch.allclose(codes.combine(prepared.atoms), activations, atol=1e-5)
