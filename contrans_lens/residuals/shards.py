"""Shards of a residual store: safetensors files that carry their own identity and checksum.

A shard is written under a temporary name, flushed and renamed, so a file with a shard's name is a whole
shard. Its header says which capture it belongs to and what its bytes must hash to.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor

from contrans_lens.artifacts import atomic_write
from contrans_lens.errors import ArtifactError

# One metadata entry: safetensors writes several in an order that changes from run to run.
_METADATA = "contrans_lens"


@dataclass(frozen=True)
class Shard:
    """Some examples of a store; the residuals are memory-mapped."""

    residuals: Float[Tensor, "example layer d_model"]
    example: Int[Tensor, "example"]
    """Index of each row among all examples."""
    text: Int[Tensor, "example"]
    """Index of each row's text."""


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.safetensors"


def shard_digest(shard: Shard) -> str:
    """SHA-256 of the shard's numbers."""
    digest = hashlib.sha256()
    for tensor in (shard.example, shard.text, shard.residuals):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_shard(path: Path, shard: Shard, key: str) -> None:
    """Write a shard, whole or not at all.

    Raises:
        ArtifactError: the disk refuses; what stood at ``path`` is unchanged.
    """
    tensors = {
        "residuals": shard.residuals.contiguous(),
        "example": shard.example.contiguous(),
        "text": shard.text.contiguous(),
    }
    header = {_METADATA: json.dumps({"key": key, "sha256": shard_digest(shard)}, sort_keys=True)}
    with atomic_write(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=header)


def read_shard(path: Path, key: str, *, verify: bool) -> Shard:
    """Map a shard into memory.

    Args:
        path: the file.
        key: key of the capture it must belong to.
        verify: whether to read all of it and compare its checksum, and check that every value is finite.

    Raises:
        ArtifactError: it is missing, truncated, altered, of another capture, or not finite.
    """
    again = "Capture into this folder again: finished shards are kept, and this one is made anew."
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
            shard = Shard(file.get_tensor("residuals"), file.get_tensor("example"), file.get_tensor("text"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing. {again}") from error
    except (OSError, SafetensorError, json.JSONDecodeError, RuntimeError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file: {error}. {again}") from error
    if metadata.get("key") != key:
        raise ArtifactError(f"{path} belongs to another capture. {again}")
    if verify:
        if metadata.get("sha256") != shard_digest(shard):
            raise ArtifactError(f"{path} does not match its checksum: it was altered. {again}")
        if not torch.isfinite(shard.residuals).all():
            raise ArtifactError(f"{path} holds NaN or infinity. {again}")
    return shard
