"""Concept dictionaries of others: a matrix in safetensors or NumPy form, and a list of names."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from torch import Tensor

from contrans_lens.errors import ArtifactError, PaceError, TextError
from contrans_lens.models import Fingerprint, HookedModel, check_hook_points
from contrans_lens.models import fingerprint as fingerprint_of
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.duplicates import find_duplicates
from contrans_lens.texts.files import csv_rows, file_kind, jsonl_rows, parse_json, read_file
from contrans_lens.texts.items import checked_text

_BLOCK = 4096
"""Atoms read and normalised at a time."""

_CONVERT = (
    "it may hold pickled code, which runs when it is read. Convert it once where you trust it: "
    "tensor = torch.load(path, weights_only=True); safetensors.torch.save_file({'atoms': tensor.contiguous()}, "
    "'atoms.safetensors')"
)


def read_external(
    path: Path | str,
    names: Path | str | Sequence[str],
    hook_point: str,
    *,
    fingerprint: Fingerprint | None = None,
    model: HookedModel | None = None,
    transposed: bool | None = None,
    tensor: str | None = None,
    unusable: Literal["error", "drop"] = "error",
    cosine_limit: float | int = 0.999,
) -> ConceptDictionary:
    """Read a foreign dictionary of one hook point: atoms are brought to unit length, duplicates dropped and named.

    Args:
        path: ``.safetensors``, ``.npy`` (mapped into memory) or ``.npz`` with ``[atom, d_model]`` or
            ``[d_model, atom]``; never a pickle.
        names: one name for each atom: a list, or a file: ``.txt`` (one a line), ``.json`` (a list), ``.jsonl`` or
            ``.csv`` (with ``concept`` and perhaps ``topic``), or ``.gz`` of these.
        hook_point: where in the model the atoms belong.
        fingerprint: the model they belong to, if you know it. A dictionary without one cannot be checked.
        model: that model itself; its width and hook point are checked too.
        transposed: whether the file holds ``[d_model, atom]``; ``None`` tells by the number of names.
        tensor: which tensor of the file; needed where it has several.
        unusable: what becomes of atoms that are zero or not finite: refused, or left out and listed in the notes.
        cosine_limit: atoms with a greater ``|cos|`` are duplicates; the first stays.

    Raises:
        PaceError: names and matrix do not fit, the orientation is ambiguous, or an atom has no direction.
        ArtifactError: the file is missing, damaged or of another kind.
        TextError: the names cannot be read.
        HookPointError: the model has no such hook point.
        FingerprintMismatchError: both a fingerprint and a model were given, and they differ.
    """
    path = Path(path)
    listed = _names_of(names)
    matrix = _open_matrix(path, tensor)
    rows = matrix.T if _is_transposed(tuple(matrix.shape), len(listed.names), transposed, path) else matrix
    owner = _owner(fingerprint, model, hook_point)
    if owner is not None and owner.d_model != rows.shape[1]:
        raise PaceError(f"the atoms of {path} have {rows.shape[1]} numbers; the model's width is {owner.d_model}.")
    atoms, usable = _unit_rows(rows)
    lost = [listed.names[row] for row in (~usable).nonzero().flatten().tolist()]
    if lost and unusable == "error":
        raise PaceError(
            f"{len(lost)} atoms of {path} are zero or not finite: {', '.join(map(repr, lost[:5]))}"
            f"{' ...' if lost[5:] else ''}. Remove them, or read with unusable='drop'."
        )
    left = usable.nonzero().flatten()
    if not len(left):
        raise PaceError(f"no atom of {path} has a direction: all are zero or not finite.")
    atoms = atoms if len(left) == len(atoms) else atoms[left]
    found = find_duplicates([listed.names[row] for row in left.tolist()], {hook_point: atoms}, cosine_limit)
    kept = left[found.kept].tolist()
    return ConceptDictionary(
        names=tuple(listed.names[row] for row in kept),
        topics=tuple(listed.topics[row] for row in kept),
        hook_points=(hook_point,),
        atoms={hook_point: atoms if len(found.kept) == len(atoms) else atoms[found.kept]},
        fingerprint=owner,
        dropped=found.dropped,
        notes={"source": path.name, "unusable": lost, "cosine_limit": float(cosine_limit)},
        check_values=False,
    )


@dataclass(frozen=True)
class _Listed:
    names: list[str]
    topics: list[str]


def _owner(given: Fingerprint | None, model: HookedModel | None, hook_point: str) -> Fingerprint | None:
    """The model the atoms belong to, as far as it is known."""
    if model is None:
        return given
    check_hook_points(model, [hook_point])
    found = fingerprint_of(model)
    if given is not None:
        given.require(found, "the dictionary")
    return found


def _names_of(names: Path | str | Sequence[str]) -> _Listed:
    """Names and topics from a list or a file."""
    rows: Any
    if not isinstance(names, (str, Path)):
        rows, source = list(names), "the list of names"
    else:
        path = Path(names)
        source, kind = str(path), file_kind(path)
        if kind == "txt":
            # A blank line at the end is no name; one in the middle would shift all that follow.
            rows = read_file(path).rstrip().split("\n")
        elif kind in ("jsonl", "csv"):
            rows = jsonl_rows(path) if kind == "jsonl" else csv_rows(path)
        elif kind == "json":
            rows = parse_json(read_file(path), path)
        else:
            raise TextError(f"{path} is not a file of names: .txt, .json, .jsonl or .csv (or .gz) was expected.")
    if not isinstance(rows, list):
        raise TextError(f"{source} holds a JSON {type(rows).__name__}; a list was expected.")
    listed = _Listed([], [])
    for number, row in enumerate(rows, start=1):
        fields = row if isinstance(row, dict) else {"concept": row}
        listed.names.append(checked_text(fields.get("concept"), f"the concept in row {number} of {source}").strip())
        listed.topics.append(str(fields.get("topic") or ""))
    return listed


def _open_matrix(path: Path, tensor: str | None) -> Tensor | np.ndarray:
    """The matrix of a file, mapped into memory where its kind allows.

    Raises:
        ArtifactError: missing, damaged, of another kind, or not a matrix of floating-point numbers.
    """
    kind = path.suffix.lower()
    if kind in (".pt", ".pth", ".pkl", ".pickle", ".bin", ".joblib"):
        raise ArtifactError(f"{path} is not read: {_CONVERT}.")
    if kind not in (".safetensors", ".npy", ".npz"):
        raise ArtifactError(f"{path} is no dictionary this package reads: .safetensors, .npy or .npz was expected.")
    try:
        matrix = _from_safetensors(path, tensor) if kind == ".safetensors" else _from_numpy(path, tensor)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist.") from error
    except PaceError:  # a ValueError too, but it says what to do already
        raise
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} cannot be read: {error}. It may be truncated; copy it anew.") from error
    floating = matrix.is_floating_point() if isinstance(matrix, Tensor) else np.issubdtype(matrix.dtype, np.floating)
    if matrix.ndim != 2 or not floating:
        raise ArtifactError(
            f"{path} holds {matrix.dtype} of shape {list(matrix.shape)}; floating-point numbers [atom, d_model] or "
            "[d_model, atom] were expected. For several layers, read each one by itself."
        )
    return matrix


def _from_safetensors(path: Path, tensor: str | None) -> Tensor:
    with safetensors.safe_open(path, framework="pt") as file:
        return file.get_tensor(_chosen(list(file.keys()), tensor, path))


def _from_numpy(path: Path, tensor: str | None) -> np.ndarray:
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        return np.asarray(loaded[_chosen(loaded.files, tensor, path)])


def _chosen(keys: list[str], tensor: str | None, path: Path) -> str:
    """The tensor that was asked for, or the only one.

    Raises:
        PaceError: it is not there, or there are several and none was asked for.
    """
    if tensor is None and len(keys) == 1:
        return keys[0]
    if tensor not in keys:
        asked = "say which one is meant" if tensor is None else f"{tensor!r} is not among them; choose one"
        raise PaceError(f"{path} holds the tensors {', '.join(map(repr, sorted(keys)))}; {asked} with tensor=...")
    return tensor


def _is_transposed(shape: tuple[int, ...], n_names: int, given: bool | None, path: Path) -> bool:
    """Whether the atoms stand in the columns.

    Raises:
        PaceError: the names fit neither side, or both, or not the one that was said.
    """
    if given is None:
        if shape[0] == shape[1] == n_names:
            raise PaceError(
                f"{path} is square, {list(shape)}, so {n_names} names fit its rows and its columns; say which are the "
                "atoms with transposed=False (rows) or transposed=True (columns)."
            )
        given = shape[1] == n_names
    if shape[1 if given else 0] != n_names:
        raise PaceError(
            f"{path} has shape {list(shape)} and there are {n_names} names; one name for each atom was expected."
        )
    return given


def _unit_rows(
    rows: Tensor | np.ndarray,
) -> tuple[Float[Tensor, "atom d_model"], Bool[Tensor, " atom"]]:
    """Rows of unit length in float32, and which of them have a direction at all."""
    atoms = torch.empty(tuple(rows.shape))
    usable = torch.empty(len(rows), dtype=torch.bool)
    for begin in range(0, len(rows), _BLOCK):
        part = rows[begin : begin + _BLOCK]
        block = part.double() if isinstance(part, Tensor) else torch.from_numpy(np.array(part, dtype=np.float64))
        norms = block.norm(dim=1, keepdim=True)
        usable[begin : begin + _BLOCK] = (norms > 0).logical_and(norms.isfinite())[:, 0]
        atoms[begin : begin + _BLOCK] = block / norms
    return atoms, usable
