"""LoRA adapters in the format of peft: found, checked, and merged into their base model.

An adapter adds ``s * B A`` to some weight matrices (LoRA, arXiv 2106.09685). Merged, it is a plain model of the base's
architecture, which every back end opens; TransformerLens knows nothing of adapters.
"""

import contextlib
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from contrans_lens.errors import ModelError

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

# Ways to begin the training that leave the base's weights as they are; others (pissa, olora, ...) move a part of them
# into the adapter, so that no multiple of it is the base.
_STARTS = (True, False, "gaussian", "orthogonal", "eva")
_FACTOR = re.compile(r"\.lora_(embedding_)?[AB](\.|$)")
_UNFIT = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)  # what peft raises


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk and how much of it is wanted."""

    folder: Path
    """Holds ``adapter_config.json`` and ``adapter_model.safetensors``."""
    scale: float
    """Multiplies what the adapter adds to the weights."""
    recorded: bool
    """Whether its base is the one that its configuration names."""

    @contextlib.contextmanager
    def finding_base(self) -> Iterator[None]:
        """Say of a base that cannot be opened whose it is, and how to name another."""
        try:
            yield
        except ModelError as error:
            if not self.recorded:
                raise
            raise ModelError(
                f"the base model named in {self.folder / CONFIG} cannot be opened: {error} If the base is at another "
                f"place here, name it: open_model(BASE, adapter={str(self.folder)!r})."
            ) from error


def find_adapter(
    model: str | Path, adapter: str | Path | None, scale: float | int
) -> tuple[str | Path, Adapter | None]:
    """The base model's place and the adapter to merge into it, if there is one.

    Args:
        model: a hub name or folder of a model, or the folder of an adapter, whose base is then the recorded one.
        adapter: the folder of an adapter for that model.
        scale: multiplies the adapter.

    Raises:
        ModelError: the scale is not finite or has no adapter; the folder is no LoRA adapter or has no safetensors
            weights; no base is recorded; the base is an adapter itself.
    """
    if not math.isfinite(scale):
        raise ModelError(f"adapter_scale is {scale}; a finite number was expected (0: the base, 1: the adapter).")
    if adapter is None:
        if not _is_adapter(model):
            if scale != 1:
                raise ModelError(f"adapter_scale={scale}, but {model} is no adapter and adapter= names none.")
            return model, None
        folder = Path(model).expanduser()
        base = _recorded_base(folder, _settings(folder))
        _require_whole_model(base)
        return base, Adapter(folder, float(scale), recorded=True)
    _require_whole_model(model)
    folder = Path(adapter).expanduser()
    _settings(folder)
    return model, Adapter(folder, float(scale), recorded=False)


def merge_adapter(hf_model: Any, adapter: Adapter) -> Any:
    """Merge a LoRA adapter into a Hugging Face model, which is changed, in its own dtype.

    Returns:
        The merged model, without any trace of peft.

    Raises:
        ModelError: peft is not installed, the weights cannot be read, do not fit the model or are not finite, or the
            adapter is none of which a multiple or a merged form exists.
    """
    try:
        from peft import LoraConfig, PeftModel, set_peft_model_state_dict
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise ModelError("opening a LoRA adapter needs peft: pip install peft.") from error
    weights = _load(adapter.folder / WEIGHTS)
    tied = _tied_embeddings(hf_model)
    name = type(hf_model).__name__
    advice = "Give the base that it was made on, of the same architecture and width."
    with _peft(f"the adapter in {adapter.folder} does not fit this {name}", advice):
        config = LoraConfig.from_pretrained(str(adapter.folder))
        wrapped = PeftModel(hf_model, config)
        found = set_peft_model_state_dict(wrapped, dict(weights))
    missing = [key for key in found.missing_keys if ".lora_" in key]
    if missing or found.unexpected_keys:
        raise ModelError(
            f"the adapter in {adapter.folder} does not fit this {name}: "
            + (f"it lacks {missing[0]}" if missing else f"the model has no place for {found.unexpected_keys[0]}")
            + f" ({len(missing)} missing, {len(found.unexpected_keys)} without a place). {advice}"
        )
    layers = [module for module in wrapped.modules() if isinstance(module, LoraLayer)]
    if any(layer.get_base_layer() in tied for layer in layers):
        raise ModelError(
            f"the adapter in {adapter.folder} changes the embedding or the unembedding of a model in which both are "
            "one tensor, so merging it would change the other too. Untie the base before training, or leave them out."
        )
    if adapter.scale != 1:
        _require_scalable(adapter, config, weights, layers)
        for layer in layers:
            layer.scale_layer(adapter.scale)
    with _peft(f"the adapter in {adapter.folder} cannot be merged", "Use it with peft, or look at its training."):
        return wrapped.merge_and_unload(safe_merge=True).eval().requires_grad_(True)


def _is_adapter(model: str | Path) -> bool:
    return (Path(model).expanduser() / CONFIG).is_file()


def _require_whole_model(base: str | Path) -> None:
    if _is_adapter(base):
        raise ModelError(
            f"the base {base} is itself an adapter ({CONFIG}); adapters are merged into whole models. Merge that one "
            "first (peft's merge_and_unload, then save_pretrained) and give the folder."
        )


def _settings(folder: Path) -> dict[str, Any]:
    """The configuration of a LoRA adapter whose weights are there to be read."""
    if not folder.is_dir():
        raise ModelError(f"there is no adapter folder at {folder}; download an adapter from the hub first.")
    if not (folder / CONFIG).is_file():
        raise ModelError(f"the folder {folder} holds no {CONFIG}; an adapter as peft saves it was expected.")
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG} cannot be read: {error}. Save the adapter again.") from error
    kind = found.get("peft_type") if isinstance(found, dict) else None
    if kind != "LORA":
        raise ModelError(f"the adapter in {folder} is of kind {kind!r}; only LoRA can be merged into a model here.")
    if not (folder / WEIGHTS).is_file():
        if (folder / PICKLE).is_file():
            raise ModelError(
                f"{folder} holds its weights as {PICKLE}, a pickle, which can run any code when it is read. Open it "
                "with peft where you trust it, and save_pretrained it anew: that writes safetensors."
            )
        raise ModelError(f"the adapter folder {folder} has no weights: {WEIGHTS} is not there. Save it again.")
    return dict(found)


def _recorded_base(folder: Path, settings: Mapping[str, Any]) -> str:
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{folder / CONFIG} names no base model; name it: open_model(BASE, adapter={str(folder)!r}).")
    if settings.get("revision") not in (None, "main") and not Path(base).expanduser().is_dir():
        raise ModelError(
            f"the adapter in {folder} was made on revision {settings['revision']!r} of '{base}'; download that one "
            f"and name its folder: open_model(FOLDER, adapter={str(folder)!r})."
        )
    return base


def _load(path: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(path, device="cpu")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}. The file is damaged; save or fetch it again.") from error
    if not weights:
        raise ModelError(f"{path} holds no tensors; save the adapter again.")
    for key, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"{key} in {path} holds NaN or infinity; look at the training that made it.")
    return weights


def _tied_embeddings(hf_model: Any) -> list[Any]:
    """Embedding and unembedding where they are one tensor."""
    first, last = hf_model.get_input_embeddings(), hf_model.get_output_embeddings()
    return [first, last] if last is not None and last.weight is first.weight else []


def _require_scalable(adapter: Adapter, config: Any, weights: Mapping[str, Tensor], layers: list[Any]) -> None:
    """Only what is linear in its scale, and nothing at scale 0, has multiples."""
    reason = None
    others = [key for key in weights if not _FACTOR.search(key)]
    if others:
        reason = f"holds more than the factors A and B ({others[0]})"
    elif config.layer_replication:
        reason = "repeats blocks (layer_replication)"
    elif config.init_lora_weights not in _STARTS:
        reason = f"takes a part of the base's weights out (init_lora_weights={config.init_lora_weights!r})"
    elif any(layer.lora_variant for layer in layers):
        reason = "is a variant of LoRA that is not linear in its scale"
    if reason is not None:
        raise ModelError(
            f"adapter_scale={adapter.scale} is not possible: the adapter in {adapter.folder} {reason}, so its "
            "multiples are not defined. Use adapter_scale=1."
        )


@contextlib.contextmanager
def _peft(trouble: str, advice: str) -> Iterator[None]:
    """Turn what peft raises into our error, and keep what it warns of from the user.

    Those are layouts that it puts right by itself and remarks of libraries about each other; what matters and is only
    warned of (weights that are missing, tied embeddings) is an error here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except _UNFIT as error:
            # torch names the tensors that do not fit from the second line on.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise ModelError(f"{trouble}: {' '.join(lines[:2])[:400]} {advice}") from error
