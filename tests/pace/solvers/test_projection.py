import numpy as np
import pytest
import torch

from contrans_lens.pace.solvers import ElasticNet, OrthogonalProjection, PreparedAtoms, RidgeProjection, VectorAddition
from tests.pace.solvers.cases import OBLIQUE, OBLIQUE_ACTIVATION, both, mixed_activations, random_atoms

ATOMS = random_atoms(10, 24, mean=0.5)
ACTIVATIONS = mixed_activations(ATOMS, 12, used=4, noise=1.0)


def test_oblique_atoms():
    codes = OrthogonalProjection().decompose(PreparedAtoms.of(OBLIQUE), OBLIQUE_ACTIVATION)
    assert torch.allclose(codes.dense(), torch.tensor([[2.0, 3.0]]), atol=1e-6)
    alone = OrthogonalProjection().decompose(PreparedAtoms.of(OBLIQUE[:1]), OBLIQUE_ACTIVATION)
    left = OBLIQUE_ACTIVATION - alone.combine(OBLIQUE[:1])
    assert torch.allclose(left, torch.tensor([[0.0, 2.598076]]), atol=1e-6)


@pytest.mark.parametrize("weight", [0, 1, 9])
def test_a_single_atom_keeps_its_share(weight):
    atom = random_atoms(1, 24)
    codes = RidgeProjection(weight).decompose(PreparedAtoms.of(atom), ACTIVATIONS)
    projection = ACTIVATIONS @ atom.T
    assert torch.allclose(codes.dense(), projection / (1 + weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 5])
@pytest.mark.parametrize("n", [10, 40])
def test_ridge_is_the_solution_of_the_normal_equations(weight, n):
    atoms = random_atoms(n, 24, mean=0.5)
    dictionary = atoms.double().numpy().T
    stacked = np.vstack([dictionary, weight**0.5 * np.eye(n)])
    targets = np.vstack([ACTIVATIONS.double().numpy().T, np.zeros((n, 12))])
    expected = np.linalg.lstsq(stacked, targets, rcond=1e-10)[0].T
    found = RidgeProjection(weight).decompose(PreparedAtoms.of(atoms), ACTIVATIONS).dense().numpy()
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_nothing_in_the_span_is_left_by_orthogonal_projection():
    dependent = torch.cat([ATOMS, torch.nn.functional.normalize(ATOMS[:3] + ATOMS[3:6], dim=1)])
    for prepared in both(dependent):
        codes = OrthogonalProjection().decompose(prepared, ACTIVATIONS)
        left = ACTIVATIONS.double() - codes.values.double() @ dependent[codes.atoms[0]].double()
        assert ((left @ dependent.double().T) / ACTIVATIONS.norm(dim=1, keepdim=True)).abs().max() < 1e-6
        assert codes.values.abs().max() < 100 * ACTIVATIONS.norm()


def test_the_elastic_net_on_the_undesirable_atoms_tends_to_orthogonal_projection():
    atoms = PreparedAtoms.of(ATOMS)
    limit = OrthogonalProjection().decompose(atoms, ACTIVATIONS).combine(ATOMS)
    scale = ACTIVATIONS.norm(dim=1, keepdim=True)
    gaps = [
        float(((ElasticNet(alpha).decompose(atoms, ACTIVATIONS).combine(ATOMS) - limit) / scale).abs().max())
        for alpha in (1e-1, 1e-2, 1e-4, 1e-6, 0)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 1e-2
    assert gaps[-2] < 1e-5


def test_vector_addition_takes_the_same_from_every_activation():
    codes = VectorAddition(0.25).decompose(PreparedAtoms.of(ATOMS), ACTIVATIONS)
    expected = 0.25 * ACTIVATIONS.norm(dim=1, keepdim=True).expand(-1, 10)
    assert torch.allclose(codes.dense(), expected, rtol=1e-6)
    assert VectorAddition(0).decompose(PreparedAtoms.of(ATOMS), ACTIVATIONS).counts().sum() == 0
