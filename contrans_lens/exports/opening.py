"""From the arguments of lm-evaluation-harness (numbers and texts) to an open model and its interventions."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from contrans_lens.errors import EvaluationError
from contrans_lens.interventions import Edit
from contrans_lens.models import HookedModel, open_model
from contrans_lens.pace.archive import load_edits

logger = logging.getLogger(__name__)

_MODEL = ("kind", "process_weights")
_OPTIONS = ("batch_size", "token_budget", "max_gen_toks", "max_length", "add_bos")
_KNOWN = ("pretrained", "intervention", "strength", "dtype", "device", *_MODEL, *_OPTIONS, "max_batch_size")


def open_steered(arguments: Mapping[str, Any]) -> tuple[HookedModel, list[Edit], dict[str, Any]]:
    """Open what arguments name.

    Args:
        arguments: ``pretrained``, a folder, hub name or live model; ``intervention``, a folder of saved interventions
            (none: the unsteered model); ``strength``, which replaces that of the one intervention in the folder;
            ``dtype``, e.g. ``"bfloat16"``, float32 if it is left out or ``"auto"``; ``kind``, ``device`` and
            ``process_weights`` of :func:`~contrans_lens.models.open_model`; ``max_batch_size``, the batch size where
            ``batch_size`` is ``"auto"``; the options of :class:`~contrans_lens.exports.SteeredLM`.

    Returns:
        The model, its interventions, and those options.

    Raises:
        EvaluationError: an argument is missing, unknown or has no sense.
        ModelError: the model cannot be opened.
        ArtifactError: the folder holds no interventions.
        FingerprintMismatchError: they were made for another model.
    """
    if unknown := sorted(arguments.keys() - set(_KNOWN)):
        raise EvaluationError(f"the model arguments {unknown} are unknown; known are {', '.join(_KNOWN)}.")
    pretrained = arguments.get("pretrained")
    if pretrained is None:
        raise EvaluationError("the model arguments lack pretrained=, the folder or hub name of the model.")
    model = pretrained
    if isinstance(pretrained, str | Path):
        how = {name: arguments[name] for name in _MODEL if name in arguments}
        how |= {"dtype": _dtype(arguments.get("dtype")), "device": _device(arguments.get("device"))}
        model = open_model(pretrained, **how)
    options = {name: arguments[name] for name in _OPTIONS if name in arguments}
    if rows_at_once(options.get("batch_size")) is None:
        options["batch_size"] = arguments.get("max_batch_size")
    return model, _interventions(arguments.get("intervention"), arguments.get("strength"), model), options


def rows_at_once(batch_size: int | str | None) -> int | None:
    """A batch size as lm-evaluation-harness writes it; None where there is no limit (``"auto"``).

    Raises:
        EvaluationError: it is no number of rows.
    """
    if batch_size is None or str(batch_size).partition(":")[0] == "auto":
        return None
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise EvaluationError(f"batch_size is {batch_size!r}; a number of rows from 1 on, or 'auto', is expected.")
    return int(batch_size)


def _interventions(folder: str | Path | None, strength: float | None, model: HookedModel) -> list[Edit]:
    stored = [] if folder is None else list(load_edits(Path(folder), model))
    if strength is None:
        return stored
    if len(stored) != 1:
        raise EvaluationError(
            f"strength={strength} is that of one intervention, and there are {len(stored)}; save them at the "
            "strengths they are to have."
        )
    return [stored[0].with_strength(float(strength))]


def _dtype(given: str | torch.dtype | None) -> torch.dtype | None:
    if given is None or given == "auto" or isinstance(given, torch.dtype):
        return given if isinstance(given, torch.dtype) else None
    found = getattr(torch, given, None)
    if not isinstance(found, torch.dtype):
        raise EvaluationError(f"dtype is {given!r}; float32, bfloat16 or float16 is expected.")
    return found


def _device(given: str | torch.device | None) -> str | torch.device | None:
    """The device; None, the best there is, for a GPU where there is none: the harness' command line asks for one."""
    if given is not None and torch.device(given).type == "cuda" and not torch.cuda.is_available():
        logger.warning("There is no CUDA here; the model goes to the CPU instead of %s.", given)
        return None
    return given
