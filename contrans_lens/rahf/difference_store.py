"""Activity differences that are kept: in memory, or on disk and memory-mapped.

A folder holds two things, so that only what is asked for is read::

    NAME/
        manifest.json, tensors-*.safetensors    the rows, the base model, the contrast
        values/                                 v [token, layer, d_model]: a residual store, in shards
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.artifacts import Artifact, load_artifact, save_artifact
from contrans_lens.errors import ArtifactError, FingerprintMismatchError
from contrans_lens.models import Fingerprint
from contrans_lens.rahf.reading import prepare_rows, token_starts
from contrans_lens.rahf.summaries import SummarisedDifferences
from contrans_lens.rahf.tokens import AnswerRow, Where
from contrans_lens.residuals import EachToken, ResidualStore
from contrans_lens.residuals.positions import ragged_ranges
from contrans_lens.residuals.reader import BatchBudget
from contrans_lens.residuals.shards import Shard
from contrans_lens.residuals.writer import writing

KIND = "activity_differences"
VALUES = "values"
"""Folder of the values inside the artifact."""


@dataclass(frozen=True)
class Origin:
    """Where activity differences come from: all that is written down beside their values."""

    hook_points: tuple[str, ...]
    """Names of the layers."""
    where: Where
    """Which positions were read."""
    answers: str
    """Which answers of the pairs were read."""
    rows: tuple[AnswerRow, ...]
    """The answers under the plain prompt."""
    groups: tuple[str, ...]
    """The group of each row's pair."""
    preferences: str
    """Content hash of the pairs."""
    rows_read: str
    """Hash of the rows as the two runs read them."""
    contrast: Mapping[str, Any]
    """Method, instructions, and the fingerprints of the models that were read."""
    fingerprint: Fingerprint | None
    """The base model, where it was given."""
    residual_norms: Float[Tensor, " layer"] | None
    """Mean norm of the base model's residual stream at the same tokens."""
    cut_prompts: int
    """Rows whose prompt lost tokens on its left."""
    cut_answers: int
    """Rows whose answer lost tokens on its right."""

    def capture(self, dtype: torch.dtype) -> dict[str, Any]:
        """What the values depend on, as the residual store in which they are kept has it."""
        models: Mapping[str, Any] = self.contrast["models"]
        return {
            "fingerprint": next(iter(models.values())),
            "text_sha256": self.preferences,
            "n_texts": len(self.rows),
            "hook_points": list(self.hook_points),
            "positions": EachToken().to_dict(),
            "dtype": str(dtype).removeprefix("torch."),
            "difference": {
                "method": self.contrast["method"],
                "instructions": self.contrast["instructions"],
                "where": self.where,
                "answers": self.answers,
                "rows_sha256": self.rows_read,
            },
        }

    def save(self, folder: Path) -> None:
        """Write it beside the values.

        Raises:
            ArtifactError: the folder holds something else or cannot be written.
        """
        tensors = {
            "ids": torch.tensor([token for row in self.rows for token in row.ids], dtype=torch.int32),
            "lengths": torch.tensor([len(row.ids) for row in self.rows]),
            "starts": torch.tensor([row.start for row in self.rows]),
        }
        if self.residual_norms is not None:
            tensors["residual_norms"] = self.residual_norms
        body = {name: getattr(self, name) for name in _PLAIN_FIELDS}
        body |= {"hook_points": list(self.hook_points), "groups": list(self.groups), "contrast": dict(self.contrast)}
        body["model"] = None if self.fingerprint is None else self.fingerprint.to_dict()
        save_artifact(folder, KIND, tensors, body)

    @classmethod
    def load(cls, folder: Path) -> "Origin":
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: it is not as it was written, or of another kind.
        """
        artifact = load_artifact(folder, KIND)
        body = artifact.body
        try:
            return cls(
                hook_points=tuple(body["hook_points"]),
                rows=_rows(artifact),
                groups=tuple(body["groups"]),
                contrast=body["contrast"],
                fingerprint=None if body["model"] is None else Fingerprint.from_dict(body["model"]),
                residual_norms=artifact.tensors.get("residual_norms"),
                **{name: body[name] for name in _PLAIN_FIELDS},
            )
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"the manifest of {folder} does not fit: {error}; capture again.") from error


_PLAIN_FIELDS = ("where", "answers", "preferences", "rows_read", "cut_prompts", "cut_answers")


@dataclass(frozen=True, eq=False, repr=False)
class ActivityDifferences(SummarisedDifferences):
    """Activity differences that were computed once and kept; made by ``capture_differences``."""

    hook_points: tuple[str, ...]
    """Names of the layers, in the order of the ``layer`` axis."""
    where: Where
    """Whether they stand at the answer's own tokens or at those that predict them."""
    d_model: int
    """Width of the residual stream."""
    fingerprint: Fingerprint | None
    """The base model, where it was given."""
    rows: tuple[AnswerRow, ...]
    """The answers under the plain prompt."""
    groups: tuple[str, ...]
    """The group of each row's pair."""
    origin: Origin
    """Where they come from: contrast, instructions, models, preferences."""
    values: ResidualStore
    """v ``[token, layer, d_model]`` of all rows, one after the other."""
    path: Path | None = None
    """The folder, for those on disk."""
    _starts: Int[Tensor, " row_plus_one"] = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))

    @classmethod
    def make(cls, origin: Origin, values: ResidualStore, path: Path | None = None) -> "ActivityDifferences":
        """Put values and their origin together.

        Raises:
            ArtifactError: there is not a value for every token of the rows, or not of every layer.
        """
        starts = token_starts(origin.rows)
        if values.n_examples != int(starts[-1]) or values.hook_points != origin.hook_points:
            raise ArtifactError(
                f"{values.n_examples} values at {', '.join(values.hook_points)} do not fit rows of {int(starts[-1])} "
                f"answer tokens at {', '.join(origin.hook_points)}; capture again into a new folder."
            )
        return cls(
            hook_points=origin.hook_points,
            where=origin.where,
            d_model=values.d_model,
            fingerprint=origin.fingerprint,
            rows=origin.rows,
            groups=origin.groups,
            origin=origin,
            values=values,
            path=path,
            _starts=starts,
        )

    @classmethod
    def open(
        cls, folder: Path | str, *, for_model: Fingerprint | None = None, verify: bool = True
    ) -> "ActivityDifferences":
        """Open differences that were stored; the values stay on disk.

        Args:
            folder: where they are.
            for_model: the base model that they are about to be used on; checked when given.
            verify: read all values once and compare checksums.

        Raises:
            ArtifactError: the folder is not whole, unfinished, damaged, or of another kind.
            FingerprintMismatchError: they belong to another base model, or none was recorded.
        """
        place = Path(folder)
        origin = Origin.load(place)
        if for_model is not None:
            if origin.fingerprint is None:
                raise FingerprintMismatchError(
                    f"the activity differences in {place} record no base model, so they cannot be checked against "
                    "yours; capture them with base=..., or open them without for_model."
                )
            origin.fingerprint.require(for_model, f"the activity differences in {place}")
        return cls.make(origin, ResidualStore.open(place / VALUES, verify=verify), place)

    def __repr__(self) -> str:
        place = "in memory" if self.path is None else f"at {self.path}"
        return (
            f"ActivityDifferences({self.origin.contrast['method']}, {len(self.rows)} answers, {self.n_tokens} tokens x "
            f"{len(self.hook_points)} layers x {self.d_model}, where={self.where!r}, {place})"
        )

    @property
    def dtype(self) -> torch.dtype:
        """Dtype the values are kept in; they are read as float32 at least."""
        return self.values.dtype

    @property
    def cuts(self) -> tuple[int, int]:
        """Rows whose prompt lost tokens on its left, and rows whose answer lost tokens on its right."""
        return self.origin.cut_prompts, self.origin.cut_answers

    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        """See :meth:`SummarisedDifferences.of`."""
        self.check_rows(rows)
        chosen = torch.tensor(list(rows), dtype=torch.int64)
        _, tokens = ragged_ranges(self._starts[chosen], self._starts[chosen + 1] - self._starts[chosen])
        return self.values.select(tokens).tensor()

    def residual_norms(self) -> Float[Tensor, " layer"] | None:
        """See :meth:`SummarisedDifferences.residual_norms`."""
        return self.origin.residual_norms

    def save(self, folder: Path | str) -> Path:
        """Write them into a folder, which a capture with the same arguments takes for its own.

        Raises:
            ArtifactError: the folder holds something else, or cannot be written.
        """
        place = Path(folder)
        with writing(place / VALUES, self.origin.capture(self.dtype)) as writer:
            self.origin.save(place)
            if writer.whole():
                return place
            prepared = prepare_rows(self.rows, self.where, 0, range(len(self.rows)))
            budget = writer.batch or BatchBudget(tokens=None, texts=None)
            bytes_per_token = len(self.hook_points) * self.d_model * self.dtype.itemsize
            for number, (begin, end) in enumerate(writer.plan(prepared, bytes_per_token, budget)):
                rows = prepared.order[begin:end].tolist()
                writer.write(number, as_shard(self.of(rows).to(self.dtype), rows, self._starts), budget)
            writer.finish()
        return place


def as_shard(
    values: Float[Tensor, "token layer d_model"], rows: Sequence[int], starts: Int[Tensor, " row_plus_one"]
) -> Shard:
    """The differences of some rows as a shard of a residual store: tokens are its examples, rows its texts."""
    chosen = torch.tensor(rows)
    row, token = ragged_ranges(starts[chosen], starts[chosen + 1] - starts[chosen])
    return Shard(residuals=values, example=token, text=chosen[row])


def rows_hash(*sides: Sequence[AnswerRow]) -> str:
    """SHA-256 of the token ids of rows, and of where their answers begin."""
    digest = hashlib.sha256()
    for rows in sides:
        for row in rows:
            digest.update(repr((row.ids, row.start)).encode())
    return digest.hexdigest()


def same_models(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two contrasts read the same models, up to rounding."""
    pairs = [(recorded["models"].get(name), value) for name, value in wanted["models"].items()]
    return len(recorded["models"]) == len(pairs) and all(
        own is not None and not Fingerprint.from_dict(own).differences(Fingerprint.from_dict(value))
        for own, value in pairs
    )


def _rows(artifact: Artifact) -> tuple[AnswerRow, ...]:
    lengths, starts = artifact.tensors["lengths"].tolist(), artifact.tensors["starts"].tolist()
    pieces = artifact.tensors["ids"].split(lengths)
    return tuple(AnswerRow(tuple(ids.tolist()), start) for ids, start in zip(pieces, starts, strict=True))
