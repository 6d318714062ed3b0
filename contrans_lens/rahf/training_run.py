"""The folder of a training: what it is the result of, whether it is finished, and its one commit point.

::

    NAME/
        adapter_config.json, adapter_model.safetensors    (or a whole model with its tokenizer)
        rahf.json                                         written last: the run is finished
        checkpoints/                                      only until then; the trainer's own format
            key.json                                      what the run is the result of
"""

import contextlib
import hashlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from contrans_lens.artifacts import file_sha256, package_versions, read_json, require_writable, write_json
from contrans_lens.errors import ArtifactError
from contrans_lens.models.plain import PlainModel
from contrans_lens.rahf.keys import key_differences
from contrans_lens.rahf.processes import Processes

MANIFEST = "rahf.json"
CHECKPOINTS = "checkpoints"
SCHEMA = 1
_KEY = "key.json"
_MEASURED = "measured"


@dataclass(frozen=True)
class TrainingRun:
    """One training and its folder."""

    folder: Path
    """Where the result goes."""
    kind: str
    """What is trained, such as ``"rahf_fine_tuning"``."""
    key: Mapping[str, Any]
    """Everything that the result depends on, as JSON values: base, data, settings. Two runs of one key are equal."""
    measured: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Numbers by which data are known that are computed anew each time, and then are the same only to rounding."""
    tolerance: float = 1e-3
    """How far these may be from what they were, as a share of the largest of their name."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / CHECKPOINTS

    @property
    def full_key(self) -> dict[str, Any]:
        """The key with what every run depends on: the number of processes."""
        measured = {name: list(values) for name, values in self.measured.items()}
        return {"kind": self.kind, **self.key, "processes": Processes.in_environment().count, _MEASURED: measured}

    def finished(self) -> dict[str, Any] | None:
        """The manifest's body if this run is finished; None if it is to be begun or to go on.

        Nothing is written; checkpoints that a kill left beside a finished result are removed.

        Raises:
            ArtifactError: the folder holds another run or other files, or cannot be written.
        """
        require_writable(self.folder)
        if (self.folder / MANIFEST).exists():
            manifest = read_manifest(self.folder, self.kind)
            self._require_same(manifest["key"])
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            return manifest["body"]
        if (self.checkpoints / _KEY).exists():
            self._require_same(read_json(self.checkpoints / _KEY))
        elif self.folder.exists() and any(path.name != CHECKPOINTS for path in self.folder.iterdir()):
            raise ArtifactError(
                f"{self.folder} holds files that are no training's; choose an empty folder or a new one for the result."
            )
        return None

    def begin(self) -> None:
        """Write down what the run is the result of, so that no other run goes on from its checkpoints.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        write_json(self.checkpoints / _KEY, self.full_key)

    def commit(self, save: Callable[[Path], None], body: Mapping[str, Any]) -> None:
        """Save the result, write ``rahf.json`` and remove the checkpoints; of several processes one does it.

        Args:
            save: writes the trained weights into the folder.
            body: what the manifest says of them.

        Raises:
            ArtifactError: the folder cannot be written or the disk is full; the run can be called again.
        """
        from accelerate import PartialState

        state = PartialState()
        state.wait_for_everyone()
        if state.is_main_process:
            try:
                save(self.folder)
            except (OSError, SafetensorError) as error:
                raise ArtifactError(
                    f"the result cannot be written to {self.folder}: {error}. Free space and call again: the "
                    "checkpoints are kept."
                ) from error
            manifest = {"schema": SCHEMA, "kind": self.kind, "key": self.full_key, "versions": package_versions()}
            files = {path.name: file_sha256(path) for path in sorted(self.folder.glob("*.safetensors"))}
            write_json(self.folder / MANIFEST, manifest | {"files": files, "body": dict(body)})
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        state.wait_for_everyone()

    def _require_same(self, found: Mapping[str, Any]) -> None:
        there, here = dict(found), self.full_key
        old, new = there.pop(_MEASURED, {}), here.pop(_MEASURED)
        different = key_differences(there, here)
        different += [
            f"{name} are other numbers there" for name in new if not _close(old.get(name), new[name], self.tolerance)
        ]
        if different:
            raise ArtifactError(
                f"{self.folder} holds another run: {'; '.join(different)}. Choose another folder, or give what that "
                "run was given."
            )


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a finished run, whose weights are there as they were written.

    Raises:
        ArtifactError: there is none, it is of another kind or schema or lacks something, or weights were altered.
    """
    if not (folder / MANIFEST).exists() and (folder / CHECKPOINTS).exists():
        raise ArtifactError(f"the training into {folder} was broken off; call it again to finish it.")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("kind") != kind:
        raise ArtifactError(f"{folder} holds a {manifest.get('kind')!r} run; {kind!r} was expected.")
    if manifest.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{folder} has schema version {manifest.get('schema')!r}; this package reads version {SCHEMA}. Train again."
        )
    missing = {"key", "body", "files"} - manifest.keys()
    if missing:
        raise ArtifactError(f"the manifest of {folder} lacks {sorted(missing)}; train again into a new folder.")
    for name, digest in manifest["files"].items():
        path = folder / Path(name).name
        if not path.is_file() or file_sha256(path) != digest:
            raise ArtifactError(
                f"{path} is missing or does not match the checksum in {MANIFEST}: copy it anew, or train again into a "
                "new folder."
            )
    return manifest


def base_identity(plain: PlainModel) -> dict[str, str]:
    """What tells a base model from others, wherever it lies: architecture, dtype, all weights, tokenizer.

    Args:
        plain: the model, before anything is trained or added.
    """
    weights = hashlib.sha256()
    for name, weight in plain.model.named_parameters():
        weights.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        # As bytes: numpy has no bfloat16. A tensor of no dimensions has no bytes to view, so it is flattened first.
        weights.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    tokenizer = hashlib.sha256(plain.tokenizer.backend_tokenizer.to_str().encode())
    return {
        "architecture": type(plain.model).__name__,
        "dtype": str(next(plain.model.parameters()).dtype).removeprefix("torch."),
        "weights": weights.hexdigest()[:16],
        "tokenizer": f"{tokenizer.hexdigest()[:16]}, bos {plain.bos}",
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is said by transformers, accelerate and peft; how much they say is afterwards as it was before."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(transformers|accelerate|peft|torch)\b")
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def save_weights(model: nn.Module, base: str, folder: Path) -> None:
    """Save an adapter as ``peft`` does, or a whole model with the tokenizer of its base.

    Args:
        model: a ``PeftModel`` or a ``PreTrainedModel``.
        base: where the base is read from.
        folder: made if absent.

    Raises:
        OSError: the folder cannot be written.
    """
    from peft import PeftModel
    from transformers import AutoTokenizer

    saved: Any = model
    with quiet():
        if isinstance(model, PeftModel):
            # "auto" would ask the hub for the base's configuration.
            saved.save_pretrained(folder, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)  # a form with nothing filled in
        else:
            saved.save_pretrained(folder)
            # Read anew: the one that texts were tokenised with has settings of its own.
            AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def _close(one: Any, other: Sequence[float], tolerance: float) -> bool:
    """Whether numbers are the same but for rounding, on the scale of the largest."""
    if not isinstance(one, list) or len(one) != len(other):
        return False
    gap = max((abs(own - others) for own, others in zip(one, other, strict=True)), default=0.0)
    return gap <= tolerance * max(map(abs, (*one, *other)), default=0.0)
