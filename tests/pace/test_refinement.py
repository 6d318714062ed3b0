import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from contrans_lens.concepts import ConceptVectors
from contrans_lens.errors import ConceptError, FingerprintMismatchError, HookPointError, PaceError
from contrans_lens.models import open_model
from contrans_lens.pace.build import build_dictionary
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.partition import ConceptScore, partition
from contrans_lens.pace.refinement import drop_concepts, keep_concepts
from contrans_lens.pace.solvers import OMP, ElasticNet, OrthogonalProjection
from contrans_lens.testbed import model_path
from contrans_lens.testbed.stimuli import STIMULI_TEMPLATE, concept_stimuli
from tests.pace.dictionaries import HOOK_POINTS, made_up_fingerprint, random_dictionary

HOOK = HOOK_POINTS[0]
SOLVERS = [OMP(4), ElasticNet(0.05), ElasticNet(0.0)]


def given_vectors(rows, hook_points=(HOOK,), **fields) -> ConceptVectors:
    return ConceptVectors("courage", torch.as_tensor(rows, dtype=torch.float32), tuple(hook_points), **fields)


def small(atoms, **fields) -> ConceptDictionary:
    rows = torch.tensor(atoms)
    names = tuple("abcdef"[: len(rows)])
    return ConceptDictionary(names, ("",) * len(rows), (HOOK,), {HOOK: rows}, **fields)


def plane() -> ConceptDictionary:
    """Two atoms at an angle of 60 degrees."""
    return small([[1.0, 0.0], [0.5, 3**0.5 / 2]])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 500), st.sampled_from(SOLVERS), st.integers(1, 11))
def test_what_is_kept_and_what_is_left_when_the_same_is_dropped_make_up_the_vector(seed, solver, n_kept):
    dictionary = random_dictionary(12, 8, seed=seed)
    vector = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed + 7777))
    concept = given_vectors(vector, HOOK_POINTS)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed + 7777)).tolist()
    names = [dictionary.names[place] for place in order]
    try:
        kept = keep_concepts(concept, dictionary, names[:n_kept], solver=solver).concept.vectors
        left = drop_concepts(concept, dictionary, names[:n_kept], solver=solver).concept.vectors
    except ConceptError:
        assume(False)  # none of them was found in it; refused, as a test below says
    torch.testing.assert_close(kept + left, vector, atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 500), st.sampled_from(SOLVERS[:2]))
def test_the_parts_of_a_vector_and_what_no_concept_explains_make_up_the_vector(seed, solver):
    dictionary = random_dictionary(12, 8, seed=seed)
    vector = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed + 7777))
    concept = given_vectors(vector)
    whole = keep_concepts(concept, dictionary, dictionary.names, solver=solver)
    found = whole.decompositions[0]
    parts = [keep_concepts(concept, dictionary, [name], solver=solver).concept.vectors for name, _ in found.row(0)]
    torch.testing.assert_close(sum(parts), whole.concept.vectors, atol=1e-5, rtol=0)
    rest = vector - whole.concept.vectors
    assert float(rest.norm()) == pytest.approx(float(found.residuals[0]), abs=1e-5)
    if float(rest.norm()) > 1e-4:
        left = drop_concepts(concept, dictionary, dictionary.names, solver=solver).concept.vectors
        torch.testing.assert_close(left, rest, atol=1e-5, rtol=0)


def test_the_parts_are_oblique_where_the_atoms_are():
    concept = given_vectors([[3.5, 2.598076]])  # 2 a + 3 b
    kept = keep_concepts(concept, plane(), ["a"], solver=OMP(2))
    torch.testing.assert_close(kept.concept.vectors, torch.tensor([[2.0, 0.0]]), atol=1e-5, rtol=0)
    left = drop_concepts(concept, plane(), ["a"], solver=OMP(2))
    torch.testing.assert_close(left.concept.vectors, torch.tensor([[1.5, 2.598076]]), atol=1e-5, rtol=0)
    assert kept.shares[0] == pytest.approx(2 / 19**0.5, abs=1e-6)  # |2 a + 3 b|^2 = 4 + 9 + 6
    assert kept.cosines[0] == pytest.approx(3.5 / 19**0.5, abs=1e-6)


def test_three_atoms_as_in_the_paper():
    dictionary = small([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.6, 0.8]])
    concept = given_vectors([[2.0, 1.0, 2.0]])
    solver = ElasticNet()
    kept = keep_concepts(concept, dictionary, ["c"], solver=solver).concept.vectors[0]
    torch.testing.assert_close(kept, 2.05236908 * dictionary.at(HOOK)[2], atol=1e-5, rtol=0)
    left = drop_concepts(concept, dictionary, ["a"], solver=solver).concept.vectors[0]
    torch.testing.assert_close(left, torch.tensor([0.14713217, 1.0, 2.0]), atol=1e-5, rtol=0)
    left = drop_concepts(concept, dictionary, ["a"], solver=OMP(2)).concept.vectors[0]
    torch.testing.assert_close(left, torch.tensor([0.0, 1.0, 2.0]), atol=1e-5, rtol=0)


def test_a_planted_confound_is_dropped_and_the_concept_is_kept():
    dictionary = random_dictionary(30, 64)
    atoms = dictionary.at(HOOK)
    own, confound = atoms[:2].sum(0), 1.5 * atoms[7] - atoms[20]
    concept = given_vectors((own + confound)[None])
    kept = keep_concepts(concept, dictionary, dictionary.names[:2], solver=OMP(4))
    torch.testing.assert_close(kept.concept.vectors[0], own, atol=1e-4, rtol=0)
    left = drop_concepts(concept, dictionary, [dictionary.names[7], dictionary.names[20]], solver=OMP(4))
    torch.testing.assert_close(left.concept.vectors[0], own, atol=1e-4, rtol=0)


@pytest.mark.parametrize("solver", [OMP(1), ElasticNet(0.05)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_copy_of_an_atom_stands_for_it(solver, sign):
    dictionary = small([[1.0, 0.0], [0.0, 1.0], [sign, 0.0]])
    concept = given_vectors([[2.0, 0.5]])
    for refine in (keep_concepts, drop_concepts):
        expected = refine(concept, dictionary, ["a"], solver=solver).concept.vectors
        for names in (["c"], ["a", "c"]):
            torch.testing.assert_close(refine(concept, dictionary, names, solver=solver).concept.vectors, expected)


def test_a_partition_names_what_a_task_is_about():
    dictionary = random_dictionary(6, 8)

    def judge(task, judged):
        return [ConceptScore(name, 1.0 if name in judged.names[:2] else -1.0) for name in judged.names]

    chosen = partition(dictionary, "be brave", judge, at_least=0.5)
    concept = given_vectors(torch.ones(1, 8))
    for refine in (keep_concepts, drop_concepts):
        by_name = refine(concept, dictionary, dictionary.names[:2], solver=OMP(6))
        assert torch.equal(refine(concept, dictionary, chosen, solver=OMP(6)).concept.vectors, by_name.concept.vectors)
    with pytest.raises(PaceError, match="was made for the dictionary"):
        keep_concepts(concept, random_dictionary(6, 8, seed=1), chosen)


def test_everything_else_of_the_concept_stays_and_the_name_says_what_was_done():
    mine = made_up_fingerprint()
    dictionary = random_dictionary(12, 8, fingerprint=mine)
    norms = torch.tensor([3.0, 4.0])
    vectors = torch.randn(2, 8, generator=torch.Generator().manual_seed(9))
    concept = given_vectors(vectors, HOOK_POINTS, method="lda", fingerprint=mine, residual_norms=norms)
    kept = keep_concepts(concept, dictionary, dictionary.names[:2], solver=OMP(12)).concept
    assert (kept.hook_points, kept.method, kept.fingerprint) == (HOOK_POINTS, "lda", mine)
    assert torch.equal(kept.residual_norms, norms)
    assert kept.name == "courage kept to concept 0, concept 1"
    left = drop_concepts(concept, dictionary, dictionary.names[:5], solver=OMP(12))
    assert left.concept.name == "courage without concept 0, concept 1 and 3 more"
    assert all(point in str(left) for point in HOOK_POINTS)
    assert torch.equal(concept.vectors, vectors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_of_the_vectors_stays(dtype):
    concept = ConceptVectors("courage", torch.tensor([[3.5, 2.598076]], dtype=dtype), (HOOK,))
    for refine in (keep_concepts, drop_concepts):
        assert refine(concept, plane(), ["a"], solver=OMP(2)).concept.vectors.dtype == dtype


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_refinement_goes_with_the_length_of_the_vector(factor, solver):
    dictionary = random_dictionary(12, 8)
    vector = torch.randn(1, 8, generator=torch.Generator().manual_seed(5))
    one, other = (
        drop_concepts(given_vectors(scale * vector), dictionary, dictionary.names[:6], solver=solver).concept.vectors
        for scale in (1.0, factor)
    )
    torch.testing.assert_close(other, factor * one, atol=1e-5 * factor, rtol=1e-4)


@pytest.mark.parametrize(
    ("refine", "names", "vector", "error", "words"),
    [
        (keep_concepts, [], [1.0, 1.0], PaceError, "list of concepts"),
        (drop_concepts, [], [1.0, 1.0], PaceError, "list of concepts"),
        (keep_concepts, "a", [1.0, 1.0], PaceError, "list of concepts"),
        (keep_concepts, ["z"], [1.0, 1.0], PaceError, "no concept 'z'"),
        (keep_concepts, ["a"], [0.0, 0.0], ConceptError, "zero vector"),
        (drop_concepts, ["a"], [0.0, 0.0], ConceptError, "zero vector"),
        (keep_concepts, ["a"], [0.5, 3**0.5 / 2], ConceptError, "none of the concepts to keep"),
        (drop_concepts, ["a", "b"], [1.0, 1.0], ConceptError, "lies in what was dropped"),
    ],
)
def test_what_cannot_be_refined_is_refused(refine, names, vector, error, words):
    with pytest.raises(error, match=words):
        refine(given_vectors([vector]), plane(), names, solver=OMP(2))


def test_a_solver_of_the_undesirable_alone_is_refused():
    with pytest.raises(PaceError, match="undesirable atoms alone"):
        keep_concepts(given_vectors([[1.0, 1.0]]), plane(), ["a"], solver=OrthogonalProjection())


def test_a_dictionary_of_another_model_or_place_is_refused():
    dictionary = random_dictionary(6, 8, fingerprint=made_up_fingerprint())
    theirs = given_vectors(torch.ones(1, 8), fingerprint=made_up_fingerprint(16))
    for refine in (keep_concepts, drop_concepts):
        with pytest.raises(FingerprintMismatchError, match="dictionary"):
            refine(theirs, dictionary, dictionary.names[:1])
        with pytest.raises(HookPointError, match=r"blocks\.7"):
            refine(given_vectors(torch.ones(1, 8), ["blocks.7.hook_resid_post"]), dictionary, dictionary.names[:1])
        with pytest.raises(PaceError):
            refine(given_vectors(torch.ones(1, 5)), dictionary, dictionary.names[:1])


def test_a_real_dictionary_takes_kindness_out_of_a_mixture_of_honesty_and_kindness():
    model = open_model(model_path("gpt2-source"))
    topics = ("honesty", "lying", "kindness", "unkindness")
    concepts = [each for each in concept_stimuli() if each.topic in topics]
    point = "blocks.2.hook_resid_post"
    dictionary = build_dictionary(model, concepts, [point], template=STIMULI_TEMPLATE)
    atoms = dict(zip(dictionary.names, dictionary.at(point), strict=True))
    honesty, kindness = atoms["truthful"] - atoms["lying"], atoms["friendly"] - atoms["harsh"]
    mixed = ConceptVectors("mixed", (honesty + kindness)[None], (point,), fingerprint=dictionary.fingerprint)
    own = [name for name, topic in zip(dictionary.names, dictionary.topics, strict=True) if topic in topics[:2]]

    def cosines(vector):
        return [float(torch.cosine_similarity(vector, other, dim=0)) for other in (honesty, kindness)]

    before = cosines(mixed.vectors[0])
    after = cosines(keep_concepts(mixed, dictionary, own, solver=ElasticNet(0.02)).concept.vectors[0])
    assert before[1] > 0.4
    assert after[0] > before[0] + 0.1
    assert abs(after[1]) < 0.25 * before[1]
