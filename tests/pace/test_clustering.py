import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrans_lens.errors import HookPointError, PaceError
from contrans_lens.pace import retrieval
from contrans_lens.pace.agreement import adjusted_rand_index
from contrans_lens.pace.clustering import average_linkage, cluster, spherical_kmeans
from contrans_lens.pace.dictionary import ConceptDictionary
from tests.pace.dictionaries import HOOK_POINTS, random_dictionary

HOOK = HOOK_POINTS[0]
TOPICS = [f"topic {number}" for number in (0, 1, 2, 3) for _ in range(number + 4)]


def bundles(noise=0.15, signs=False, seed=0) -> ConceptDictionary:
    """Four bundles of 4, 5, 6 and 7 atoms about orthogonal axes; with signs, half of each bundle is turned over."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.eye(12)[[int(topic[-1]) for topic in TOPICS]]
    atoms = axes + noise * torch.randn(22, 12, generator=generator)
    if signs:
        atoms[::2] *= -1
    names = tuple(f"{topic[-1]}{row}" for row, topic in enumerate(TOPICS))
    return ConceptDictionary(names, tuple(TOPICS), (HOOK,), {HOOK: torch.nn.functional.normalize(atoms, dim=1)})


@pytest.mark.parametrize("method", ["kmeans", "average"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bundles_are_found_and_numbered_by_size(method, seed):
    found = cluster(bundles(), HOOK, 4, method=method, seed=seed)
    assert adjusted_rand_index(found.labels.tolist(), TOPICS) == 1
    assert torch.bincount(found.labels).tolist() == [7, 6, 5, 4]
    assert {name[0] for name in found.members(0)} == {"3"}
    assert torch.allclose(found.centres.norm(dim=1), torch.ones(4), atol=1e-5)


@pytest.mark.parametrize("method", ["kmeans", "average"])
def test_opposites_fall_together_only_where_signs_do_not_count(method):
    turned = bundles(signs=True)
    unsigned = cluster(turned, HOOK, 4, method=method, signed=False)
    assert adjusted_rand_index(unsigned.labels.tolist(), TOPICS) == 1
    assert float(unsigned.closeness.min()) > 0.7
    signed = cluster(turned, HOOK, 8, method=method)
    sides = [f"{topic} {row % 2}" for row, topic in enumerate(TOPICS)]
    assert adjusted_rand_index(signed.labels.tolist(), sides) == 1


def cosines_of(found, dictionary):
    return (dictionary.at(HOOK) * found.centres[found.labels]).sum(1)


def test_members_come_nearest_first_and_closeness_is_the_cosine_with_the_centre():
    dictionary = bundles()
    found = cluster(dictionary, HOOK, 4)
    for label in range(4):
        rows = [dictionary.index(name) for name in found.members(label)]
        cosines = dictionary.at(HOOK)[rows] @ found.centres[label]
        assert torch.allclose(cosines, found.closeness[rows], atol=1e-5)
        assert torch.equal(cosines.sort(descending=True).values, cosines)
    assert found.objective == pytest.approx(float(cosines_of(found, dictionary).mean()), abs=1e-5)
    with pytest.raises(PaceError, match="no cluster 4"):
        found.members(4)
    assert "4 clusters of 22 concepts" in str(found)


@given(st.integers(0, 200), st.integers(1, 12), st.booleans())
def test_every_cluster_has_an_atom_and_no_atom_is_nearer_to_another_centre(seed, n_clusters, signed):
    dictionary = random_dictionary(30, 5, seed=seed)
    found = cluster(dictionary, HOOK, n_clusters, signed=signed, restarts=2, seed=seed)
    assert found.n_clusters == len(torch.unique(found.labels)) == n_clusters
    cosines = dictionary.at(HOOK) @ found.centres.T
    nearest = (cosines if signed else cosines.abs()).amax(1)
    assert torch.allclose(nearest, found.closeness, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_without_signs_a_centre_is_the_first_principal_direction(seed):
    dictionary = random_dictionary(30, 5, seed=seed)
    found = cluster(dictionary, HOOK, 4, signed=False)
    for label, centre in enumerate(found.centres):
        rows = dictionary.at(HOOK)[found.labels == label]
        largest = torch.linalg.svdvals(rows)[0]
        assert float((rows @ centre).norm()) == pytest.approx(float(largest), rel=1e-4)
    assert found.objective == pytest.approx(float(cosines_of(found, dictionary).square().mean()), abs=1e-5)


def test_as_many_clusters_as_atoms_leave_each_alone_even_among_copies():
    atoms = torch.eye(6)[[0, 0, 0, 1, 1, 2]]
    for signed in (True, False):
        labels = spherical_kmeans(atoms, 6, signed=signed)
        assert sorted(labels.tolist()) == list(range(6))


def test_equal_seeds_give_equal_clusters_whatever_the_blocks(monkeypatch):
    dictionary = random_dictionary(60, 6)
    whole = [cluster(dictionary, HOOK, 7, seed=seed).labels for seed in (0, 0, 1)]
    assert torch.equal(whole[0], whole[1])
    monkeypatch.setattr(retrieval, "BLOCK", 13)
    assert torch.equal(cluster(dictionary, HOOK, 7, seed=0).labels, whole[0])


def test_more_starts_never_make_it_worse():
    dictionary = random_dictionary(80, 6)
    reached = [cluster(dictionary, HOOK, 9, restarts=n).objective for n in (1, 2, 5, 20)]
    assert reached == sorted(reached)
    assert reached[-1] > reached[0]


def test_it_is_as_good_as_euclidean_k_means_of_another_library_on_bundles():
    cluster_module = pytest.importorskip("sklearn.cluster")
    atoms = bundles(noise=0.4).at(HOOK)
    other = cluster_module.KMeans(4, n_init=20, random_state=0).fit(atoms.numpy())
    sums = torch.zeros(4, 12).index_add_(0, torch.from_numpy(other.labels_).long(), atoms)
    assert cluster(bundles(noise=0.4), HOOK, 4, restarts=20).objective * 22 >= float(sums.norm(dim=1).sum()) - 1e-3


@pytest.mark.parametrize("signed", [True, False])
def test_average_linkage_equals_another_library(signed):
    cluster_module = pytest.importorskip("sklearn.cluster")
    atoms = random_dictionary(40, 6).at(HOOK)
    cosines = (atoms @ atoms.T).double().clamp(-1, 1)
    distances = (1 - (cosines if signed else cosines.abs())).fill_diagonal_(0).numpy()
    other = cluster_module.AgglomerativeClustering(6, metric="precomputed", linkage="average").fit(distances)
    assert adjusted_rand_index(average_linkage(atoms, 6, signed=signed).tolist(), other.labels_.tolist()) == 1


def test_centring_takes_away_the_direction_that_all_share():
    plain = bundles(noise=0.1)
    shared = torch.nn.functional.normalize(plain.at(HOOK) + 30 * torch.eye(12)[11], dim=1)
    moved = ConceptDictionary(plain.names, plain.topics, (HOOK,), {HOOK: shared})
    assert cluster(moved, HOOK, 4).objective > 0.99
    centred = cluster(moved, HOOK, 4, centred=True)
    assert adjusted_rand_index(centred.labels.tolist(), TOPICS) == 1


@pytest.mark.parametrize(
    ("n_clusters", "options", "message"),
    [
        (0, {}, "1 to 22"),
        (23, {}, "1 to 22"),
        (2, {"method": "ward"}, "ward"),
        (2, {"restarts": 0}, "restarts=0"),
        (2, {"most_steps": 0}, "most_steps=0"),
    ],
)
def test_impossible_clusters_are_refused(n_clusters, options, message):
    with pytest.raises(PaceError, match=message):
        cluster(bundles(), HOOK, n_clusters, **options)


def test_missing_hook_points_and_too_many_pairs_are_refused(monkeypatch):
    with pytest.raises(HookPointError):
        cluster(bundles(), "blocks.9.hook_resid_post", 2)
    monkeypatch.setattr(retrieval, "MOST_PAIRWISE", 10)
    with pytest.raises(PaceError, match="subset"):
        cluster(bundles(), HOOK, 2, method="average")
    assert cluster(bundles(), HOOK, 4).n_clusters == 4
