import itertools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet as CoordinateDescent

from contrans_lens.errors import FingerprintMismatchError, HookPointError, PaceError, TextError
from contrans_lens.models import fingerprint
from contrans_lens.pace.decomposition import decompose, decompose_texts
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.removal import prepare
from contrans_lens.pace.solvers import OMP, ElasticNet, OrthogonalProjection, PreparedAtoms
from contrans_lens.residuals import capture
from tests.pace.dictionaries import HOOK_POINTS, made_up_fingerprint, random_dictionary, unit_rows
from tests.tiny_models import D_MODEL, KINDS, open_tiny

HOOK = HOOK_POINTS[0]
TEXTS = ["The day was long and warm.", "He said no.", "Nobody asked the girl why"]


def activations(n=6, width=8, seed=50):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def elastic_net(atoms, row, alpha, tau):
    """Coefficients by scikit-learn, from the problem as the paper writes it."""
    norm = row.double().norm()
    solver = CoordinateDescent(alpha=alpha / len(row), l1_ratio=tau, fit_intercept=False, tol=1e-14, max_iter=1_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        solver.fit(atoms.double().numpy().T, (row.double() / norm).numpy())
    return torch.from_numpy(solver.coef_) * norm


def test_coefficients_and_what_is_left_equal_another_solver():
    dictionary, states = random_dictionary(30, 8), activations()
    found = decompose(dictionary, states, HOOK, solver=ElasticNet(0.02, 0.9))
    for row, state in enumerate(states):
        expected = elastic_net(dictionary.at(HOOK), state, 0.02, 0.9)
        torch.testing.assert_close(found.codes.dense()[row].double(), expected, atol=1e-5, rtol=0)
        left = state.double() - expected @ dictionary.at(HOOK).double()
        assert float(found.residuals[row]) == pytest.approx(float(left.norm()), abs=1e-5)
        assert float(found.norms[row]) == pytest.approx(float(state.norm()))
        share = 1 - float(left.norm() / state.norm()) ** 2
        assert float(found.explained[row]) == pytest.approx(share, abs=1e-5)


def test_the_papers_elastic_net_is_what_one_gets_without_asking():
    dictionary, states = random_dictionary(30, 8), activations()
    found = decompose(dictionary, states, HOOK)
    expected = torch.stack([elastic_net(dictionary.at(HOOK), state, 0.05, 0.95) for state in states])
    torch.testing.assert_close(found.codes.dense().double(), expected, atol=1e-5, rtol=0)
    assert found.solver == {"kind": "elastic_net", "alpha": 0.05, "tau": 0.95}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 200))
def test_two_atoms_of_a_greedy_decomposition_are_found_one_by_one_among_all(seed):
    dictionary, states = random_dictionary(10, 8, seed=seed), activations(2, seed=seed + 5000)
    atoms = dictionary.at(HOOK).double()
    found = decompose(dictionary, states, HOOK, solver=OMP(2))
    for row, state in enumerate(states.double()):
        first = int((atoms @ state).abs().argmax())
        rest = state - (atoms[first] @ state) * atoms[first]
        second = int((atoms @ rest).abs().argmax())
        values = torch.linalg.lstsq(atoms[[first, second]].T, state[:, None]).solution[:, 0]
        expected = {dictionary.names[first]: float(values[0]), dictionary.names[second]: float(values[1])}
        assert dict(found.row(row)) == pytest.approx(expected, abs=1e-5)
        sizes = [abs(value) for _, value in found.row(row)]
        assert sizes == sorted(sizes, reverse=True)
        # No pair of atoms explains more than the best of all pairs.
        best = min(
            float((state - torch.linalg.lstsq(p.T, state[:, None]).solution[:, 0] @ p).norm())
            for p in (atoms[list(pair)] for pair in itertools.combinations(range(10), 2))
        )
        assert float(found.residuals[row]) >= best - 1e-5


def test_some_atoms_alone_leave_the_other_coefficients_out_and_change_nothing_else():
    dictionary, states = random_dictionary(30, 8), activations()
    whole = decompose(dictionary, states, HOOK, solver=OMP(5))
    chosen = torch.arange(30) < 12
    some = decompose(dictionary, states, HOOK, solver=OMP(5), only=chosen)
    torch.testing.assert_close(some.codes.dense(), whole.codes.dense() * chosen)
    assert torch.equal(some.residuals, whole.residuals)
    assert torch.equal(some.explained, whole.explained)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_copy_stands_for_its_atom_where_it_is_asked_for_alone(sign):
    rows = unit_rows(4, 8)
    dictionary = ConceptDictionary(
        ("a", "b", "c", "d", "copy of b"), ("",) * 5, (HOOK,), {HOOK: torch.cat([rows, sign * rows[1:2]])}
    )
    flags = torch.tensor([False, False, True, False, True])
    assert PreparedAtoms.of(dictionary.at(HOOK)).with_copies(flags).tolist() == [False, True, True, False, True]
    assert flags.tolist() == [False, False, True, False, True]
    found = decompose(dictionary, rows[:3] * 2, HOOK, solver=OMP(1), only=flags)
    assert [found.row(row) for row in range(3)] == [[], [("b", pytest.approx(2.0))], [("c", pytest.approx(2.0))]]


def test_no_activation_and_a_zero_one_give_no_concepts():
    dictionary = random_dictionary()
    nothing = decompose(dictionary, torch.zeros(0, 8), HOOK)
    assert nothing.mean_shares() == []
    assert len(nothing.table()) == 0
    zero = decompose(dictionary, torch.zeros(2, 8), HOOK)
    assert zero.row(0) == []
    assert zero.mean_shares() == []
    assert zero.explained.tolist() == [0.0, 0.0]
    assert "no concept" in str(zero)


def test_tables_and_means_are_of_the_same_coefficients():
    dictionary, states = random_dictionary(30, 8), activations()
    found = decompose(dictionary, states, HOOK, solver=OMP(5), texts=[f"text {row}" for row in range(6)])
    table = found.table()
    dense = found.codes.dense()
    for line in table.itertuples():
        value = float(dense[line.row, dictionary.index(line.concept)])
        assert (line.coefficient, line.text) == (pytest.approx(value), f"text {line.row}")
        assert line.share == pytest.approx(value / float(states[line.row].norm()), rel=1e-5)
    assert len(table) == int((dense != 0).sum())
    assert len(found.table(2)) == 12
    shares = found.mean_shares()
    for name, share in shares:
        own = table[table.concept == name]
        assert share == pytest.approx(own.share.sum() / 6, rel=1e-4)
    sizes = [abs(share) for _, share in shares]
    assert sizes == sorted(sizes, reverse=True)
    assert found.row(0, 2) == found.row(0)[:2]
    assert "text 3" in str(found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_activations_of_any_dtype_are_decomposed(dtype):
    dictionary, states = random_dictionary(), activations().to(dtype)
    found = decompose(dictionary, states, HOOK, solver=OMP(3))
    expected = decompose(dictionary, states.float(), HOOK, solver=OMP(3))
    torch.testing.assert_close(found.codes.dense(), expected.codes.dense(), atol=1e-5, rtol=0)


def test_atoms_prepared_before_give_the_same():
    dictionary, states = random_dictionary(), activations()
    ready = prepare(dictionary)[HOOK]
    one, other = (decompose(dictionary, states, HOOK, prepared=each).codes.dense() for each in (ready, None))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"activations": torch.zeros(2, 5)}, PaceError, r"\[row, 8\]"),
        ({"activations": torch.full((2, 8), float("nan"))}, PaceError, "NaN"),
        ({"hook_point": "blocks.7.hook_resid_post"}, HookPointError, r"blocks\.7"),
        ({"solver": OrthogonalProjection()}, PaceError, "undesirable atoms alone"),
        ({"texts": ["one"]}, PaceError, "1 texts"),
        ({"prepared": PreparedAtoms.of(unit_rows(5, 8))}, PaceError, "5 atoms were prepared"),
    ],
)
def test_what_cannot_be_decomposed_is_refused(options, error, words):
    given_options = {"activations": activations(), "hook_point": HOOK, **options}
    with pytest.raises(error, match=words):
        decompose(random_dictionary(), **given_options)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_decomposed_at_their_last_token(kind):
    model = open_tiny("gpt2", kind)
    dictionary = random_dictionary(20, D_MODEL, fingerprint=fingerprint(model))
    found = decompose_texts(model, TEXTS, dictionary, solver=OMP(3))
    states = capture(model, TEXTS, list(HOOK_POINTS)).tensor()
    assert tuple(found) == HOOK_POINTS
    for column, point in enumerate(HOOK_POINTS):
        expected = decompose(dictionary, states[:, column], point, solver=OMP(3))
        torch.testing.assert_close(found[point].codes.dense(), expected.codes.dense())
        assert found[point].texts == tuple(TEXTS)
    one = decompose_texts(model, TEXTS, dictionary, HOOK_POINTS[1:], solver=OMP(3), prepared=prepare(dictionary))
    assert tuple(one) == HOOK_POINTS[1:]


def test_texts_of_another_model_or_place_are_refused():
    model = open_tiny("gpt2", KINDS[0])
    with pytest.raises(FingerprintMismatchError):
        decompose_texts(model, TEXTS, random_dictionary(20, D_MODEL, fingerprint=made_up_fingerprint(D_MODEL)))
    mine = random_dictionary(20, D_MODEL, fingerprint=fingerprint(model))
    with pytest.raises(HookPointError, match=r"blocks\.0"):
        decompose_texts(model, TEXTS, mine, ["blocks.0.hook_resid_post"])
    with pytest.raises(TextError):
        decompose_texts(model, [], mine)
