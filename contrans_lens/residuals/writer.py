"""Writes a residual store so that it can be killed at any moment and taken up again.

The folder holds ``manifest.json`` (what is captured, and how it is cut into shards) and the shards that are
finished. Everything is renamed into place when it is whole. What is captured hashes to the store's key;
taking up again needs the same key. The cut into shards and batches is written down before the first shard,
because the last bits of a residual depend on the batch it was computed in: a capture that was killed ends
with the same bytes as one that was not.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from contrans_lens.artifacts import MANIFEST_NAME, SCHEMA_VERSION, package_versions, write_json
from contrans_lens.errors import ArtifactError
from contrans_lens.models import Fingerprint
from contrans_lens.residuals.prepared import PreparedTexts
from contrans_lens.residuals.reader import BatchBudget
from contrans_lens.residuals.shards import Shard, read_shard, shard_name, write_shard
from contrans_lens.residuals.store import KIND, read_store_manifest

SHARD_BYTES = 16 << 20
"""Size of a shard: a kill loses the work on one of them."""
MOST_SHARDS = 512
"""Larger captures get larger shards instead of more of them."""


def capture_key(capture: Mapping[str, Any]) -> str:
    """Content hash of what is captured: model, texts, positions, hook points and settings."""
    plain = _plain(capture)
    plain["fingerprint"] = Fingerprint.from_dict(plain["fingerprint"]).identity()
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


class StoreWriter:
    """A store being written; use :func:`writing`.

    Args:
        folder: the store's folder.
        capture: what is captured, as plain data.

    Raises:
        ArtifactError: the folder holds another capture.
    """

    def __init__(self, folder: Path, capture: Mapping[str, Any]) -> None:
        self.folder = folder
        self.key = capture_key(capture)
        self._capture = _plain(capture)
        self._manifest: dict[str, Any] | None = None
        if (folder / MANIFEST_NAME).exists():
            found = read_store_manifest(folder)
            differing = _differences(found["capture"], self._capture)
            if differing:
                raise ArtifactError(
                    f"{folder} holds another capture, which differs in {differing}. "
                    "Choose another folder, or delete this one."
                )
            # The same model's signature may differ in its last digits, with another number of threads for
            # example.
            self.key, self._capture, self._manifest = found["key"], found["capture"], found

    def whole(self) -> bool:
        """Whether the store is finished and every shard is as it was written."""
        if self._manifest is None or not self._manifest["complete"]:
            return False
        return all(self.has(number) for number in range(self._manifest["n_shards"]))

    @property
    def batch(self) -> BatchBudget | None:
        """The batch size of the interrupted run that is taken up, if there is one."""
        return None if self._manifest is None else BatchBudget(**self._manifest["batch"])

    def plan(self, prepared: PreparedTexts, bytes_per_example: int, batch: BatchBudget) -> list[tuple[int, int]]:
        """Write down, or take over, how the capture is cut; returns the range of sorted texts of each shard.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        if self._manifest is None:
            total = prepared.n_examples * bytes_per_example
            size = max(SHARD_BYTES, -(-total // MOST_SHARDS))
            per_shard = max(1, size // bytes_per_example)
        else:
            per_shard = self._manifest["examples_per_shard"]
        ranges = shard_ranges(prepared, per_shard)
        self._manifest = {
            "schema": SCHEMA_VERSION,
            "kind": KIND,
            "complete": False,
            "key": self.key,
            "capture": self._capture,
            "n_examples": prepared.n_examples,
            "truncated": int((prepared.truncated > 0).sum()),
            "tokens_truncated": int(prepared.truncated.sum()),
            "n_shards": len(ranges),
            "examples_per_shard": per_shard,
            "batch": dict(vars(batch)),
            "versions": package_versions(),
        }
        write_json(self.folder / MANIFEST_NAME, self._manifest)
        return ranges

    def has(self, number: int) -> bool:
        """Whether a shard is there and whole."""
        try:
            read_shard(self.folder / shard_name(number), self.key, verify=True)
        except ArtifactError:
            return False
        return True

    def write(self, number: int, shard: Shard, batch: BatchBudget) -> None:
        """Write a finished shard, and the batch size first if memory has made it smaller.

        Raises:
            ArtifactError: the disk refuses; finished shards stay.
        """
        manifest = self._planned()
        if manifest["batch"] != vars(batch):
            manifest["batch"] = dict(vars(batch))
            write_json(self.folder / MANIFEST_NAME, manifest)
        write_shard(self.folder / shard_name(number), shard, self.key)

    def finish(self) -> None:
        """Mark the store as whole.

        Raises:
            ArtifactError: the disk refuses.
        """
        manifest = self._planned()
        manifest["complete"] = True
        write_json(self.folder / MANIFEST_NAME, manifest)

    def _planned(self) -> dict[str, Any]:
        if self._manifest is None:
            raise ArtifactError(f"{self.folder} was written to before it was planned.")
        return self._manifest


@contextlib.contextmanager
def writing(folder: Path, capture: Mapping[str, Any]) -> Iterator[StoreWriter]:
    """Open a folder for writing, alone; leftovers of a killed writer are cleared away.

    Raises:
        ArtifactError: the folder cannot be made, holds another capture, or another process is writing to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot make {folder}: {error}. Choose a folder that can be written.") from error
    with _alone(folder):
        writer = StoreWriter(folder, capture)
        # Our own, and those of safetensors, which writes beside the file that it is given.
        for pattern in (".*.tmp", ".tmp??????"):
            for leftover in folder.glob(pattern):
                leftover.unlink(missing_ok=True)
        yield writer


def shard_ranges(prepared: PreparedTexts, examples_per_shard: int) -> list[tuple[int, int]]:
    """Cut the sorted texts into ranges of at most so many examples; a text with more of them is a range of its own."""
    ranges, begin, before = [], 0, 0
    ends = prepared.example_end.tolist()
    for text, end in enumerate(ends):
        if end - before > examples_per_shard and text > begin:
            ranges.append((begin, text))
            begin, before = text, ends[text - 1]
    ranges.append((begin, len(ends)))
    return ranges


def _plain(capture: Mapping[str, Any]) -> dict[str, Any]:
    """As it will be read back from the manifest: tuples become lists."""
    return json.loads(json.dumps(dict(capture)))


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What two captures differ in, in words; empty if they are the same."""
    differing = {name for name in {*found, *wanted} if found.get(name) != wanted.get(name)}
    words = [
        name if len(f"{found.get(name)}") > 100 else f"{name} ({found.get(name)} there, {wanted.get(name)} here)"
        for name in sorted(differing - {"fingerprint"})
    ]
    if "fingerprint" in differing:
        models = Fingerprint.from_dict(found["fingerprint"]).differences(Fingerprint.from_dict(wanted["fingerprint"]))
        words += [f"the model's {name}" for name in models]
    return ", ".join(words)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder against other writers; the system lets go of it however this process ends."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ArtifactError(f"another process is capturing into {folder}; wait for it or choose another.") from error
    except OSError:  # a network file system without locks: go on without
        pass
    try:
        yield
    finally:
        os.close(handle)
