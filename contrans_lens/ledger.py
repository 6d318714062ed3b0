"""Finished stages of a long run, kept on disk, so that a run that was killed goes on where it stopped.

A stage is a dictionary of tensors. It is written whole or not at all, under a name that holds the hash of everything
that decides its content; a stage of other models, texts or settings is therefore never taken for this one.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from contrans_lens.artifacts import MANIFEST_NAME, load_artifact, save_artifact

_KIND = "stage"
_KEY_LENGTH = 16


@dataclass(frozen=True)
class Ledger:
    """Recalls finished stages from a folder, or computes them; without a folder it only computes."""

    folder: Path | None
    key: Mapping[str, Any]
    """What decides every stage's content, JSON values: settings, fingerprints, hashes of texts."""

    def with_key(self, **more: Any) -> "Ledger":
        """The same folder with more that decides the content."""
        return Ledger(self.folder, {**self.key, **more})

    def recall(self, stage: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of a stage: read if it was finished before, else computed and written.

        Args:
            stage: its name, good for a file name.
            compute: what gives the tensors; finite, or the stage cannot be kept.

        Raises:
            ArtifactError: the folder cannot be written, or the stage was damaged on disk.
        """
        if self.folder is None:
            return compute()
        kept = self.look_up(stage)
        if kept is not None:
            return kept
        return self.keep(stage, compute())

    def keep(self, stage: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Write the tensors of a stage that was computed elsewhere; gives them back as they are kept.

        Raises:
            ArtifactError: the folder cannot be written, or a tensor is not finite.
        """
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if self.folder is not None:
            save_artifact(self._place(self.folder, stage), _KIND, plain, {"stage": stage, "key": dict(self.key)})
        return plain

    def look_up(self, stage: str) -> dict[str, Tensor] | None:
        """The tensors of a stage that was finished before; None if it was not.

        Raises:
            ArtifactError: the stage was damaged on disk.
        """
        if self.folder is None or not (self._place(self.folder, stage) / MANIFEST_NAME).exists():
            return None
        return load_artifact(self._place(self.folder, stage), _KIND).tensors

    def _place(self, folder: Path, stage: str) -> Path:
        return folder / f"{stage}-{self._hash(stage)}"

    def _hash(self, stage: str) -> str:
        text = json.dumps([stage, self.key], sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]
