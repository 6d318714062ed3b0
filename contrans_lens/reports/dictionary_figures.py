"""Figures of a concept dictionary: its map in the plane, and the cosines of its atoms."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.pace.clustering import cluster
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.layout import Layout, layout
from contrans_lens.pace.retrieval import similarity
from contrans_lens.reports.tradeoff_panels import GREY, PALETTE

_MARKERS = "osD^v"
_MOST_GROUPS = len(PALETTE) * len(_MARKERS)
_APART = (0.11, 0.03)  # of the map's width and height: a name nearer than this to another is left out
_MOST_TICKS = 40  # groups named beside a table of cosines


@dataclass(frozen=True)
class _Group:
    """Concepts that share a colour and a marker."""

    name: str
    rows: list[int]
    colour: str
    marker: str


def dictionary_map_figure(
    dictionary: ConceptDictionary,
    hook_point: str,
    *,
    by: str = "topic",
    method: str = "pca",
    n_clusters: int = 8,
    labels: int = 24,
    seed: int = 0,
) -> Figure:
    """A map of the concepts in the plane, coloured by group; its title says how much of the variance it shows.

    Args:
        dictionary: the concepts.
        hook_point: where the atoms were read.
        by: ``"topic"``, or ``"cluster"``, which finds groups itself.
        method: of :func:`contrans_lens.pace.layout.layout`.
        n_clusters: number of clusters.
        labels: at most so many concepts are named, those nearest to the middle of their group first.
        seed: of the clusters.

    Raises:
        PaceError: no such grouping or method, or fewer than two concepts.
        HookPointError: the dictionary has no atoms there.
    """
    if by not in ("topic", "cluster"):
        raise PaceError(f"a map is coloured by 'topic' or 'cluster', not by {by!r}.")
    places = layout(dictionary, hook_point, method)
    if by == "topic":
        names = list(dictionary.topics)
    else:
        found = cluster(dictionary, hook_point, min(n_clusters, dictionary.n_atoms), centred=True, seed=seed)
        names = [found.members(label)[0] for label in found.labels.tolist()]
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    dictionary_map_panel(figure.subplots(), places, names, labels=labels)
    legend = figure.legend(loc="outside right upper", fontsize=7, frameon=False, title=by, title_fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def atom_similarity_figure(dictionary: ConceptDictionary, hook_point: str, *, signed: bool = True) -> Figure:
    """Cosines of all pairs of atoms as a heat map, the concepts of a topic beside each other.

    Args:
        dictionary: the concepts.
        hook_point: where the atoms were read.
        signed: cosines; otherwise ``|cos|``.

    Raises:
        HookPointError: the dictionary has no atoms there.
        PaceError: there are too many atoms for all pairs.
    """
    figure = Figure(figsize=(7.6, 6.6), layout="constrained")
    atom_similarity_panel(figure.subplots(), dictionary, hook_point, signed=signed)
    return figure


def dictionary_map_panel(axis: Axes, places: Layout, groups: Sequence[str], *, labels: int = 24) -> None:
    """Draw the concepts at their places, a colour and marker for each group, and name some."""
    made = _groups(groups)
    for group in made:
        points = places.coordinates[group.rows]
        axis.plot(
            points[:, 0].tolist(),
            points[:, 1].tolist(),
            ls="",
            marker=group.marker,
            color=group.colour,
            ms=5,
            alpha=0.8,
            label=group.name,
        )
    for row in _named(places.coordinates, made, labels):
        x, y = places.coordinates[row].tolist()
        axis.annotate(
            places.names[row], (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7, parse_math=False
        )
    axis.set_xlabel(f"axis 1 ({places.shares[0]:.0%})", fontsize=8)
    axis.set_ylabel(f"axis 2 ({places.shares[1]:.0%})", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.set_title(
        f"{places.hook_point}: {len(places.names)} concepts, {places.method}, {places.share:.0%} of the variance",
        fontsize=10,
    )


def atom_similarity_panel(axis: Axes, dictionary: ConceptDictionary, hook_point: str, *, signed: bool = True) -> None:
    """Draw the cosines, ordered by topic in the order in which topics first occur."""
    cosines = similarity(dictionary, hook_point)
    topics = list(dict.fromkeys(dictionary.topics))
    order = sorted(range(dictionary.n_atoms), key=lambda row: topics.index(dictionary.topics[row]))
    table = cosines[order][:, order]
    shown = table if signed else table.abs()
    image = axis.imshow(
        shown.tolist(), cmap="RdBu_r" if signed else "viridis", vmin=-1 if signed else 0, vmax=1, interpolation="none"
    )
    counts = [dictionary.topics.count(topic) for topic in topics]
    ends = torch.tensor(counts).cumsum(0).tolist()
    if len(topics) > 1:
        for end in ends[:-1]:
            axis.axhline(end - 0.5, color="black", lw=0.3)
            axis.axvline(end - 0.5, color="black", lw=0.3)
    middles = [end - count / 2 - 0.5 for end, count in zip(ends, counts, strict=True)]
    if len(topics) <= _MOST_TICKS:
        axis.set_yticks(middles, [topic or "(no topic)" for topic in topics], fontsize=7, parse_math=False)
    axis.set_xticks([])
    axis.set_title(f"{hook_point}: {'cosine' if signed else '|cosine|'} of {dictionary.n_atoms} atoms", fontsize=10)
    axis.figure.colorbar(image, ax=axis, shrink=0.85).ax.tick_params(labelsize=7)


def _groups(names: Sequence[str]) -> list[_Group]:
    """Groups with their looks, the largest first; those without a name and those beyond the looks there are in grey."""
    members: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        members.setdefault(name, []).append(row)
    rest = members.pop("", [])
    order = sorted(members, key=lambda name: -len(members[name]))
    made = [
        _Group(name, members[name], PALETTE[place % len(PALETTE)], _MARKERS[place // len(PALETTE)])
        for place, name in enumerate(order[:_MOST_GROUPS])
    ]
    rest = sorted([*rest, *(row for name in order[_MOST_GROUPS:] for row in members[name])])
    return [*made, _Group("other", rest, GREY, ".")] if rest else made


def _named(coordinates: Float[Tensor, "atom 2"], groups: Sequence[_Group], most: int) -> list[int]:
    """Rows to name: of each group in turn the one nearest to its middle, unless it would cover another name."""
    span = (coordinates.amax(0) - coordinates.amin(0)).clamp_min(1e-12)
    scaled, apart = coordinates / span, torch.tensor(_APART)
    turns = []
    for group in groups:
        middle = scaled[group.rows].median(0).values
        distance = (scaled[group.rows] - middle).norm(dim=1)
        order = distance.argsort(stable=True)[:most].tolist()
        turns += [(turn, group.rows[place]) for turn, place in enumerate(order)]
    chosen: list[int] = []
    for _, row in sorted(turns, key=lambda each: each[0]):
        if len(chosen) >= most:
            break
        if all(bool(((scaled[row] - scaled[other]).abs() > apart).any()) for other in chosen):
            chosen.append(row)
    return chosen
