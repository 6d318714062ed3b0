"""Other labels for the same states: permuted ones for the null, random ones per group for control tasks."""

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from contrans_lens.layers.probes.folds import class_counts


def permuted_labels(
    labels: Bool[Tensor, " example"],
    codes: Int[Tensor, " example"],
    folds: Int[Tensor, " example"],
    n_permutations: int,
    seed: int = 0,
) -> Bool[Tensor, "example permutation"]:
    """Labels exchanged as the null hypothesis allows: ``[example, permutation]``.

    What is exchangeable if the states know nothing of the concept:

    * within a group that holds both classes (a contrast pair), its members' labels;
    * between groups of one class each, their labels as a whole, among groups of equal size in the same fold.

    Keeping to one fold keeps every fold's class counts. Folds are stratified by the labels, so labels that
    moved between folds would be tested on folds that do not fit them, and cross-validated scores fall when test
    and training part differ in balance: the null would lie too low and p-values would be too small. Under
    :func:`grouped_folds` all labelings reached here are equally likely given the folds, so the test is exact.

    Args:
        labels: the true labels.
        codes: group number of every example.
        folds: fold of every example; no group straddles.
        n_permutations: how many labelings.
        seed: of the permutations.
    """
    generator = torch.Generator().manual_seed(seed)
    permuted = labels[:, None].repeat(1, n_permutations)
    for units in _exchangeable(labels, codes, folds):
        rows, unit, member = units.shape
        keys = torch.rand(n_permutations, rows, unit, generator=generator).argsort(-1)
        drawn = labels[units[..., 0]].expand(n_permutations, rows, unit).gather(2, keys)
        permuted[units.flatten()] = (
            drawn[..., None].expand(n_permutations, rows, unit, member).flatten(1).T.contiguous()
        )
    return permuted


def log2_labelings(
    labels: Bool[Tensor, " example"], codes: Int[Tensor, " example"], folds: Int[Tensor, " example"]
) -> float:
    """Binary logarithm of how many different labelings :func:`permuted_labels` can reach."""
    total = 0.0
    for units in _exchangeable(labels, codes, folds):
        positives = labels[units[..., 0]].sum(1).tolist()
        n = units.shape[1]
        total += sum(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in positives)
    return total / math.log(2)


def _exchangeable(
    labels: Bool[Tensor, " example"], codes: Int[Tensor, " example"], folds: Int[Tensor, " example"]
) -> list[Int[Tensor, "_ _ _"]]:
    """Examples by stratum and unit: units of a stratum exchange labels. Strata of one shape are stacked."""
    counts = class_counts(labels, codes, int(codes.max()) + 1)
    order = codes.argsort(stable=True).split(counts.sum(1).tolist())
    strata: dict[tuple[int, ...], list[Tensor]] = {}
    for group, members in enumerate(order):
        if counts[group].min() > 0:  # a mixed group is a stratum of its own, every member a unit
            strata[(-1, group)] = list(members[:, None])
        else:
            strata.setdefault((int(folds[members[0]]), len(members)), []).append(members)
    shapes: dict[tuple[int, ...], list[Tensor]] = {}
    for units in strata.values():
        stacked = torch.stack(units)
        shapes.setdefault(tuple(stacked.shape), []).append(stacked)
    return [torch.stack(rows) for rows in shapes.values()]


def control_labels(
    labels: Bool[Tensor, " example"], codes: Int[Tensor, " example"], n_controls: int, seed: int = 0
) -> Bool[Tensor, "example control"]:
    """A random label for every group, shared by its members; the share of positives is kept: ``[example, control]``.

    The control task of Hewitt and Liang (2019) with the group in the role of the word type. Groups are put in
    random order and are positive until the number of positive examples is as near the true one as it gets, with
    at least one group on each side.

    Args:
        labels: the true labels, of which only the number of positives is used.
        codes: group number of every example.
        n_controls: how many labelings.
        seed: of the random orders.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.bincount(codes)
    wanted = int(labels.sum())
    keys = torch.rand(n_controls, len(sizes), generator=generator).argsort(1)
    reached = sizes[keys].cumsum(1)
    last = (reached[:, :-1] - wanted).abs().argmin(1)
    positive = torch.zeros(n_controls, len(sizes), dtype=torch.bool)
    positive.scatter_(1, keys, torch.arange(len(sizes)) <= last[:, None])
    return positive[:, codes].T.contiguous()
