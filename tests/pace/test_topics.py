from dataclasses import replace
from functools import cache
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrans_lens.errors import HookPointError, PaceError
from contrans_lens.models import open_model
from contrans_lens.pace.build import build_dictionary
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.topics import topic_separation
from contrans_lens.testbed import model_path
from contrans_lens.testbed.stimuli import STIMULI_TEMPLATE, concept_stimuli
from contrans_lens.testbed.variants import untrained
from contrans_lens.testbed.world import EMOTIONS
from tests.pace.dictionaries import HOOK_POINTS, random_dictionary

HOOK = HOOK_POINTS[0]
MIDDLE = "blocks.2.hook_resid_post"
TARGETS = ("gpt2-target", "rotary-target")
# Topics whose stimuli all end with the same words, at the same decision.
FORMS = dict.fromkeys(EMOTIONS, "is") | dict.fromkeys(("honesty", "lying"), "Answer:")
FORMS |= dict.fromkeys(("kindness", "unkindness"), "said:")


def with_topics(topics, n=None, seed=0) -> ConceptDictionary:
    dictionary = random_dictionary(n or len(topics), 8, seed=seed)
    return ConceptDictionary(dictionary.names, tuple(topics), dictionary.hook_points, dictionary.atoms)


def brute(dictionary, signed, forms=None):
    same, different = [], []
    atoms = dictionary.at(HOOK).double()
    for first, second in combinations(range(dictionary.n_atoms), 2):
        if forms is None or forms[first] == forms[second]:
            cosine = float(atoms[first] @ atoms[second])
            alike = dictionary.topics[first] == dictionary.topics[second]
            (same if alike else different).append(cosine if signed else abs(cosine))
    wins = [(a > b) + 0.5 * (a == b) for a in same for b in different]
    return sum(wins) / len(wins), same, different


@given(st.integers(0, 500), st.booleans())
def test_the_auc_counts_pairs_of_pairs(seed, signed):
    dictionary = random_dictionary(12, 8, seed=seed)
    found = topic_separation(dictionary, HOOK, signed=signed, draws=1)
    auc, same, different = brute(dictionary, signed)
    assert found.auc == pytest.approx(auc)
    assert (found.n_same, found.n_different) == (len(same), len(different))
    assert found.same_mean == pytest.approx(sum(same) / len(same), abs=1e-5)
    assert found.different_mean == pytest.approx(sum(different) / len(different), abs=1e-5)


def test_the_auc_equals_another_library():
    metrics = pytest.importorskip("sklearn.metrics")
    dictionary = random_dictionary(30, 8)
    _, same, different = brute(dictionary, False)
    expected = metrics.roc_auc_score([1] * len(same) + [0] * len(different), same + different)
    assert topic_separation(dictionary, HOOK, draws=1).auc == pytest.approx(expected, abs=1e-9)


def test_topics_that_say_nothing_have_a_large_p_value_and_real_ones_the_smallest():
    p_values = [topic_separation(random_dictionary(18, 8, seed=s), HOOK, draws=99).p_value for s in range(60)]
    # Uniform under the null: about a third in each third.
    assert 10 <= sum(p > 2 / 3 for p in p_values) <= 30
    assert sum(p <= 0.05 for p in p_values) <= 8
    atoms = torch.eye(4).repeat_interleave(5, 0) + 0.1 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    atoms = torch.nn.functional.normalize(atoms, dim=1)
    names = tuple(str(row) for row in range(20))
    real = ConceptDictionary(names, tuple("abcd"[row // 5] for row in range(20)), (HOOK,), {HOOK: atoms})
    found = topic_separation(real, HOOK, draws=99)
    assert found.auc == 1
    assert found.p_value == pytest.approx(1 / 100)
    assert 0.4 < found.null_mean < 0.6
    assert found.null_highest < 1


def test_opposites_are_alike_unless_signs_count():
    atoms = torch.tensor([[1.0, 0.1], [-1.0, 0.1], [0.1, 1.0], [0.1, -1.0]])
    dictionary = ConceptDictionary(
        tuple("pqrs"), tuple("aabb"), (HOOK,), {HOOK: torch.nn.functional.normalize(atoms, dim=1)}
    )
    assert topic_separation(dictionary, HOOK, draws=9).auc == 1
    assert topic_separation(dictionary, HOOK, signed=True, draws=9).auc == 0


def test_concepts_without_a_topic_and_topics_not_asked_for_are_left_out():
    dictionary = with_topics(["a", "a", "b", "b", "c", "c", "", "", ""])
    found = topic_separation(dictionary, HOOK, draws=9)
    assert (found.n_same, found.n_different) == (3, 12)
    assert found == topic_separation(dictionary.subset(dictionary.names[:6]), HOOK, draws=9)
    part = topic_separation(dictionary, HOOK, topics=("a", "c"), draws=9)
    assert (part.n_same, part.n_different) == (2, 4)


@given(st.integers(0, 500))
def test_with_forms_only_pairs_of_one_form_are_compared(seed):
    topics = ["a", "a", "b", "b", "c", "c", "d", "d", "c", "d"]
    forms = ["x", "x", "x", "x", "y", "y", "y", "y", "y", ""]
    dictionary = with_topics(topics, seed=seed)
    found = topic_separation(dictionary, HOOK, forms=forms, draws=3, seed=seed)
    auc, same, different = brute(dictionary.subset(dictionary.names[:9]), False, forms)
    assert found.auc == pytest.approx(auc)
    assert (found.n_same, found.n_different) == (len(same), len(different)) == (6, 10)


def test_a_form_that_explains_everything_is_no_separation_within_forms():
    generator = torch.Generator().manual_seed(0)
    form = [row // 8 for row in range(16)]
    atoms = torch.eye(8)[form] + 0.2 * torch.randn(16, 8, generator=generator)
    topics = tuple(f"{form[row]}{row % 2}" for row in range(16))
    names = tuple(str(row) for row in range(16))
    dictionary = ConceptDictionary(names, topics, (HOOK,), {HOOK: torch.nn.functional.normalize(atoms, dim=1)})
    assert topic_separation(dictionary, HOOK, draws=99).p_value <= 0.02
    within = topic_separation(dictionary, HOOK, forms=[str(each) for each in form], draws=99)
    assert within.p_value > 0.05
    assert abs(within.auc - within.null_mean) < 0.2


def test_equal_seeds_give_equal_results_and_they_read_well():
    dictionary = random_dictionary(12, 8)
    found = topic_separation(dictionary, HOOK, draws=50, seed=3)
    assert found == topic_separation(dictionary, HOOK, draws=50, seed=3)
    assert f"AUC {found.auc:.3f}" in str(found)
    assert HOOK in str(found)


@pytest.mark.parametrize(
    ("topics", "options", "message"),
    [
        (["a"] * 4, {}, "0 different-topic"),
        (["a", "b", "c", "d"], {}, "0 same-topic"),
        ([""] * 4, {}, "0 same-topic"),
        (["a", "a", "b", "b"], {"topics": ("a", "z")}, "'z'"),
        (["a", "a", "b", "b"], {"draws": 0}, "draws=0"),
        (["a", "a", "b", "b"], {"forms": ["x"]}, "1 forms for 4"),
        (["a", "a", "b", "b"], {"forms": ["x", "x", "y", "y"]}, "0 different-topic"),
    ],
)
def test_what_cannot_be_compared_is_refused(topics, options, message):
    with pytest.raises(PaceError, match=message):
        topic_separation(with_topics(topics), HOOK, **options)
    with pytest.raises(HookPointError):
        topic_separation(with_topics(topics), "blocks.9.hook_resid_post")


@cache
def of_world(folder) -> ConceptDictionary:
    # A third of the stimuli: these tests are to be quick.
    concepts = [replace(concept, stimuli=concept.stimuli[:10]) for concept in concept_stimuli()]
    return build_dictionary(open_model(folder, device="cpu"), concepts, [MIDDLE], template=STIMULI_TEMPLATE)


@pytest.fixture(scope="module", params=TARGETS)
def trained(request):
    return of_world(model_path(request.param))


@pytest.fixture(scope="module", params=TARGETS)
def empty(request, tmp_path_factory):
    return of_world(untrained(model_path(request.param), tmp_path_factory.mktemp("untrained")))


def within_forms(dictionary):
    forms = [FORMS.get(topic, "") for topic in dictionary.topics]
    return topic_separation(dictionary, MIDDLE, forms=forms, draws=199)


def test_atoms_of_a_trained_model_know_their_topics(trained):
    # Fixture 10 of the method: AUC > 0.8 against a permutation null.
    found = topic_separation(trained, MIDDLE, draws=199)
    assert found.auc > 0.8
    assert found.p_value == 1 / 200
    assert found.null_highest < 0.6


def test_they_do_so_among_stimuli_of_one_form_where_an_untrained_model_cannot(trained):
    found = within_forms(trained)
    assert found.auc > 0.95
    assert found.p_value == 1 / 200


def test_an_untrained_model_separates_topics_by_the_form_of_their_stimuli_alone(empty):
    assert topic_separation(empty, MIDDLE, draws=199).p_value == 1 / 200
    found = within_forms(empty)
    assert found.auc < 0.6
    assert found.p_value > 0.01
