"""Activity differences that go from a small aligned model to a larger base: found in the one, fitted in the other.

RAHF (arXiv 2312.15997) reads v in the model that it aligns. ConTrans (arXiv 2405.13578) carries one vector from model
to model by the linear part of an affine map. Here every single v goes that way, to the token that stands for the same
characters::

    Y ~ X A_l^T + b_l    on generic texts        v'_l(t) = A_l v_s(l)(p(t)) on answers

with s(l) the source's layer and p(t) the source's token. An adapter is then fitted to v' in the target alone.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import HookPointError, MapError, RahfError
from contrans_lens.maps import AffineMap
from contrans_lens.models import Fingerprint, HookedModel, check_hook_points
from contrans_lens.models.plain import PlainModel, check_residual_points, place_of
from contrans_lens.rahf.alignment import AlignedAnswers, Spelling, align_answers, known_fingerprint
from contrans_lens.rahf.contrasts import ContrastTokens, DualContrast
from contrans_lens.rahf.controls import DerivedDifferences
from contrans_lens.rahf.protocol import Differences, row_chunks
from contrans_lens.rahf.reading import ContrastReader, token_starts
from contrans_lens.rahf.summaries import SummarisedDifferences, reading_tokens
from contrans_lens.rahf.tokens import Answers
from contrans_lens.residuals.reader import automatic_budget
from contrans_lens.texts import PreferenceSet


class CarriedDifferences(SummarisedDifferences):
    """Differences of a source model in the residual stream of a target; made by :func:`carry_differences`.

    Nothing is kept but token ids: the source's differences are asked for and mapped when these are.
    """

    def __init__(
        self,
        source: Differences,
        maps: Sequence[AffineMap],
        aligned: AlignedAnswers,
        groups: tuple[str, ...],
        target: HookedModel | None,
        fingerprint: Fingerprint | None,
    ) -> None:
        self.source = source
        self.maps = tuple(maps)
        self.aligned = aligned
        self.hook_points = tuple(each.target_hook_point for each in maps)
        self.where = source.where
        self.d_model = maps[0].d_target
        self.fingerprint = fingerprint
        self.rows = aligned.rows
        self.groups = groups
        self._layers = [source.hook_points.index(each.source_hook_point) for each in maps]
        self._partners = aligned.partners.split([len(row.answer) for row in aligned.rows])
        self._target = target
        self._norms: Float[Tensor, " layer"] | None = None

    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        """See :meth:`SummarisedDifferences.of`."""
        self.check_rows(rows)
        if not rows:
            return torch.zeros(0, len(self.hook_points), self.d_model)
        starts = token_starts([self.source.rows[row] for row in rows]).tolist()
        index = torch.cat([start + self._partners[row] for start, row in zip(starts, rows, strict=False)])
        values = self.source.of(rows)[index]
        moved = [each.concept(values[:, layer]) for each, layer in zip(self.maps, self._layers, strict=True)]
        return torch.stack(moved, dim=1)

    @property
    def reading_tokens(self) -> tuple[int, ...]:
        """Those of the source."""
        return reading_tokens(self.source)

    def residual_norms(self) -> Float[Tensor, " layer"] | None:
        """Mean norm of the target's residual stream at the positions read; None where a plain model was given.

        Measured when it is first asked for.
        """
        if self._norms is None and self._target is not None:
            rows, budget = self.rows, automatic_budget(self._target, None)
            contrast, tokens = DualContrast(self._target, self._target), ContrastTokens(rows, rows, rows, 0, 0)
            reader = ContrastReader(contrast, tokens, self.hook_points, self.where, budget, rows_per_pair=1)
            self._norms = reader.mean_norms(self._target)
        return self._norms

    def with_source(self, source: Differences) -> "CarriedDifferences":
        """Other differences of the same answers carried in the same way, such as a control made in the source.

        Args:
            source: differences with the same rows, read at the same positions.

        Raises:
            RahfError: the rows or the positions are others.
            HookPointError: a map's source hook point is not among them.
            MapError: their width is not that of the maps.
        """
        if source.rows != self.source.rows or source.where != self.where:
            raise RahfError("these differences were read on other rows or at other positions; carry them anew.")
        return self._with(source, self.maps)

    def with_maps(self, maps: Sequence[AffineMap]) -> "CarriedDifferences":
        """The same differences carried by other maps, such as those of shuffled pairs.

        Args:
            maps: to the same hook points of the target, in the same order.

        Raises:
            MapError: they lead to other hook points, or have other widths.
            HookPointError: a source hook point was not read.
        """
        if tuple(each.target_hook_point for each in maps) != self.hook_points:
            raise MapError(f"the maps lead to other hook points; {', '.join(self.hook_points)} were expected.")
        return self._with(self.source, maps)

    def _with(self, source: Differences, maps: Sequence[AffineMap]) -> "CarriedDifferences":
        _check_maps(source, maps, self.d_model, self.fingerprint)
        return CarriedDifferences(source, maps, self.aligned, self.groups, self._target, self.fingerprint)


class RescaledDifferences(DerivedDifferences):
    """``c_l v_l(t)`` with one number for each layer; made by :func:`match_norms`."""

    def __init__(self, source: SummarisedDifferences, factors: Float[Tensor, " layer"]) -> None:
        super().__init__(source)
        self.factors = factors

    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        """See :meth:`SummarisedDifferences.of`."""
        values = self.source.of(rows)
        return values * self.factors.to(values)[:, None]


def carry_differences(
    differences: Differences,
    preferences: PreferenceSet,
    maps: Sequence[AffineMap],
    *,
    source: HookedModel | PlainModel,
    target: HookedModel | PlainModel,
    answers: Answers = "chosen",
    max_length: int | None = None,
    max_answer_tokens: int | None = None,
) -> CarriedDifferences:
    """Carry a source's activity differences to a target, where an adapter can be fitted to them.

    A difference moves by the linear part of a map alone: ``v'_l(t) = A_l v_s(l)(p(t))``. Which token p(t) the source
    gives for a token of the target is told by :func:`~contrans_lens.rahf.alignment.match_tokens`. Tokens of the target
    whose partner the source has not read, because its answer was cut, are left out at the end of the answer
    (``aligned.unmatched`` counts them).

    Maps change norms (a ridge shrinks); see :func:`match_norms`, because the meaning of ``alpha`` depends on it.

    Args:
        differences: of the source.
        preferences: the pairs that they were read on, in the same order.
        maps: one for each hook point of the target, as :func:`~contrans_lens.rahf.transfer_maps.fit_maps` gives them;
            each names the two hook points that it is for.
        source: the model that the differences were read in; its tokenizer is used.
        target: the base model. A hooked one allows the fingerprint to be checked and residual norms to be measured.
        answers: which answers of a pair the differences were read on.
        max_length: most tokens in a row of the target; None: its context.
        max_answer_tokens: most tokens of an answer in the target; None: what fits.

    Raises:
        MapError: there are no maps, one names no hook points, two are for one hook point, or widths do not fit.
        HookPointError: the source's was not read, or the target has none of that name.
        RahfError: the differences were read on other preferences or answers, or no token of an answer has a partner.
        FingerprintMismatchError: a map was fitted on other models.
    """
    spelling = Spelling.of(target)
    own = known_fingerprint(target)
    _check_maps(differences, maps, spelling.d_model, own)
    names = [each.target_hook_point for each in maps]
    for name in names:
        place_of(name)
    if isinstance(target, PlainModel):
        check_residual_points(target.model, names)
    else:
        check_hook_points(target, names)
    aligned = align_answers(
        preferences,
        differences.rows,
        Spelling.of(source),
        spelling,
        where=differences.where,
        answers=answers,
        max_length=max_length,
        max_answer_tokens=max_answer_tokens,
    )
    groups = tuple(pair.unit for pair in preferences for _ in range(2 if answers == "both" else 1))
    hooked = None if isinstance(target, PlainModel) else target
    return CarriedDifferences(differences, maps, aligned, groups, hooked, own or maps[0].target_fingerprint)


def mean_norms(differences: Differences) -> Float[Tensor, " layer"]:
    """Mean ``||v_l(t)||`` over all tokens of all answers, by layer, in float64."""
    total = torch.zeros(len(differences.hook_points), dtype=torch.float64)
    for rows in row_chunks(differences.rows):
        total += differences.of(rows).double().norm(dim=2).sum(0)
    return total / sum(len(row.answer) for row in differences.rows)


def match_norms(differences: SummarisedDifferences, to: Differences | Float[Tensor, " layer"]) -> RescaledDifferences:
    """Scale differences layer by layer so that the mean ``||v||`` of each is a given one.

    ::

        c_l = given_l / mean_t ||v_l(t)||        v_l(t) -> c_l v_l(t)

    Then ``alpha`` has the same unit for what is compared: carried differences, the target's own, and controls.

    Args:
        differences: what is scaled; it is gone through once, here.
        to: other differences at the same hook points and positions (of any rows), whose mean norms are taken; or the
            norms, such as ``0.3 * carried.residual_norms()``.

    Raises:
        RahfError: they were read at other positions, a norm that is wanted is no number from 0 up, there are not as
            many as layers, or a layer of the differences is zero.
        HookPointError: the other differences lack a hook point.
    """
    wanted = to if isinstance(to, Tensor) else _norms_at(to, differences)
    found = mean_norms(differences)
    if wanted.shape != found.shape or not (wanted.isfinite() & (wanted >= 0)).all():
        raise RahfError(
            f"norms {wanted.tolist()} were given for {len(found)} layers; a number from 0 up for each was expected."
        )
    if not (found > 0).all():
        empty = [name for name, norm in zip(differences.hook_points, found.tolist(), strict=True) if norm == 0]
        raise RahfError(f"the differences are zero at {', '.join(empty)}, and cannot be brought to any norm there.")
    return RescaledDifferences(differences, wanted.double() / found)


def _norms_at(other: Differences, differences: Differences) -> Float[Tensor, " layer"]:
    if other.where != differences.where:
        raise RahfError(
            f"the differences were read at where={differences.where!r}, those that give the norms at {other.where!r}; "
            "norms of the same positions were expected."
        )
    missing = [name for name in differences.hook_points if name not in other.hook_points]
    if missing:
        raise HookPointError(f"the differences that give the norms were not read at {', '.join(missing)}.")
    return mean_norms(other)[[other.hook_points.index(name) for name in differences.hook_points]]


def _check_maps(differences: Differences, maps: Sequence[AffineMap], d_target: int, target: Fingerprint | None) -> None:
    """Check maps against what they carry and where it goes."""
    names = [each.target_hook_point for each in maps]
    if not maps or not all(names) or len(set(names)) < len(names):
        raise MapError(f"maps to {names} were given; at least one, each to another named hook point, was expected.")
    for each in maps:
        if each.source_hook_point not in differences.hook_points:
            raise HookPointError(
                f"the map to {each.target_hook_point} comes from {each.source_hook_point!r}; the differences were read "
                f"at {', '.join(differences.hook_points)}."
            )
        if (each.d_source, each.d_target) != (differences.d_model, d_target):
            raise MapError(
                f"the map to {each.target_hook_point} is {each.d_source} -> {each.d_target}; the differences and the "
                f"target need {differences.d_model} -> {d_target}."
            )
        for side, recorded, model in (
            ("source", each.source_fingerprint, differences.fingerprint),
            ("target", each.target_fingerprint, target),
        ):
            if recorded is not None and model is not None:
                recorded.require(model, f"the {side} of the map to {each.target_hook_point}")
