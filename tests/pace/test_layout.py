import pytest
import torch

from contrans_lens.errors import HookPointError, PaceError
from contrans_lens.pace import retrieval
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.layout import layout
from tests.pace.dictionaries import HOOK_POINTS, random_dictionary

HOOK = HOOK_POINTS[0]


def of(atoms) -> ConceptDictionary:
    names = tuple(f"concept {row}" for row in range(len(atoms)))
    return ConceptDictionary(names, ("",) * len(atoms), (HOOK,), {HOOK: atoms})


def distances(points):
    return torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")


def in_a_plane(n=9, width=6):
    """Unit atoms on a circle in a random plane through the origin."""
    angles = torch.linspace(0, 2.5, n)
    plane, _ = torch.linalg.qr(torch.randn(width, 2, generator=torch.Generator().manual_seed(0)))
    return torch.stack((angles.cos(), angles.sin()), 1) @ plane.T


def test_atoms_in_a_plane_keep_all_their_distances():
    atoms = in_a_plane()
    found = layout(of(atoms), HOOK)
    assert torch.allclose(distances(found.coordinates), distances(atoms), atol=1e-5)
    assert found.share == pytest.approx(1, abs=1e-6)
    assert found.coordinates.mean(0).abs().max() < 1e-6


def test_scaling_keeps_the_distances_between_lines_of_atoms_in_a_plane():
    atoms = in_a_plane()
    projectors = torch.einsum("ai,aj->aij", atoms, atoms).flatten(1)
    found = layout(of(atoms), HOOK, "mds")
    assert torch.allclose(distances(found.coordinates), distances(projectors), atol=1e-5)
    assert found.share == pytest.approx(1, abs=1e-6)


def test_the_sign_of_an_atom_matters_for_pca_and_not_for_mds():
    atoms = in_a_plane()
    turned = atoms * torch.where(torch.arange(9) % 2 == 0, 1.0, -1.0)[:, None]
    pca, mds = (layout(of(atoms), HOOK, method).coordinates for method in ("pca", "mds"))
    assert torch.allclose(layout(of(turned), HOOK, "mds").coordinates, mds, atol=1e-5)
    assert not torch.allclose(distances(layout(of(turned), HOOK).coordinates), distances(pca), atol=0.1)


@pytest.mark.parametrize(("n", "width"), [(30, 8), (6, 20), (3, 3)])
def test_pca_equals_another_library(n, width):
    decomposition = pytest.importorskip("sklearn.decomposition")
    dictionary = random_dictionary(n, width)
    found = layout(dictionary, HOOK)
    other = decomposition.PCA(2).fit(dictionary.at(HOOK).double().numpy())
    scores = torch.from_numpy(other.transform(dictionary.at(HOOK).double().numpy()))
    assert torch.allclose(found.coordinates.abs().double(), scores.abs(), atol=1e-5)
    assert found.shares == pytest.approx(tuple(other.explained_variance_ratio_), abs=1e-6)


def test_mds_is_the_principal_components_of_the_projectors():
    decomposition = pytest.importorskip("sklearn.decomposition")
    dictionary = random_dictionary(20, 5)
    atoms = dictionary.at(HOOK).double()
    projectors = torch.einsum("ai,aj->aij", atoms, atoms).flatten(1).numpy()
    other = decomposition.PCA(2).fit(projectors)
    found = layout(dictionary, HOOK, "mds")
    assert torch.allclose(
        found.coordinates.abs().double(), torch.from_numpy(other.transform(projectors)).abs(), atol=1e-5
    )
    assert found.shares == pytest.approx(tuple(other.explained_variance_ratio_), abs=1e-6)


@pytest.mark.parametrize("method", ["pca", "mds"])
def test_a_map_does_not_flip_and_does_not_depend_on_the_order(method, monkeypatch):
    dictionary = random_dictionary(15, 6)
    found = layout(dictionary, HOOK, method).coordinates
    largest = found.gather(0, found.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(retrieval, "BLOCK", 4)
    shuffled = layout(dictionary.subset([dictionary.names[row] for row in order.tolist()]), HOOK, method)
    assert torch.allclose(shuffled.coordinates, found[order], atol=1e-4)


@pytest.mark.parametrize("method", ["pca", "mds"])
def test_equal_atoms_and_atoms_of_one_number_have_places(method):
    same = layout(of(torch.eye(3)[[0, 0]]), HOOK, method)
    assert torch.equal(same.coordinates, torch.zeros(2, 2))
    assert same.share == 0
    line = layout(of(torch.tensor([[1.0], [-1.0], [1.0]])), HOOK, method)
    assert bool(torch.isfinite(line.coordinates).all())


def test_impossible_maps_are_refused(monkeypatch):
    dictionary = random_dictionary(15, 6)
    with pytest.raises(PaceError, match="tsne"):
        layout(dictionary, HOOK, "tsne")
    with pytest.raises(PaceError, match="two concepts"):
        layout(dictionary.subset(["concept 0"]), HOOK)
    with pytest.raises(HookPointError):
        layout(dictionary, "blocks.9.hook_resid_post")
    monkeypatch.setattr(retrieval, "MOST_PAIRWISE", 10)
    with pytest.raises(PaceError, match="subset"):
        layout(dictionary, HOOK, "mds")
    assert layout(dictionary, HOOK).coordinates.shape == (15, 2)
