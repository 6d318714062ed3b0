"""Artifacts on disk: safetensors for the numbers, one JSON manifest for everything else.

An artifact is a folder::

    NAME/
        manifest.json            what it is, on which models it was made, checksums
        tensors-<sha12>.safetensors

The tensor file is named after its own content and written first; renaming the manifest into place is the one
commit point. A writer that is killed, or a disk that fills up, therefore leaves the previous artifact whole.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from contrans_lens.errors import ArtifactError

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """What :func:`load_artifact` read: checked tensors and the body of the manifest."""

    kind: str
    """What the artifact is, e.g. ``"concept_vectors"``."""
    tensors: dict[str, Tensor]
    """The tensors by name, on the CPU, finite."""
    body: dict[str, Any]
    """The kind's own part of the manifest: fingerprints, hook points, metrics."""
    versions: dict[str, str]
    """Package versions that wrote it."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it to ``path``.

    On any failure the temporary file is removed and an older file at ``path`` stays as it was.

    Raises:
        ArtifactError: the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error}. Choose a folder that exists and has space.") from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"writing {path} failed: {error}. Nothing was changed there; free space or choose another folder."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused: JSON has no word for them.

    Raises:
        ArtifactError: the value is not JSON (its path is named) or the file cannot be written.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path.name} cannot be written as JSON: {error}.") from error
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArtifactError: the file is missing, is not JSON, or is not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist.") from error
    except NotADirectoryError as error:
        raise ArtifactError(f"{path} does not exist: {path.parent} is a file, and a folder was expected.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path} is not readable JSON: {error}. It may be truncated; make it anew.") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds a JSON {type(value).__name__}; an object was expected.")
    return value


def package_versions() -> dict[str, str]:
    """Versions of the packages whose numbers an artifact depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("contrans-lens", "torch", "transformer-lens", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_writable(folder: Path) -> None:
    """Check, before long work, that a folder could be made and written; nothing is made yet.

    Raises:
        ArtifactError: the folder, or the first of its parents that exists, is a file or may not be written.
    """
    place = Path(folder)
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ArtifactError(f"results cannot be written to {folder}: {place} is a file; choose a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ArtifactError(
            f"results cannot be written to {folder}: {place} may not be written; choose another folder."
        )


def require_kind(folder: Path, kind: str) -> None:
    """Refuse to write into a folder that holds an artifact of another kind: it would be lost.

    Raises:
        ArtifactError: it does, or its manifest cannot be read.
    """
    manifest = Path(folder) / MANIFEST_NAME
    if not manifest.exists():
        return
    found = read_json(manifest).get("kind")
    if found != kind:
        raise ArtifactError(
            f"{folder} holds a {found!r} artifact, which saving a {kind!r} there would destroy; choose another folder, "
            "or remove that one."
        )


def save_artifact(folder: Path, kind: str, tensors: Mapping[str, Tensor], body: Mapping[str, Any]) -> Path:
    """Save tensors and their manifest as one folder; an older artifact there is replaced whole or not at all.

    Args:
        folder: the artifact's folder; made if absent.
        kind: what it is; :func:`load_artifact` asks for it again.
        tensors: finite tensors by name, any device.
        body: JSON-serialisable description (fingerprints, hook points, metrics).

    Raises:
        ArtifactError: a tensor is not finite, the body is not JSON, the folder holds an artifact of another kind, or
            the disk refuses.
    """
    folder = Path(folder)
    require_kind(folder, kind)
    plain = {name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}
    for name, value in plain.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ArtifactError(f"{kind} '{name}' holds NaN or infinity and is not saved; look at what produced it.")
    staging = folder / ".tensors.safetensors"
    with atomic_write(staging) as temporary:
        safetensors.torch.save_file(plain, temporary)
    digest = file_sha256(staging)
    tensor_file = folder / f"tensors-{digest[:12]}.safetensors"
    staging.replace(tensor_file)
    manifest = {
        "schema": SCHEMA_VERSION,
        "kind": kind,
        "tensor_file": tensor_file.name,
        "sha256": digest,
        "tensors": {name: {"shape": list(v.shape), "dtype": str(v.dtype)} for name, v in plain.items()},
        "versions": package_versions(),
        "body": dict(body),
    }
    try:
        write_json(folder / MANIFEST_NAME, manifest)
    except ArtifactError:
        _remove_stale_tensors(folder)
        raise
    _remove_stale_tensors(folder)
    return folder


def _remove_stale_tensors(folder: Path) -> None:
    """Remove tensor files that the manifest does not name (all of them when there is no manifest)."""
    manifest = folder / MANIFEST_NAME
    keep = read_json(manifest).get("tensor_file") if manifest.exists() else None
    for path in folder.glob("tensors-*.safetensors"):
        if path.name != keep:
            path.unlink(missing_ok=True)


def read_manifest(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """Read and check an artifact's manifest without reading its tensors.

    Raises:
        ArtifactError: missing, not JSON, another schema version, or another kind than ``kind``.
    """
    manifest = read_json(Path(folder) / MANIFEST_NAME)
    schema = manifest.get("schema")
    if schema != SCHEMA_VERSION:
        raise ArtifactError(
            f"{folder} has schema version {schema!r}; this package reads version {SCHEMA_VERSION}. "
            "Make the artifact again, or use the package version that wrote it "
            f"({manifest.get('versions', {}).get('contrans-lens', 'unknown')})."
        )
    missing = {"kind", "tensor_file", "sha256", "body"} - manifest.keys()
    if missing:
        raise ArtifactError(f"the manifest of {folder} lacks {sorted(missing)}; make the artifact again.")
    if kind is not None and manifest["kind"] != kind:
        raise ArtifactError(f"{folder} is a {manifest['kind']!r} artifact; {kind!r} was expected.")
    return manifest


def load_artifact(folder: Path, kind: str | None = None) -> Artifact:
    """Load an artifact, checking schema, kind, checksum and that every value is finite.

    Raises:
        ArtifactError: anything about the folder that is not as it was written; the message says what differs.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, kind)
    tensor_file = folder / Path(manifest["tensor_file"]).name
    if not tensor_file.exists():
        raise ArtifactError(f"{tensor_file} is missing although the manifest names it; make the artifact again.")
    if file_sha256(tensor_file) != manifest["sha256"]:
        raise ArtifactError(
            f"{tensor_file} does not match the checksum in its manifest: it is truncated or was altered. "
            "Make the artifact again or copy both files anew."
        )
    try:
        tensors = safetensors.torch.load_file(tensor_file)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{tensor_file} is not a readable safetensors file: {error}.") from error
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ArtifactError(f"{folder}: tensor '{name}' holds NaN or infinity; make the artifact again.")
    return Artifact(manifest["kind"], tensors, manifest["body"], manifest.get("versions", {}))
