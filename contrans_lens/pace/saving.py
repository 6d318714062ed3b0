"""A concept dictionary on disk: one safetensors file for each hook point, one JSON manifest.

::

    NAME/
        manifest.json                     names, topics, hook points, model, checksums
        atoms-<number>-<sha12>.safetensors     of one hook point; mapped into memory when opened

The tensor files are named after their content and written first; renaming the manifest into place is the one
commit point. A writer that is killed leaves the dictionary that stood there whole.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from contrans_lens.artifacts import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    atomic_write,
    package_versions,
    read_json,
    write_json,
)
from contrans_lens.errors import ArtifactError, HookPointError
from contrans_lens.pace.rows import row_blocks

KIND = "concept_dictionary"

_AGAIN = "Build or save the dictionary again, or copy the whole folder anew."


@dataclass(frozen=True)
class LayerFile:
    """What the manifest says about the atoms of one hook point."""

    hook_point: str
    file: str
    """Name within the folder."""
    atoms_sha256: str
    """Of the atoms' bytes."""
    quality_sha256: str
    """Of the quality's bytes; empty where it was not measured."""


def tensor_sha256(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and numbers, read in blocks of rows."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    for block in row_blocks(tensor):
        digest.update(block.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def dictionary_digest(names: Sequence[str], atoms_sha256: Mapping[str, str]) -> str:
    """SHA-256 of the names and, by hook point, of the atoms."""
    content = json.dumps([list(names), list(atoms_sha256.items())])
    return hashlib.sha256(content.encode()).hexdigest()


def write_layers(
    folder: Path,
    atoms: Mapping[str, Float[Tensor, "atom d_model"]],
    quality: Float[Tensor, "atom layer"] | None,
) -> list[LayerFile]:
    """Write one tensor file for each hook point; only one layer is copied at a time.

    Raises:
        ArtifactError: the disk refuses.
    """
    files = []
    for number, (hook_point, rows) in enumerate(atoms.items()):
        tensors = {"atoms": rows.detach().to("cpu").contiguous()}
        digests = {"atoms": tensor_sha256(tensors["atoms"]), "quality": ""}
        if quality is not None:
            tensors["quality"] = quality[:, number].detach().to("cpu").clone()
            digests["quality"] = tensor_sha256(tensors["quality"])
        name = hashlib.sha256("".join(digests.values()).encode()).hexdigest()[:12]
        file = LayerFile(hook_point, f"atoms-{number:03d}-{name}.safetensors", digests["atoms"], digests["quality"])
        with atomic_write(folder / file.file) as temporary:
            safetensors.torch.save_file(tensors, temporary)
        files.append(file)
    return files


def commit(folder: Path, files: Sequence[LayerFile], body: Mapping[str, Any]) -> None:
    """Write the manifest, and remove tensor files that it does not name.

    Raises:
        ArtifactError: the disk refuses, or the body is not JSON; the older dictionary is still whole.
    """
    manifest = {
        "schema": SCHEMA_VERSION,
        "kind": KIND,
        "layers": [vars(file) for file in files],
        "versions": package_versions(),
        "body": dict(body),
    }
    try:
        write_json(folder / MANIFEST_NAME, manifest)
    finally:
        _remove_stale(folder)


def _remove_stale(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    keep = {layer["file"] for layer in read_json(path).get("layers", [])} if path.exists() else set()
    for found in folder.glob("atoms-*.safetensors"):
        if found.name not in keep:
            found.unlink(missing_ok=True)


def read_dictionary_manifest(folder: Path) -> tuple[list[LayerFile], dict[str, Any]]:
    """What the manifest says: the layers' files and the body.

    Raises:
        ArtifactError: missing, not JSON, of another kind or schema version, or without something it should hold.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    if manifest.get("kind") != KIND:
        raise ArtifactError(f"{folder} is a {manifest.get('kind')!r} artifact; {KIND!r} was expected.")
    if manifest.get("schema") != SCHEMA_VERSION:
        written_by = manifest.get("versions", {}).get("contrans-lens", "unknown")
        raise ArtifactError(
            f"{folder} has schema version {manifest.get('schema')!r}; this package reads version {SCHEMA_VERSION}. "
            f"Build the dictionary again, or use the package version that wrote it ({written_by})."
        )
    try:
        return [LayerFile(**layer) for layer in manifest["layers"]], dict(manifest["body"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the manifest of {folder} does not fit: {error}. {_AGAIN}") from error


def map_layers(
    folder: Path, files: Sequence[LayerFile], *, verify: bool
) -> tuple[dict[str, Float[Tensor, "atom d_model"]], Float[Tensor, "atom layer"] | None]:
    """The atoms of each hook point, mapped into memory, and their quality where it was measured.

    Args:
        folder: the dictionary's folder.
        files: the layers that are wanted.
        verify: whether to read everything once and compare checksums.

    Raises:
        ArtifactError: a file is missing, truncated or altered.
    """
    atoms, columns = {}, []
    for file in files:
        tensors = _map_layer(folder / Path(file.file).name)
        if "atoms" not in tensors or bool(file.quality_sha256) != ("quality" in tensors):
            raise ArtifactError(f"{folder / file.file} holds {sorted(tensors)}, not what its manifest says. {_AGAIN}")
        if verify:
            recorded = {"atoms": file.atoms_sha256, "quality": file.quality_sha256}
            for name, tensor in tensors.items():
                if tensor_sha256(tensor) != recorded.get(name):
                    raise ArtifactError(
                        f"the {name} in {folder / file.file} do not match the checksum in the manifest: the file was "
                        f"altered. {_AGAIN}"
                    )
        atoms[file.hook_point] = tensors["atoms"]
        if "quality" in tensors:
            columns.append(tensors["quality"])
    return atoms, torch.stack(columns, dim=1) if columns and len(columns) == len(files) else None


def _map_layer(path: Path) -> dict[str, Tensor]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = file.keys()  # the file itself is no mapping
            return {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing although the manifest names it. {_AGAIN}") from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file: {error}. {_AGAIN}") from error


def chosen_files(files: Sequence[LayerFile], hook_points: Sequence[str] | None, folder: Path) -> list[LayerFile]:
    """The files of some hook points, in the order asked for; all without a choice.

    Raises:
        HookPointError: the dictionary has no atoms at one of them.
    """
    if hook_points is None:
        return list(files)
    by_name = {file.hook_point: file for file in files}
    for name in hook_points:
        if name not in by_name:
            raise HookPointError(f"the dictionary in {folder} has no atoms at {name!r}; it has {', '.join(by_name)}.")
    return [by_name[name] for name in hook_points]
