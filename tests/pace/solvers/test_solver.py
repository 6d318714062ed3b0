"""What all solvers share."""

import json

import pytest
import torch

from contrans_lens.errors import PaceError
from contrans_lens.pace.solvers import (
    OMP,
    ElasticNet,
    OrthogonalProjection,
    PreparedAtoms,
    RidgeProjection,
    Solver,
    VectorAddition,
    solver_from_dict,
)
from contrans_lens.pace.solvers import activations as activations_module
from tests.pace.solvers.cases import both, mixed_activations, random_atoms

SOLVERS = [
    OMP(6),
    OMP(9, tolerance=0.55),
    ElasticNet(),
    ElasticNet(0.2, 0.5),
    ElasticNet(0.1, 0),
    OrthogonalProjection(),
    RidgeProjection(2),
    VectorAddition(-0.3),
]
ATOMS = random_atoms(80, 32, mean=0.4)
ACTIVATIONS = mixed_activations(ATOMS, 24)
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=str)


@each_solver
def test_descriptions_survive_json(solver):
    assert isinstance(solver, Solver)
    assert solver_from_dict(json.loads(json.dumps(solver.to_dict()))) == solver


@each_solver
def test_batched_equals_one_by_one_in_any_order(solver, monkeypatch):
    atoms = PreparedAtoms.of(ATOMS)
    batched = solver.decompose(atoms, ACTIVATIONS).dense()
    looped = torch.cat([solver.decompose(atoms, row[None]).dense() for row in ACTIVATIONS])
    scale = ACTIVATIONS.norm(dim=1, keepdim=True)
    assert ((batched - looped) / scale).abs().max() < 1e-6
    assert ((batched.flip(0) - solver.decompose(atoms, ACTIVATIONS.flip(0)).dense()) / scale.flip(0)).abs().max() < 1e-6
    monkeypatch.setattr(activations_module, "BATCH", 7)
    assert ((batched - solver.decompose(atoms, ACTIVATIONS).dense()) / scale).abs().max() < 1e-6


@each_solver
def test_the_gram_matrix_changes_nothing(solver):
    with_gram, without = (solver.decompose(atoms, ACTIVATIONS).dense() for atoms in both(ATOMS))
    assert ((with_gram - without) / ACTIVATIONS.norm(dim=1, keepdim=True)).abs().max() < 1e-6


@each_solver
def test_scaling_an_activation_scales_its_coefficients(solver):
    atoms = PreparedAtoms.of(ATOMS)
    codes = solver.decompose(atoms, ACTIVATIONS)
    for factor in (1e-30, 1e12):
        scaled = solver.decompose(atoms, ACTIVATIONS.double() * factor)
        assert torch.allclose(scaled.dense() / factor, codes.dense(), rtol=1e-4, atol=1e-4)


@each_solver
def test_duplicating_and_flagging_an_atom_leaves_the_edit_unchanged(solver):
    doubled = torch.cat([ATOMS, ATOMS[[3]], -ATOMS[[11]]])
    flags = torch.zeros(82, dtype=torch.bool)
    flags[[3, 11, 40, 80, 81]] = True
    plain = solver.decompose(PreparedAtoms.of(ATOMS), ACTIVATIONS).only(flags[:80]).combine(ATOMS)
    for atoms in both(doubled):
        codes = solver.decompose(atoms, ACTIVATIONS)
        edit = codes.only(flags).combine(doubled)
        assert ((edit - plain) / ACTIVATIONS.norm(dim=1, keepdim=True)).abs().max() < 2e-6
        assert not codes.dense()[:, 80:].any()


@each_solver
def test_a_zero_activation_has_no_coefficients(solver):
    with_zero = torch.cat([ACTIVATIONS[:2], torch.zeros(1, 32), ACTIVATIONS[2:4]])
    atoms = PreparedAtoms.of(ATOMS)
    codes = solver.decompose(atoms, with_zero)
    assert codes.row(2) == []
    assert torch.isfinite(codes.values).all()
    others = codes.dense()[[0, 1, 3, 4]]
    assert torch.allclose(others, solver.decompose(atoms, ACTIVATIONS[:4]).dense(), atol=1e-4)
    assert solver.decompose(atoms, torch.zeros(2, 32)).counts().tolist() == [0, 0]


@each_solver
def test_no_rows_give_no_codes(solver):
    codes = solver.decompose(PreparedAtoms.of(ATOMS), torch.zeros(0, 32))
    assert codes.dense().shape == (0, 80)
    assert codes.combine(ATOMS).shape == (0, 32)


@each_solver
def test_half_precision_activations_are_decomposed_as_what_they_hold(solver):
    atoms, halves = PreparedAtoms.of(ATOMS), ACTIVATIONS.bfloat16()
    codes = solver.decompose(atoms, halves)
    assert codes.values.dtype == torch.float32
    assert torch.equal(codes.dense(), solver.decompose(atoms, halves.float()).dense())


@each_solver
def test_gradients_are_not_tracked(solver):
    codes = solver.decompose(PreparedAtoms.of(ATOMS), ACTIVATIONS.clone().requires_grad_())
    assert not codes.values.requires_grad


@each_solver
def test_activations_that_do_not_fit_are_refused(solver):
    atoms = PreparedAtoms.of(ATOMS)
    with pytest.raises(PaceError, match=r"\[row, 32\]"):
        solver.decompose(atoms, ACTIVATIONS[:, :31])
    with pytest.raises(PaceError, match=r"\[row, 32\]"):
        solver.decompose(atoms, torch.zeros(0, 31))
    for broken in (torch.nan, torch.inf):
        activations = ACTIVATIONS.clone()
        activations[3, 5] = broken
        with pytest.raises(PaceError, match="NaN or infinity"):
            solver.decompose(atoms, activations)


@each_solver
def test_dependent_atoms_give_finite_codes(solver):
    plane = torch.nn.functional.normalize(torch.randn(12, 2, generator=torch.Generator().manual_seed(5)), dim=1)
    flat = torch.cat([plane, torch.zeros(12, 6)], 1)
    activations = torch.randn(5, 8, generator=torch.Generator().manual_seed(6))
    for atoms in both(flat):
        codes = solver.decompose(atoms, activations)
        assert torch.isfinite(codes.values).all()
        assert codes.values.abs().max() < 1e3


def test_scopes():
    assert [solver.scope for solver in SOLVERS] == ["dictionary"] * 5 + ["undesirable"] * 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: OMP(0),
        lambda: OMP(2.5),
        lambda: OMP(True),
        lambda: OMP(3, -0.1),
        lambda: OMP(3, 1.1),
        lambda: ElasticNet(-0.1),
        lambda: ElasticNet(float("nan")),
        lambda: ElasticNet(0.1, 1.1),
        lambda: ElasticNet(0.1, -0.1),
        lambda: RidgeProjection(-1),
        lambda: VectorAddition(float("inf")),
        lambda: solver_from_dict({"kind": "lasso"}),
        lambda: solver_from_dict({}),
        lambda: solver_from_dict({"kind": "omp", "atoms": 3}),
        lambda: solver_from_dict({"kind": "ridge_projection"}),
    ],
)
def test_options_that_no_solver_has_are_refused(make):
    # The checks at run time of the tests may see a wrong type before the package does.
    with pytest.raises((PaceError, TypeError)):
        make()
