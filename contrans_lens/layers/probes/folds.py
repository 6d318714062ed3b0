"""Folds for probes: what shares a template or an entity is tested together, or, for controls, never together.

Two kinds of folds are needed. The concept is tested on *grouped* folds, so that a probe cannot score by
recognising a template it was trained on. A control task asks the opposite, how much a probe can memorise, and
so must meet every group on both sides: *straddling* folds deal the members of a group to different folds.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from contrans_lens.errors import LayerError


def group_codes(groups: Sequence[str] | None, n_examples: int) -> Int[Tensor, " example"]:
    """Number of every example's group in order of first appearance.

    An empty name, or None for all, makes an example its own group.

    Raises:
        LayerError: not one name per example.
    """
    if groups is None:
        return torch.arange(n_examples)
    if len(groups) != n_examples:
        raise LayerError(f"{n_examples} examples need {n_examples} group names; got {len(groups)}.")
    seen: dict[str | int, int] = {}
    return torch.tensor([seen.setdefault(name or item, len(seen)) for item, name in enumerate(groups)])


def grouped_folds(
    labels: Bool[Tensor, " example"],
    groups: Sequence[str] | None = None,
    n_folds: int = 5,
    seed: int = 0,
) -> Int[Tensor, " example"]:
    """The fold of every example; a group never straddles two folds, and folds are alike in class and size.

    Groups are visited from large to small, in random order among equals, and each goes to the fold that so
    far has least of what the group brings: the fold ``f`` with the smallest ``sum_c n_fc g_c / N_c^2`` over
    the classes ``c``. The choice looks at counts only, never at which group it is, so that given the labels
    every assignment with the same counts is equally likely. That is what makes permuting labels within folds
    exact (:func:`permuted_labels`).

    Args:
        labels: whether an example shows the concept, ``[example]``.
        groups: group (template, entity, pair) of every example; an empty name, or None for all, makes an
            example its own group.
        n_folds: how many folds.
        seed: of the random order.

    Raises:
        LayerError: fewer than two folds, fewer groups than folds, a single class, or a class that occurs in one
            fold only, so that a training part would lack it.
    """
    labels = labels.cpu()
    codes = group_codes(groups, len(labels))
    check_classes(labels)
    n_groups = int(codes.max()) + 1
    if n_folds < 2 or n_groups < n_folds:
        raise LayerError(
            f"{n_folds} folds were asked for and there are {n_groups} groups; at least 2 folds and one group a fold "
            "are needed. Ask for fewer folds, or give more groups."
        )
    counts = class_counts(labels, codes, n_groups).tolist()
    order = torch.randperm(n_groups, generator=torch.Generator().manual_seed(seed)).tolist()
    order.sort(key=lambda group: -sum(counts[group]))
    totals = [sum(row[side] for row in counts) for side in range(2)]
    filled = [[0, 0] for _ in range(n_folds)]
    fold_of_group = [0] * n_groups
    for group in order:
        own = counts[group]

        def need(fold: int, own: list[int] = own) -> tuple[float, int, int]:
            overlap = sum(filled[fold][side] * own[side] / totals[side] ** 2 for side in range(2))
            return overlap, sum(filled[fold]), fold

        fold = min(range(n_folds), key=need)
        fold_of_group[group] = fold
        filled[fold] = [filled[fold][side] + own[side] for side in range(2)]
    folds = torch.tensor(fold_of_group)[codes]
    check_training_parts(labels, folds, removed=1)
    return folds


def straddling_folds(codes: Int[Tensor, " example"], n_folds: int, seed: int) -> Int[Tensor, " example"]:
    """Folds of equal size that part the members of every group: the split of a control task.

    Groups and their members are put in random order and dealt to the folds in turn, so the members of a group
    of ``m`` are in ``min(m, n_folds)`` different folds.
    """
    generator = torch.Generator().manual_seed(seed)
    n_groups = int(codes.max()) + 1
    group_key = torch.randperm(n_groups, generator=generator)[codes]
    members = torch.randperm(len(codes), generator=generator)
    dealt = members[group_key[members].argsort(stable=True)]
    folds = torch.empty_like(codes)
    folds[dealt] = torch.arange(len(codes)) % n_folds
    return folds


def fold_members(folds: Int[Tensor, " example"]) -> list[Int[Tensor, "_"]]:
    """The examples of every fold, ascending."""
    return [torch.nonzero(folds == fold).flatten() for fold in range(int(folds.max()) + 1)]


def fold_pairs(n_folds: int) -> Iterator[tuple[int, int]]:
    """Every pair of folds once: what is left out together serves either of them as the test fold."""
    return ((one, other) for one in range(n_folds) for other in range(one + 1, n_folds))


def others(removed: Int[Tensor, " removed"], n_examples: int) -> Int[Tensor, " kept"]:
    """The examples that are not removed, ascending."""
    kept = torch.ones(n_examples, dtype=torch.bool, device=removed.device)
    kept[removed] = False
    return torch.nonzero(kept).flatten()


def class_counts(
    labels: Bool[Tensor, " example"], codes: Int[Tensor, " example"], n_groups: int
) -> Int[Tensor, "group 2"]:
    """Negatives and positives of every group."""
    return torch.bincount(codes * 2 + labels.long(), minlength=2 * n_groups).view(n_groups, 2)


def check_classes(labels: Bool[Tensor, " example"]) -> None:
    """Raise where there is nothing to tell apart.

    Raises:
        LayerError: no example of one of the classes.
    """
    n_positive = int(labels.sum())
    if n_positive in (0, len(labels)):
        raise LayerError(
            f"a probe tells two classes apart; {n_positive} of {len(labels)} examples are positive. "
            "Give examples with and without the concept."
        )


def check_training_parts(labels: Bool[Tensor, " example"], folds: Int[Tensor, " example"], removed: int) -> None:
    """Raise where leaving out ``removed`` folds (1: testing, 2: also choosing a strength) can lose a class.

    Raises:
        LayerError: a class occurs in ``removed`` folds or fewer.
    """
    for value, name in ((True, "positive"), (False, "negative")):
        held = len(folds[labels == value].unique())
        if held <= removed:
            why = (
                "a training part" if removed == 1 else "the training part of an inner fold, which chooses the strength,"
            )
            raise LayerError(
                f"the {name} examples are in {held} fold(s), so {why} would have none; the class needs at least "
                f"{removed + 1} groups that different folds can hold. Give more groups of that class."
            )
