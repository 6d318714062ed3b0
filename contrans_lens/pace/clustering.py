"""Clusters of concepts: spherical k-means for dictionaries of any size, average linkage for small ones.

Both work on cosines. With ``signed=False`` they work on ``|cos|``, so that opposites ("honest", "lying") fall together:
k-means then finds lines through the origin instead of points on the sphere.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.retrieval import blocks, pairwise_cosines

METHODS = ("kmeans", "average")
_POWER_STEPS = 30


@dataclass(frozen=True, eq=False)
class Clustering:
    """Concepts in clusters; made by :func:`cluster`."""

    names: tuple[str, ...]
    """Concepts, in the dictionary's order."""
    labels: Int[Tensor, " atom"]
    """Cluster of each concept, from 0; the largest cluster is 0."""
    centres: Float[Tensor, "cluster d_model"]
    """Unit vectors."""
    closeness: Float[Tensor, " atom"]
    """Cosine of each atom with its cluster's centre (``|cos|`` where unsigned)."""
    method: str
    """``"kmeans"`` or ``"average"``."""
    signed: bool
    """Whether opposites are far from each other."""
    hook_point: str
    """Where the atoms were read."""

    @property
    def n_clusters(self) -> int:
        """Number of clusters that have a concept."""
        return len(self.centres)

    @property
    def objective(self) -> float:
        """What k-means makes as large as it can: the mean of ``cos``, or of ``cos^2`` where unsigned."""
        return float((self.closeness if self.signed else self.closeness.square()).mean())

    def members(self, label: int) -> tuple[str, ...]:
        """Concepts of one cluster, those nearest to its centre first.

        Raises:
            PaceError: there is no such cluster.
        """
        if not 0 <= label < self.n_clusters:
            raise PaceError(f"there is no cluster {label}; they are numbered from 0 to {self.n_clusters - 1}.")
        rows = (self.labels == label).nonzero().flatten()
        order = self.closeness[rows].argsort(descending=True, stable=True)
        return tuple(self.names[row] for row in rows[order].tolist())

    def __str__(self) -> str:
        lines = [f"{self.n_clusters} clusters of {len(self.names)} concepts at {self.hook_point} ({self.method})"]
        for label in range(self.n_clusters):
            members = self.members(label)
            more = f", ... ({len(members)})" if len(members) > 10 else ""
            lines.append(f"  {label:3d}  {', '.join(members[:10])}{more}")
        return "\n".join(lines)


def cluster(
    dictionary: ConceptDictionary,
    hook_point: str,
    n_clusters: int,
    *,
    method: str = "kmeans",
    signed: bool = True,
    centred: bool = False,
    seed: int = 0,
    restarts: int = 8,
    most_steps: int = 100,
) -> Clustering:
    """Put the concepts into clusters.

    Args:
        dictionary: the concepts.
        hook_point: where the atoms were read.
        n_clusters: number of clusters, from 1 to the number of concepts.
        method: ``"kmeans"``: spherical k-means with k-means++ starts, the best of several, for any size; ``"average"``:
            average linkage of ``1 - cos``, which needs all pairs in memory.
        signed: whether opposites are far from each other.
        centred: take the mean atom away first; all concepts share a direction, and it hides what sets them apart.
        seed: of k-means; equal seeds give equal clusters.
        restarts: starts of k-means.
        most_steps: most steps of each start.

    Raises:
        HookPointError: the dictionary has no atoms there.
        PaceError: no such method, a number of clusters that cannot be, or too many atoms for average linkage.
    """
    if method not in METHODS:
        raise PaceError(f"concepts are clustered by 'kmeans' or 'average', not by {method!r}.")
    if not 1 <= n_clusters <= dictionary.n_atoms:
        raise PaceError(f"{dictionary.n_atoms} concepts make 1 to {dictionary.n_atoms} clusters; not {n_clusters}.")
    if restarts < 1 or most_steps < 1:
        raise PaceError(f"k-means needs a start and a step; restarts={restarts}, most_steps={most_steps} were given.")
    atoms = dictionary.at(hook_point)
    if centred:
        wide = atoms.float()
        atoms = torch.nn.functional.normalize(wide - wide.mean(0), dim=1)
    if method == "kmeans":
        labels = spherical_kmeans(atoms, n_clusters, signed=signed, seed=seed, restarts=restarts, most_steps=most_steps)
    else:
        labels = average_linkage(atoms, n_clusters, signed=signed)
    labels = _largest_first(labels)
    # Any atom of a cluster is a start that is not orthogonal to its centre.
    first = [int((labels == label).nonzero()[0]) for label in range(int(labels.max()) + 1)]
    centres = _moved(atoms, labels, atoms[first].float(), signed, _POWER_STEPS)
    close = torch.cat([_cosines(block, centres, signed) for _, block in blocks(atoms)])
    own = close.gather(1, labels[:, None])[:, 0].clamp(-1, 1)
    return Clustering(dictionary.names, labels, centres, own, method, signed, hook_point)


def spherical_kmeans(
    atoms: Float[Tensor, "atom d_model"],
    n_clusters: int,
    *,
    signed: bool = True,
    seed: int = 0,
    restarts: int = 8,
    most_steps: int = 100,
) -> Int[Tensor, " atom"]:
    """Labels that make the sum of ``cos(atom, centre)`` (``cos^2`` where unsigned) as large as the best start finds.

    A centre is the normalised sum of its atoms; where signs do not count, their first principal direction, found by
    power steps. No step can make the sum smaller. Starts are drawn as in k-means++: each next centre with probability
    in proportion to ``1 - cos`` to the nearest one so far. A cluster that loses all its atoms takes the atom that is
    farthest from its centre.

    Args:
        atoms: unit rows; may be memory-mapped, they are read in blocks.
        n_clusters: number of clusters, at most the number of atoms.
        signed: whether opposites are far from each other.
        seed: of the starts.
        restarts: number of starts.
        most_steps: most steps of each.
    """
    best_labels, best = torch.zeros(len(atoms), dtype=torch.int64), -float("inf")
    for restart in range(restarts):
        generator = torch.Generator().manual_seed(seed * 100_003 + restart)
        labels, close = _settle(atoms, _first_centres(atoms, n_clusters, signed, generator), signed, most_steps)
        total = float((close if signed else close.square()).double().sum())
        if total > best:
            best_labels, best = labels, total
    return best_labels


def average_linkage(
    atoms: Float[Tensor, "atom d_model"], n_clusters: int, *, signed: bool = True
) -> Int[Tensor, " atom"]:
    """Labels of the average-linkage tree of ``1 - cos`` (``1 - |cos|`` where unsigned), cut into clusters.

    Raises:
        PaceError: there are too many atoms for all pairs.
    """
    if len(atoms) == 1:
        return torch.zeros(1, dtype=torch.int64)
    cosines = pairwise_cosines(atoms)
    distances = (1 - (cosines if signed else cosines.abs())).clamp_min(0).double().fill_diagonal_(0).numpy()
    tree = linkage(squareform(distances, checks=False), "average")
    return torch.from_numpy(fcluster(tree, n_clusters, "maxclust").astype(np.int64) - 1)


def _cosines(
    atoms: Float[Tensor, "atom d_model"], centres: Float[Tensor, "cluster d_model"], signed: bool
) -> Float[Tensor, "atom cluster"]:
    cosines = atoms.float() @ centres.T
    return cosines if signed else cosines.abs()


def _first_centres(
    atoms: Float[Tensor, "atom d_model"], n_clusters: int, signed: bool, generator: torch.Generator
) -> Float[Tensor, "cluster d_model"]:
    chosen = [int(torch.randint(len(atoms), (1,), generator=generator))]
    distance = torch.full((len(atoms),), float("inf"))
    while len(chosen) < n_clusters:
        newest = atoms[chosen[-1] : chosen[-1] + 1].float()
        close = torch.cat([_cosines(block, newest, signed)[:, 0] for _, block in blocks(atoms)])
        distance = torch.minimum(distance, (1 - close).clamp_min(0))
        distance[chosen] = 0
        # Where every atom that is left equals a centre, any of them will do.
        weights = distance if bool(distance.sum() > 0) else torch.ones_like(distance)
        cumulative = weights.double().cumsum(0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64) * cumulative[-1]
        chosen.append(min(int(torch.searchsorted(cumulative, drawn, right=True)), len(atoms) - 1))
    return atoms[chosen].float()


def _assign(
    atoms: Float[Tensor, "atom d_model"], centres: Float[Tensor, "cluster d_model"], signed: bool
) -> tuple[Int[Tensor, " atom"], Float[Tensor, " atom"]]:
    found = [_cosines(block, centres, signed).max(1) for _, block in blocks(atoms)]
    return torch.cat([each.indices for each in found]), torch.cat([each.values for each in found])


def _settle(
    atoms: Float[Tensor, "atom d_model"], centres: Float[Tensor, "cluster d_model"], signed: bool, most_steps: int
) -> tuple[Int[Tensor, " atom"], Float[Tensor, " atom"]]:
    """Labels where neither step changes anything, or those after ``most_steps``, and each atom's closeness."""
    labels, close = _fill_empty(*_assign(atoms, centres, signed), centres, atoms)
    for _ in range(most_steps):
        # A few power steps are enough while atoms still move; only a standstill must be checked at the true centres.
        for steps in (2, _POWER_STEPS):
            centres = _moved(atoms, labels, centres, signed, steps)
            moved, close = _fill_empty(*_assign(atoms, centres, signed), centres, atoms)
            if signed or not torch.equal(moved, labels):
                break
        if torch.equal(moved, labels):
            break
        labels = moved
    return labels, close


def _moved(
    atoms: Float[Tensor, "atom d_model"],
    labels: Int[Tensor, " atom"],
    centres: Float[Tensor, "cluster d_model"],
    signed: bool,
    steps: int = 1,
) -> Float[Tensor, "cluster d_model"]:
    """The best centres of the labels; where signs do not count, so many power steps towards them."""
    for _ in range(1 if signed else steps):
        sums = torch.zeros_like(centres)
        for begin, block in blocks(atoms):
            own = labels[begin : begin + len(block)]
            weighted = block if signed else block * (block * centres[own]).sum(1, keepdim=True)
            sums.index_add_(0, own, weighted)
        centres = torch.nn.functional.normalize(sums, dim=1)
    return centres


def _fill_empty(
    labels: Int[Tensor, " atom"],
    close: Float[Tensor, " atom"],
    centres: Float[Tensor, "cluster d_model"],
    atoms: Float[Tensor, "atom d_model"],
) -> tuple[Int[Tensor, " atom"], Float[Tensor, " atom"]]:
    """Give every cluster without atoms the one that is farthest from its centre, and make that the centre."""
    counts = torch.bincount(labels, minlength=len(centres))
    if bool((counts > 0).all()):
        return labels, close
    labels, close = labels.clone(), close.clone()
    farthest = iter(close.argsort(stable=True).tolist())
    for empty in (counts == 0).nonzero().flatten().tolist():
        row = next(row for row in farthest if counts[labels[row]] > 1)
        counts[labels[row]] -= 1
        counts[empty] = 1
        labels[row], close[row], centres[empty] = empty, 1.0, atoms[row].float()
    return labels, close


def _largest_first(labels: Int[Tensor, " atom"]) -> Int[Tensor, " atom"]:
    """The same clusters, numbered by size, then by their first atom."""
    first: dict[int, int] = {}
    for row, label in enumerate(labels.tolist()):
        first.setdefault(label, row)
    counts = torch.bincount(labels)
    order = sorted(first, key=lambda label: (-int(counts[label]), first[label]))
    renumbered = torch.full((len(counts),), -1, dtype=torch.int64)
    renumbered[order] = torch.arange(len(order))
    return renumbered[labels]
