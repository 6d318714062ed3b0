import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrans_lens.errors import HookPointError, PaceError
from contrans_lens.pace import retrieval
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.retrieval import mean_atom, nearest, nearness, similarity
from tests.pace.dictionaries import HOOK_POINTS, random_dictionary

HOOK = HOOK_POINTS[0]
DICTIONARY = random_dictionary(50, 8)


def activations(rows, seed=3):
    return 30 * torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))


def brute(query, k, signed):
    atoms = DICTIONARY.at(HOOK).double()
    cosines = (query.double() / query.double().norm() * atoms).sum(1)
    order = sorted(range(50), key=lambda i: -float(cosines[i] if signed else cosines[i].abs()))[:k]
    return [DICTIONARY.names[i] for i in order], [float(cosines[i]) for i in order]


@given(st.integers(0, 1000), st.integers(1, 60), st.booleans(), st.sampled_from([1, 7, 50, 4096]))
def test_the_nearest_are_those_of_a_search_by_hand_whatever_the_blocks(seed, k, signed, block):
    queries = activations(3, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "BLOCK", block)
        found = nearest(DICTIONARY, queries, HOOK, k, signed=signed)
    for query, neighbours in zip(queries, found, strict=True):
        names, cosines = brute(query, k, signed)
        assert list(neighbours.names) == names
        assert list(neighbours.cosines) == pytest.approx(cosines, abs=1e-5)
        assert len(neighbours) == min(k, 50)


def test_atoms_are_read_in_blocks(monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", 16)
    atoms = DICTIONARY.at(HOOK)
    read = list(retrieval.blocks(atoms))
    assert [(begin, len(block)) for begin, block in read] == [(0, 16), (16, 16), (32, 16), (48, 2)]
    assert torch.equal(torch.cat([block for _, block in read]), atoms)


def test_a_concept_is_not_its_own_neighbour():
    own = DICTIONARY.at(HOOK)[7:8]
    assert nearest(DICTIONARY, own, HOOK, 1)[0].names == ("concept 7",)
    assert nearest(DICTIONARY, own, HOOK, 1)[0].cosines[0] == pytest.approx(1, abs=1e-6)
    (neighbours,) = nearest(DICTIONARY, "concept 7", HOOK, 5)
    assert "concept 7" not in neighbours.names
    assert neighbours.names == nearest(DICTIONARY, own, HOOK, 6)[0].names[1:]
    assert len(nearest(DICTIONARY, "concept 7", HOOK, 80)[0]) == 49


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_neither_dtype_nor_length_of_an_activation_matters(dtype, scale):
    exact = torch.tensor([[4.0, -2.0, 1.0, 0.5, 3.0, -1.0, 2.0, 8.0]])
    expected = nearest(DICTIONARY, exact, HOOK)[0]
    found = nearest(DICTIONARY, (exact * scale).to(dtype), HOOK)[0]
    assert found.names == expected.names
    assert found.cosines == pytest.approx(expected.cosines, abs=5e-3)


def test_lengths_that_overflow_float32_still_have_a_direction():
    exact = activations(1)
    for scale in (1e36, 1e-42):
        found = nearest(DICTIONARY, exact.double().mul(scale).float(), HOOK, 3)[0]
        assert found.names == nearest(DICTIONARY, exact, HOOK, 3)[0].names


def test_equal_cosines_come_in_the_order_of_the_dictionary():
    same = ConceptDictionary(("b", "a", "c"), ("",) * 3, (HOOK,), {HOOK: torch.tensor([[1.0, 0.0]]).repeat(3, 1)})
    assert nearest(same, torch.tensor([[2.0, 0.0]]), HOOK, 2)[0].names == ("b", "a")


def test_what_has_no_direction_is_refused():
    queries = activations(3)
    for bad in (0.0, float("nan"), float("inf")):
        broken = queries.clone()
        broken[1] = bad
        with pytest.raises(PaceError, match=r"activations \[1\]"):
            nearest(DICTIONARY, broken, HOOK)
    with pytest.raises(PaceError, match="5 wide"):
        nearest(DICTIONARY, torch.ones(1, 5), HOOK)
    with pytest.raises(PaceError, match="k=0"):
        nearest(DICTIONARY, queries, HOOK, 0)
    with pytest.raises(PaceError, match="concept 4"):
        nearest(DICTIONARY, "concept 444", HOOK)
    with pytest.raises(HookPointError):
        nearest(DICTIONARY, queries, "blocks.9.hook_resid_post")


def test_neighbours_read_as_pairs_and_as_text():
    (neighbours,) = nearest(DICTIONARY, "concept 7", HOOK, 2)
    assert list(neighbours) == list(zip(neighbours.names, neighbours.cosines, strict=True))
    assert str(neighbours).startswith(f"{neighbours.names[0]} (+0.")
    assert neighbours.hook_point == HOOK


def test_similarity_is_symmetric_with_ones_on_the_diagonal():
    cosines = similarity(DICTIONARY, HOOK)
    assert torch.equal(cosines, cosines.T)
    assert torch.equal(cosines.diagonal(), torch.ones(50))
    expected = torch.nn.functional.cosine_similarity(DICTIONARY.at(HOOK)[:, None], DICTIONARY.at(HOOK)[None], dim=2)
    assert torch.allclose(cosines, expected, atol=1e-5)


def test_a_table_of_all_pairs_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(retrieval, "MOST_PAIRWISE", 49)
    with pytest.raises(PaceError, match="subset"):
        similarity(DICTIONARY, HOOK)


def test_nearness_takes_the_centre_away_from_both():
    atoms, queries = DICTIONARY.at(HOOK), activations(4)
    centre = mean_atom(atoms)
    assert torch.allclose(centre, atoms.mean(0), atol=1e-6)
    expected = torch.nn.functional.cosine_similarity((atoms - centre)[:, None], (queries - centre)[None], dim=2)
    assert torch.allclose(nearness(atoms, queries, centre), expected, atol=1e-5)
    assert torch.equal(nearness(atoms, centre[None], centre), torch.zeros(50, 1))
