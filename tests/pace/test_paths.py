import pytest
import torch
from sklearn.linear_model import OrthogonalMatchingPursuit

from contrans_lens.errors import HookPointError, PaceError
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.paths import ALPHAS, COUNTS, sparsity_path
from tests.pace.dictionaries import HOOK_POINTS, random_dictionary
from tests.pace.test_decomposition import activations, elastic_net

HOOK = HOOK_POINTS[0]


def points(path, solver):
    return [each for each in path.points if each.solver == solver]


def test_counts_and_errors_equal_other_solvers():
    dictionary, states = random_dictionary(30, 16), activations(5, 16)
    path = sparsity_path(dictionary, states, HOOK, alphas=[0.02, 0.2], counts=[3], tau=0.9)
    atoms = dictionary.at(HOOK).double()
    for point in points(path, "elastic net"):
        codes = torch.stack([elastic_net(atoms, state, point.parameter, 0.9) for state in states])
        errors = (states.double() - codes @ atoms).norm(dim=1) / states.norm(dim=1)
        assert point.count.value == pytest.approx(float((codes.abs() > 1e-7).sum(1).double().mean()))
        assert point.error.value == pytest.approx(float(errors.mean()), abs=1e-5)
    errors = []
    for state in states.double():
        solver = OrthogonalMatchingPursuit(n_nonzero_coefs=3, fit_intercept=False)
        solver.fit(atoms.numpy().T, state.numpy())
        errors.append(float((state - torch.from_numpy(solver.coef_) @ atoms).norm() / state.norm()))
    [point] = points(path, "OMP")
    assert (point.count.value, point.parameter) == (3.0, 3.0)
    assert point.error.value == pytest.approx(sum(errors) / 5, abs=1e-5)


def test_more_concepts_explain_more():
    path = sparsity_path(random_dictionary(60, 48), activations(8, 48), HOOK)
    for solver, n in (("elastic net", len(ALPHAS)), ("OMP", len(COUNTS))):
        found = points(path, solver)
        assert len(found) == n
        errors, counts = [each.error.value for each in found], [each.count.value for each in found]
        assert errors == sorted(errors, reverse=True)
        assert counts == sorted(counts)
        assert errors[0] > errors[-1] + 0.1
        for each in found:
            assert each.error.low <= each.error.value <= each.error.high
            assert 0 <= each.error.value <= 1 + 1e-6


def test_equal_activations_leave_no_doubt_and_a_sum_of_two_atoms_takes_two():
    atoms = torch.eye(6)
    dictionary = ConceptDictionary(tuple("abcdef"), ("",) * 6, (HOOK,), {HOOK: atoms})
    states = (3 * atoms[0] - 4 * atoms[2]).expand(4, -1).contiguous()
    path = sparsity_path(dictionary, states, HOOK, alphas=[], counts=[1, 2, 4])
    first, second, third = path.points
    assert (first.error.low, first.error.high) == (first.error.value,) * 2
    assert first.error.value == pytest.approx(3 / 5)
    assert second.error.value == pytest.approx(0, abs=1e-6)
    assert [each.count.value for each in (first, second, third)] == [1, 2, 2]


def test_counts_beyond_the_dictionary_are_left_out_and_order_does_not_matter():
    dictionary, states = random_dictionary(12, 8), activations()
    path = sparsity_path(dictionary, states, HOOK, alphas=[0.05, 0.3], counts=[16, 2, 1])
    assert path == sparsity_path(dictionary, states, HOOK, alphas=[0.3, 0.05], counts=[1, 2])
    assert [each.parameter for each in path.points] == [0.3, 0.05, 1.0, 2.0]


def test_the_table_has_a_line_a_point_and_a_zero_activation_is_no_trouble():
    states = torch.cat([activations(3), torch.zeros(1, 8)])
    path = sparsity_path(random_dictionary(), states, HOOK, alphas=[0.1], counts=[2])
    table = path.table()
    assert list(table.solver) == ["elastic net", "OMP"]
    for line, point in zip(table.itertuples(), path.points, strict=True):
        assert (line.count, line.count_low, line.count_high) == (point.count.value, point.count.low, point.count.high)
        assert (line.error, line.error_low, line.error_high) == (point.error.value, point.error.low, point.error.high)
    assert points(path, "OMP")[0].count.value == pytest.approx(1.5)
    assert path.n_rows == 4


@pytest.mark.parametrize(
    ("n", "point", "options", "error", "words"),
    [
        (1, HOOK, {}, PaceError, "1 activations"),
        (4, HOOK, {"alphas": [], "counts": [99]}, PaceError, "nothing to vary"),
        (4, "blocks.7.hook_resid_post", {}, HookPointError, r"blocks\.7"),
        (4, HOOK, {"alphas": [-1.0]}, PaceError, "alpha"),
    ],
)
def test_what_makes_no_path_is_refused(n, point, options, error, words):
    with pytest.raises(error, match=words):
        sparsity_path(random_dictionary(), activations(n), point, **options)
