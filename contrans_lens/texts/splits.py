"""Splitting by item and by group: whatever shares a template, an entity or its very words stays together."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from contrans_lens.errors import TextError
from contrans_lens.texts.items import PARTS, EvaluationItem, same_text

_POSITIVE, _NEGATIVE, _ITEM = range(3)


@runtime_checkable
class Splittable(Protocol):
    """The fields of a contrast set that decide a split."""

    @property
    def name(self) -> str:
        """The concept."""
        ...

    @property
    def positives(self) -> tuple[str, ...]:
        """Texts that show it."""
        ...

    @property
    def negatives(self) -> tuple[str, ...]:
        """Texts that do not."""
        ...

    @property
    def paired(self) -> bool:
        """Whether texts of equal index belong together."""
        ...

    @property
    def positive_groups(self) -> tuple[str, ...]:
        """One group a positive, or none."""
        ...

    @property
    def negative_groups(self) -> tuple[str, ...]:
        """One group a negative, or none."""
        ...

    @property
    def evaluation(self) -> tuple[EvaluationItem, ...]:
        """The items."""
        ...


@dataclass
class _Component:
    """Texts and items that must stay together."""

    counts: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Positives, negatives, items."""
    members: list[tuple[int, int]] = field(default_factory=list)
    """(kind, index) of each."""
    pinned: int | None = None
    """The part that an explicit split of an item asks for."""


class _UnionFind:
    """Disjoint sets over hashable keys."""

    def __init__(self) -> None:
        self._parent: dict[object, object] = {}

    def find(self, key: object) -> object:
        self._parent.setdefault(key, key)
        while self._parent[key] != key:
            self._parent[key] = self._parent[self._parent[key]]
            key = self._parent[key]
        return key

    def join(self, one: object, other: object) -> None:
        self._parent[self.find(one)] = self.find(other)


class _Parts:
    """The three parts while they are being filled."""

    def __init__(self, components: list[_Component], targets: list[list[float]]) -> None:
        self.where: dict[int, int] = {}
        self._components = components
        self._targets = targets
        self._filled = [[0, 0, 0] for _ in PARTS]

    def open(self) -> list[int]:
        """Components that have no part yet."""
        return [index for index in range(len(self._components)) if index not in self.where]

    def place(self, index: int, part: int) -> None:
        """Put a component into a part."""
        self.where[index] = part
        for kind in range(3):
            self._filled[part][kind] += self._components[index].counts[kind]

    def give_both_sides(self, part: int, name: str) -> None:
        """See that a part has a positive and a negative, before shares are looked at."""
        while lacking := [kind for kind in (_POSITIVE, _NEGATIVE) if not self._filled[part][kind]]:

            def supplied(index: int, lacking: list[int] = lacking) -> int:
                return sum(self._components[index].counts[kind] > 0 for kind in lacking)

            useful = [index for index in self.open() if supplied(index)]
            if not useful:
                side = "positive" if lacking[0] == _POSITIVE else "negative"
                raise TextError(
                    f"{name!r} cannot be split: the {PARTS[part]} part would have no {side} texts. What "
                    "shares a "
                    "group, a pair, its words or a pinned item stays together, which leaves "
                    f"{len(self._components)} "
                    "component(s); each part needs both sides. Add groups or texts."
                )
            self.place(max(useful, key=supplied), part)

    def neediest(self, component: _Component) -> int:
        """The part that is furthest below its share of what the component brings; on a tie the earlier."""

        def need(part: int) -> float:
            total = 0.0
            for kind, count in enumerate(component.counts):
                if count:
                    wanted = sum(row[kind] for row in self._targets)
                    total += (self._targets[part][kind] - self._filled[part][kind]) / wanted
            return total

        return max(range(3), key=need)


def assign_parts(
    contrast: Splittable,
    fractions: tuple[float, float, float],
    seed: int,
    item_fractions: tuple[float, float, float],
) -> tuple[list[int], list[int], list[int]]:
    """The part (0 train, 1 validation, 2 test) of each positive, each negative and each evaluation item.

    Components (what shares a group, a pair or a text) are visited in an order that the seed decides. First
    every part gets both sides; then each component goes where it is missed most, measured against the
    fractions.

    Raises:
        TextError: bad fractions, contradicting explicit splits, or a part that would lack a side.
    """
    _check_fractions("fractions", fractions, above_zero=True)
    _check_fractions("item_fractions", item_fractions, above_zero=False)
    components = _components(contrast)
    random.Random(seed).shuffle(components)
    totals = [len(contrast.positives), len(contrast.negatives), len(contrast.evaluation)]
    parts = _Parts(components, _targets(fractions, item_fractions, components, totals))
    for index, component in enumerate(components):
        if component.pinned is not None:
            parts.place(index, component.pinned)
    for part in range(3):
        parts.give_both_sides(part, contrast.name)
    for index in parts.open():
        parts.place(index, parts.neediest(components[index]))
    where = [[0] * total for total in totals]
    for index, component in enumerate(components):
        for kind, member in component.members:
            where[kind][member] = parts.where[index]
    return where[_POSITIVE], where[_NEGATIVE], where[_ITEM]


def _check_fractions(name: str, fractions: Sequence[float], above_zero: bool) -> None:
    """Refuse shares that cannot be met."""
    low = min(fractions)
    if len(fractions) != 3 or low < 0 or sum(fractions) <= 0 or (above_zero and low == 0):
        wish = "three shares above zero" if above_zero else "three shares, none below zero, not all zero"
        raise TextError(f"{name} is {tuple(fractions)}; expected {wish}, e.g. (0.6, 0.2, 0.2).")


def _components(contrast: Splittable) -> list[_Component]:
    """Join what shares a group, a pair or a text, in order of first appearance."""
    sets = _UnionFind()
    nodes: list[tuple[int, int]] = []

    def add(kind: int, index: int, text: str, group: str) -> None:
        nodes.append((kind, index))
        sets.join((kind, index), ("text", same_text(text)))
        if group:
            sets.join((kind, index), ("group", group))

    for kind, texts, groups in (
        (_POSITIVE, contrast.positives, contrast.positive_groups),
        (_NEGATIVE, contrast.negatives, contrast.negative_groups),
    ):
        for index, text in enumerate(texts):
            add(kind, index, text, groups[index] if groups else "")
            if contrast.paired:
                sets.join((kind, index), ("pair", index))
    for index, item in enumerate(contrast.evaluation):
        add(_ITEM, index, item.prompt, item.group)

    components: dict[object, _Component] = {}
    for kind, index in nodes:
        component = components.setdefault(sets.find((kind, index)), _Component())
        component.members.append((kind, index))
        component.counts[kind] += 1
        if kind == _ITEM:
            _pin(component, contrast.evaluation[index], contrast.name)
    return list(components.values())


def _pin(component: _Component, item: EvaluationItem, name: str) -> None:
    """Take over an item's explicit split; two different ones in a component contradict the groups."""
    if item.split is None:
        return
    part = PARTS.index(item.split)
    if component.pinned not in (None, part):
        raise TextError(
            f"group {item.group!r} of {name!r} would straddle {PARTS[component.pinned or 0]} and "
            f"{item.split}: its "
            "evaluation items name different splits. Give them one split, or different groups and prompts."
        )
    component.pinned = part


def _targets(
    fractions: Sequence[float],
    item_fractions: Sequence[float],
    components: list[_Component],
    totals: list[int],
) -> list[list[float]]:
    """How many positives, negatives and items each part should get: ``[part][kind]``."""
    tied = sum(c.counts[_ITEM] for c in components if c.counts[_POSITIVE] or c.counts[_NEGATIVE])
    free = totals[_ITEM] - tied
    targets = []
    for share, item_share in zip(fractions, item_fractions, strict=True):
        share, item_share = share / sum(fractions), item_share / sum(item_fractions)
        targets.append([share * totals[_POSITIVE], share * totals[_NEGATIVE], share * tied + item_share * free])
    return targets
