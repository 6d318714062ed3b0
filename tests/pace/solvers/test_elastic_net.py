import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet as ReferenceElasticNet
from torch.nn.functional import normalize

from contrans_lens.errors import PaceError
from contrans_lens.pace.codes import SparseCodes
from contrans_lens.pace.solvers import ElasticNet, PreparedAtoms, kkt_certificate
from contrans_lens.pace.solvers import elastic_net as elastic_net_module
from tests.pace.solvers.cases import CHAIN, CHAIN_ACTIVATION, both, mixed_activations, random_atoms


def units(activations):
    """Activations at unit length in float64."""
    return activations.double() / activations.double().norm(dim=1, keepdim=True)


def test_one_atom_is_shrunk_by_the_closed_form():
    for atoms in both(torch.tensor([[1.0, 0.0]])):
        codes = ElasticNet().decompose(atoms, torch.tensor([[0.8, 0.6]]))
        assert codes.dense().item() == pytest.approx(0.7506234414, abs=1e-6)
        assert codes.dense().item() == pytest.approx((0.8 - 0.0475) / 1.0025, abs=1e-6)


def test_the_chain_of_three_atoms():
    for atoms in both(CHAIN):
        codes = ElasticNet().decompose(atoms, CHAIN_ACTIVATION)
        assert codes.dense()[0].tolist() == pytest.approx([1.85286783, 0, 2.05236908], abs=1e-6)
        residual = CHAIN_ACTIVATION - codes.combine(CHAIN)
        assert float(CHAIN[1] @ residual[0] / 3) == pytest.approx(-0.0323, abs=5e-5)
        edited = CHAIN_ACTIVATION - codes.only(torch.tensor([True, False, False])).combine(CHAIN)
        assert edited[0].tolist() == pytest.approx([0.14713217, 1, 2], abs=1e-6)


def test_a_penalty_above_every_correlation_leaves_nothing():
    atoms = PreparedAtoms.of(random_atoms(50, 16))
    activations = mixed_activations(atoms.atoms, 6)
    assert ElasticNet(alpha=2).decompose(atoms, activations).atoms.shape == (6, 0)
    largest = float((units(activations).float() @ atoms.atoms.T).abs().max())
    counts = ElasticNet(alpha=largest * 0.999, tau=1).decompose(atoms, activations).counts()
    assert counts.sum() == 1


def test_small_penalties_use_as_many_atoms_as_there_are_dimensions():
    atoms = random_atoms(200, 16, mean=0.4)
    activations = mixed_activations(atoms, 8)
    for alpha in (1e-3, 1e-5, 1e-7):
        codes = ElasticNet(alpha, 1).decompose(PreparedAtoms.of(atoms), activations)
        assert codes.counts().min() >= 14
    assert torch.allclose(codes.combine(atoms), activations, rtol=1e-4, atol=1e-4)


def test_an_activation_beside_all_atoms_has_no_coefficients():
    atoms = torch.eye(6)[:4]
    beside = torch.eye(6)[4:]
    beside[1, 2] = 1e-7
    mixed = torch.cat([beside, atoms[:1]])
    for alpha in (0.05, 1e-6):
        codes = ElasticNet(alpha).decompose(PreparedAtoms.of(atoms), mixed)
        assert codes.counts().tolist() == [0, 0, 1]


@pytest.mark.parametrize("mean", [0.0, 0.36, 0.8])
def test_equals_spams(mean):
    spams = pytest.importorskip("spams")
    atoms = random_atoms(2000, 256, mean=mean)
    unit = units(mixed_activations(atoms, 100))
    dictionary = np.asfortranarray(atoms.double().numpy().T)
    expected = spams.lasso(
        np.asfortranarray(unit.numpy().T), D=dictionary, mode=2, lambda1=0.0475, lambda2=0.0025, numThreads=1
    )
    for prepared in both(atoms):
        found = ElasticNet().decompose(prepared, unit).dense().numpy()
        assert np.abs(found - expected.toarray().T).max() < 1e-6
        assert (found != 0).sum(1).mean() > 20


@pytest.mark.parametrize(("alpha", "tau"), [(0.05, 0.95), (0.1, 1.0), (0.2, 0.3)])
def test_equals_scikit_learn(alpha, tau):
    atoms = random_atoms(2000, 64, mean=0.36)
    unit = units(mixed_activations(atoms, 100))
    dictionary = np.asfortranarray(atoms.double().numpy().T)
    reference = ReferenceElasticNet(alpha=alpha / 64, l1_ratio=tau, fit_intercept=False, tol=1e-13, max_iter=100000)
    found = ElasticNet(alpha, tau).decompose(PreparedAtoms.of(atoms), unit).dense().numpy()
    chosen = range(100) if tau == 0.95 else range(0, 100, 10)
    expected = np.stack([reference.fit(dictionary, unit[row].numpy()).coef_ for row in chosen])
    assert np.abs(found[list(chosen)] - expected).max() < 1e-6


def test_the_ridge_alone_is_exact_with_more_atoms_than_dimensions():
    atoms = random_atoms(50, 16, mean=0.3)
    activations = units(mixed_activations(atoms, 5))
    dictionary = atoms.double()
    expected = torch.linalg.solve(dictionary @ dictionary.T + 0.2 * torch.eye(50), dictionary @ activations.T).T
    found = ElasticNet(0.2, 0).decompose(PreparedAtoms.of(atoms), activations)
    assert torch.allclose(found.dense().double(), expected, atol=1e-6)
    assert kkt_certificate(PreparedAtoms.of(atoms), activations, found, 0, 0.2).holds(1e-6).all()


def test_scale_identity():
    # On z / ||z|| with (l1, l2) and rescaled, or on z with (l1 ||z||, l2): scikit-learn solves the second.
    atoms = random_atoms(120, 40, mean=0.4)
    activations = mixed_activations(atoms, 8)
    found = ElasticNet().decompose(PreparedAtoms.of(atoms), activations).dense().double().numpy()
    for row, activation in zip(found, activations.double().numpy(), strict=True):
        l1, l2 = 0.0475 * np.linalg.norm(activation), 0.0025
        reference = ReferenceElasticNet(
            alpha=(l1 + l2) / 40, l1_ratio=l1 / (l1 + l2), fit_intercept=False, tol=1e-13, max_iter=100000
        )
        expected = reference.fit(atoms.double().numpy().T, activation).coef_
        assert np.abs(row - expected).max() < 1e-6 * np.linalg.norm(activation)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    d=st.integers(1, 16),
    mean=st.sampled_from([0.0, 0.5, 0.9, 0.999]),
    rank=st.integers(1, 16),
    alpha=st.sampled_from([1e-3, 0.01, 0.05, 0.3]),
    tau=st.sampled_from([0.05, 0.5, 0.95, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_the_certificate_holds_on_correlated_and_dependent_atoms(n, d, mean, rank, alpha, tau, seed):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(min(rank, d), d, generator=generator)
    flat = random_atoms(n, min(rank, d), seed, mean) @ basis
    atoms = normalize(torch.cat([flat, normalize(flat[:3] + flat[-1:], dim=1)]).double() + 1e-12, dim=1).float()
    activations = torch.randn(6, d, generator=generator)
    solver = ElasticNet(alpha, tau)
    for prepared in both(atoms):
        codes = solver.decompose(prepared, activations)
        certificate = kkt_certificate(prepared, activations, codes, solver.l1, solver.l2)
        assert certificate.on_support.max() < 3e-6
        assert certificate.off_support.max() < 3e-6
        # A breach in the products is divided by l1 where the residual is scaled into the dual's feasible set.
        assert certificate.gap.max() < 1e-6 / solver.l1


def test_rows_that_fail_their_certificate_are_solved_again_in_float64(monkeypatch):
    atoms = random_atoms(60, 20, mean=0.4)
    doubled = PreparedAtoms.of(torch.cat([atoms[:5], -atoms[:5], atoms[5:]]))
    activations = mixed_activations(atoms, 5)
    expected = ElasticNet().decompose(doubled, activations).dense()
    honest = elastic_net_module.solve_active_set

    def wrong_in_float32(atoms, targets, *arguments):
        index, values = honest(atoms, targets, *arguments)
        if atoms.atoms.dtype == torch.float32:
            values[1] *= 1.01
            values[3] = torch.nan
        return index, values

    monkeypatch.setattr(elastic_net_module, "solve_active_set", wrong_in_float32)
    assert torch.allclose(ElasticNet().decompose(doubled, activations).dense(), expected, atol=1e-4)


def test_no_answer_is_given_where_none_is_certified(monkeypatch):
    atoms = PreparedAtoms.of(random_atoms(60, 20, mean=0.4))
    activations = mixed_activations(atoms.atoms, 5)

    def wrong(atoms, targets, *arguments):
        shape = (len(targets), 1)
        return torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.float64)

    monkeypatch.setattr(elastic_net_module, "solve_active_set", wrong)
    with pytest.raises(PaceError, match="no certified solution"):
        ElasticNet().decompose(atoms, activations)


def test_the_certificate_sees_what_is_wrong():
    atoms = PreparedAtoms.of(random_atoms(60, 20, mean=0.4))
    activations = mixed_activations(atoms.atoms, 4)
    codes = ElasticNet().decompose(atoms, activations)
    good = kkt_certificate(atoms, activations, codes, 0.0475, 0.0025)
    assert good.holds(2e-6).all()
    scale = activations.norm(dim=1, keepdim=True)
    moved = codes.values.clone()
    moved[0, 0] += 1e-3 * scale[0, 0]
    off = kkt_certificate(atoms, activations, SparseCodes(codes.atoms, moved, 60), 0.0475, 0.0025)
    assert off.holds(2e-6).tolist() == [False, True, True, True]
    # Moving one coefficient by h from the minimum adds (1 + l2) h^2 / 2; the gap is an upper bound of that.
    assert off.gap[0] >= 1.0025e-6 / 2 - 1e-7
    fewer = codes.only(torch.arange(60) != codes.row(1)[0][0])
    missing = kkt_certificate(atoms, activations, fewer, 0.0475, 0.0025)
    assert missing.off_support[1] > 1e-3
    with pytest.raises(PaceError, match="do not belong"):
        kkt_certificate(atoms, activations[:2], codes, 0.0475, 0.0025)


def test_the_gap_bounds_the_objective():
    atoms = PreparedAtoms.of(random_atoms(60, 20, mean=0.4))
    activations = units(mixed_activations(atoms.atoms, 4))
    best = ElasticNet().decompose(atoms, activations)
    worse = ElasticNet(0.08).decompose(atoms, activations)

    def objective(codes):
        c = codes.dense().double()
        fit = (activations - c @ atoms.atoms.double()).square().sum(1) / 2
        return fit + 0.0475 * c.abs().sum(1) + 0.00125 * c.square().sum(1)

    gap = kkt_certificate(atoms, activations, worse, 0.0475, 0.0025).gap
    above = objective(worse) - objective(best)
    assert (above > 1e-6).all()
    assert (gap >= above - 1e-7).all()


def test_a_large_dictionary_without_its_gram_matrix():
    atoms = PreparedAtoms.of(random_atoms(40_000, 64, mean=0.36), gram=False)
    activations = mixed_activations(atoms.atoms[:500], 16)
    codes = ElasticNet().decompose(atoms, activations)
    assert kkt_certificate(atoms, activations, codes, 0.0475, 0.0025).holds(2e-6).all()
