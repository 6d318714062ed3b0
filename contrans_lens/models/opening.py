"""``open_model``: a hub name, a local folder or a live model becomes a :class:`HookedModel`."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from contrans_lens.errors import ModelError
from contrans_lens.models import hooked
from contrans_lens.models.adapters import Adapter, find_adapter, merge_adapter
from contrans_lens.models.protocol import HookedModel
from contrans_lens.models.sources import default_device, load_config, load_tokenizer, model_place, quiet, reading

Kind = Literal["auto", "hooked", "bridge"]
DeviceMap = str | Mapping[str, str | int]


def open_model(
    model: str | Path | HookedModel | torch.nn.Module,
    *,
    kind: Kind = "auto",
    process_weights: bool = False,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    tokenizer: Any = None,
    adapter: str | Path | None = None,
    adapter_scale: float | int = 1.0,
) -> HookedModel:
    """Open a language model whose activations have names.

    Args:
        model: a hub name, a local Hugging Face folder, the folder of a LoRA adapter as peft saves it (its base is
            opened and the adapter merged into it), or a live HookedTransformer or TransformerBridge, which is
            returned as it is.
        kind: ``"hooked"`` is HookedTransformer (TransformerLens 3.9; GPT-2, NeoX/Pythia, Llama, Mistral,
            Qwen2, Qwen3 and Gemma; rotary contexts are cut to 2,048 tokens), ``"bridge"`` is
            TransformerBridge, ``"auto"`` is the first where it is possible and the second elsewhere.
        process_weights: fold the norms into the weights and centre what is written to the residual stream.
            The log-probs stay; the residual stream of LayerNorm models becomes mean-centred, so that
            artifacts made with and without do not mix (see :class:`~contrans_lens.models.Fingerprint`).
        dtype: of the weights; float32 if None, whatever is on disk.
        device: where the model goes; CUDA if there is one and None is given, else the CPU.
        device_map: spread a model that is larger than one device (``"auto"``, ``"balanced"`` or a mapping of
            modules to devices, as in Hugging Face). Bridge only; instead of ``device``.
        tokenizer: used instead of the model's own (a copy of it is). An adapter's model has its base's.
        adapter: the folder of a LoRA adapter that is merged into ``model``, whatever base it records.
        adapter_scale: multiplies what the adapter adds to the weights, here or where ``model`` is an adapter:
            0 is the base, 1 the adapter.

    Raises:
        ModelError: nothing is at that place, the hub cannot be reached, the architecture or the combination
            of arguments is not supported, an adapter cannot be read or does not fit its base, or a live model
            was given together with options it would have to be changed for.
    """
    if not isinstance(model, str | Path):
        options = (kind != "auto", process_weights, dtype, device, device_map, tokenizer, adapter, adapter_scale != 1)
        return _live(model, any(option is not None and option is not False for option in options))
    model, found = find_adapter(model, adapter, adapter_scale)
    with found.finding_base() if found is not None else contextlib.nullcontext():
        place = model_place(model)
        config = load_config(place)
    dtype = dtype or torch.float32
    if _choose_kind(kind, config, device_map) == "hooked":
        hf_model = _load_weights(place, dtype, found)
        own, starts_with_bos = load_tokenizer(place, config, tokenizer)
        opened = hooked.convert(hf_model, own, process_weights=process_weights, device=default_device(device))
    else:
        own, starts_with_bos = load_tokenizer(place, config, tokenizer)
        opened = _open_bridge(place, config, process_weights, dtype, device, device_map, own, found)
    opened.cfg.default_prepend_bos = starts_with_bos
    return opened


def _live(model: HookedModel | torch.nn.Module, has_options: bool) -> HookedModel:
    if not isinstance(model, HookedModel):
        raise ModelError(
            f"a {type(model).__name__} has no named hook points. Give the hub name or folder it came from, "
            "or a live HookedTransformer or TransformerBridge. (A Bridge around a live Hugging Face model "
            "changes that model for good, so it is not done here: save_pretrained it and open the folder.)"
        )
    if has_options:
        raise ModelError(
            "a live model is used as it is; kind, process_weights, dtype, device, device_map, tokenizer, adapter and "
            "adapter_scale apply to hub names and folders only. Change the model before you hand it over."
        )
    return model


def _choose_kind(kind: Kind, config: Any, device_map: DeviceMap | None) -> Literal["hooked", "bridge"]:
    if kind == "bridge":
        return "bridge"
    available = hooked.hooked_transformer_available()
    reason = hooked.unsupported_reason(config)
    if device_map is not None:
        reason = "device_map spreads a model over devices, which HookedTransformer cannot"
    if kind == "auto":
        return "hooked" if available and reason is None else "bridge"
    if not available:
        raise ModelError(
            "kind='hooked' needs HookedTransformer, which TransformerLens 4 removed. Use kind='bridge' (with "
            "process_weights=True for the same numbers as a processed HookedTransformer), or install "
            "transformer-lens==3.9.0."
        )
    if reason is not None:
        raise ModelError(f"kind='hooked' is not possible: {reason}. Use kind='bridge' or kind='auto'.")
    return "hooked"


def _load_weights(place: str, dtype: torch.dtype, adapter: Adapter | None, **where: Any) -> Any:
    """The Hugging Face model, read anew, with its adapter: no live model of the caller's is ever touched."""
    from transformers import AutoModelForCausalLM

    with quiet(place), reading(place, "the weights"):
        # Eager attention, as Bridge has it: the two back ends then differ by rounding only.
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, attn_implementation="eager", **where).eval()
    return model if adapter is None else merge_adapter(model, adapter)


def _empty_tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()))
    tokenizer.init_kwargs = {"name_or_path": "", "add_bos_token": True}
    return tokenizer


def _open_bridge(
    place: str,
    config: Any,
    process_weights: bool,
    dtype: torch.dtype,
    device: str | torch.device | None,
    device_map: DeviceMap | None,
    tokenizer: Any,
    adapter: Adapter | None,
) -> HookedModel:
    from transformer_lens.model_bridge import TransformerBridge

    if not getattr(config, "scale_attn_weights", True):
        raise ModelError(
            "the configuration has scale_attn_weights=False, which TransformerBridge ignores in silence; such a "
            "model opens with kind='hooked' (transformer-lens 3.9) only."
        )
    if device_map is not None and device is not None:
        raise ModelError("give device or device_map, not both: the map already says where every module goes.")
    where: dict[str, Any] = {"device": str(default_device(device))}
    if device_map is not None:
        where = {"device_map": device_map if isinstance(device_map, str) else dict(device_map)}
    if adapter is not None:
        # Bridge reads weights by itself, or takes a model that is where it has to be. This one is nobody else's.
        merged = _load_weights(place, dtype, adapter, device_map=where.get("device_map"))
        where = {"hf_model": merged} if device_map is not None else where | {"hf_model": merged.to(where["device"])}
    with quiet(place), reading(place, "the model"):
        # Without a tokenizer TransformerLens looks for one and fails where the folder has none.
        stand_in = tokenizer if tokenizer is not None else _empty_tokenizer()
        bridge = TransformerBridge.boot_transformers(place, dtype=dtype, tokenizer=stand_in, **where)
        if process_weights:
            bridge.enable_compatibility_mode(disable_warnings=True)
    if tokenizer is None:
        bridge.tokenizer = None
    bridge.eval()
    return bridge
