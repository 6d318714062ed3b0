"""``open_model``: a hub name, a local folder or a live model becomes a :class:`HookedModel`."""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from contrans_lens.errors import ModelError
from contrans_lens.models import hooked
from contrans_lens.models.protocol import HookedModel

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
) -> HookedModel:
    """Open a language model whose activations have names.

    Args:
        model: a hub name, a local Hugging Face folder, or a live HookedTransformer or TransformerBridge,
            which is returned as it is.
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
        tokenizer: used instead of the model's own (a copy of it is).

    Raises:
        ModelError: nothing is at that place, the hub cannot be reached, the architecture or the combination
            of arguments is not supported, or a live model was given together with options it would have to be
            changed for.
    """
    if not isinstance(model, str | Path):
        return _live(model, kind, process_weights, dtype, device, device_map, tokenizer)
    place = _place(model)
    config = _load_config(place)
    if _choose_kind(kind, config, device_map) == "hooked":
        hf_model = _load_weights(place, dtype or torch.float32)
        own, starts_with_bos = _tokenizer(place, config, tokenizer)
        opened = hooked.convert(hf_model, own, process_weights=process_weights, device=_device(device))
    else:
        own, starts_with_bos = _tokenizer(place, config, tokenizer)
        opened = _open_bridge(place, config, process_weights, dtype or torch.float32, device, device_map, own)
    opened.cfg.default_prepend_bos = starts_with_bos
    return opened


def _live(
    model: HookedModel | torch.nn.Module,
    kind: Kind,
    process_weights: bool,
    dtype: torch.dtype | None,
    device: str | torch.device | None,
    device_map: DeviceMap | None,
    tokenizer: Any,
) -> HookedModel:
    if not isinstance(model, HookedModel):
        raise ModelError(
            f"a {type(model).__name__} has no named hook points. Give the hub name or folder it came from, "
            "or a live HookedTransformer or TransformerBridge. (A Bridge around a live Hugging Face model "
            "changes that model for good, so it is not done here: save_pretrained it and open the folder.)"
        )
    options = (kind != "auto", process_weights, dtype, device, device_map, tokenizer)
    if any(option is not None and option is not False for option in options):
        raise ModelError(
            "a live model is used as it is; kind, process_weights, dtype, device, device_map and tokenizer "
            "apply to hub names and folders only. Change the model before you hand it over."
        )
    return model


def _place(model: str | Path) -> str:
    """A folder's absolute path, or the hub name."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"the folder {folder} holds no config.json; a Hugging Face model folder was expected.")
        return str(folder.resolve())
    text = str(model)
    if isinstance(model, Path) or folder.exists() or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ModelError(f"there is no model folder at {folder}; check the path (or give a hub name such as 'gpt2').")
    return text


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


def _device(device: str | torch.device | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def _reading(place: str, what: str) -> Iterator[None]:
    """Turn what Hugging Face raises on missing, broken or unreachable files into our error."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if Path(place).is_dir():
            raise ModelError(f"{what} in {place} cannot be read: {first}. Check that the folder is whole.") from error
        raise ModelError(
            f"{what} of '{place}' cannot be had from the Hugging Face hub: {first} If this machine "
            f"has no network, download it where there is one (hf download {place} --local-dir FOLDER) and open "
            "the folder; if the name is private or gated, set HF_TOKEN; if a folder was meant, it is not there."
        ) from error


def _load_config(place: str) -> Any:
    from transformers import AutoConfig

    with _reading(place, "the configuration"):
        return AutoConfig.from_pretrained(place)


def _load_weights(place: str, dtype: torch.dtype) -> Any:
    """The Hugging Face model, read anew: no live model of the caller's is ever touched."""
    from transformers import AutoModelForCausalLM

    with _quiet(place), _reading(place, "the weights"):
        # Eager attention, as Bridge has it: the two back ends then differ by rounding only.
        return AutoModelForCausalLM.from_pretrained(place, dtype=dtype, attn_implementation="eager").eval()


def _tokenizer(place: str, config: Any, given: Any) -> tuple[Any, bool]:
    """A tokenizer that TransformerLens leaves as it is, or None, and whether texts start with BOS.

    They do where the tokenizer adds BOS by itself, or has one and the architecture's convention in
    TransformerLens is to begin with it (all but NeoX and Qwen).
    """
    if given is not None:
        tokenizer = copy.deepcopy(given)
    else:
        from transformers import AutoTokenizer

        folder = Path(place)
        if folder.is_dir() and not any(folder.glob("*token*")) and not any(folder.glob("vocab*")):
            return None, False
        with _reading(place, "the tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(place)
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer.encode("a")[:1] == [bos]
    starts_with_bos = adds_bos or (bos is not None and hooked.begins_with_bos(config))
    # TransformerLens loads a tokenizer again to make it add BOS; this one claims that it does, so it is left
    # alone. TransformerLens tests what a tokenizer really does before it relies on it, and this package adds
    # BOS itself.
    tokenizer.init_kwargs = {"name_or_path": place} | tokenizer.init_kwargs | {"add_bos_token": True}
    # HookedTransformer reads the padding off the tokens where this is "left", and mistakes a BOS for it.
    tokenizer.padding_side = "right"
    return tokenizer, starts_with_bos


def _empty_tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()))
    tokenizer.init_kwargs = {"name_or_path": "", "add_bos_token": True}
    return tokenizer


@contextlib.contextmanager
def _quiet(place: str) -> Iterator[None]:
    """Keep what TransformerLens says about its own plans, and progress bars of local files, from the user."""
    from transformers.utils import logging as hf_logging

    logger = logging.getLogger()
    level, bars = logger.level, hf_logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"transformer_lens.*")
        logger.setLevel(max(level, logging.ERROR))
        if Path(place).is_dir():
            hf_logging.disable_progress_bar()
        try:
            yield
        finally:
            logger.setLevel(level)
            if bars:
                hf_logging.enable_progress_bar()


def _open_bridge(
    place: str,
    config: Any,
    process_weights: bool,
    dtype: torch.dtype,
    device: str | torch.device | None,
    device_map: DeviceMap | None,
    tokenizer: Any,
) -> HookedModel:
    from transformer_lens.model_bridge import TransformerBridge

    if not getattr(config, "scale_attn_weights", True):
        raise ModelError(
            "the configuration has scale_attn_weights=False, which TransformerBridge ignores in silence; such a "
            "model opens with kind='hooked' (transformer-lens 3.9) only."
        )
    if device_map is not None and device is not None:
        raise ModelError("give device or device_map, not both: the map already says where every module goes.")
    where: dict[str, Any] = {"device": str(_device(device))}
    if device_map is not None:
        where = {"device_map": device_map if isinstance(device_map, str) else dict(device_map)}
    with _quiet(place), _reading(place, "the model"):
        # Without a tokenizer TransformerLens looks for one and fails where the folder has none.
        stand_in = tokenizer if tokenizer is not None else _empty_tokenizer()
        bridge = TransformerBridge.boot_transformers(place, dtype=dtype, tokenizer=stand_in, **where)
        if process_weights:
            bridge.enable_compatibility_mode(disable_warnings=True)
    if tokenizer is None:
        bridge.tokenizer = None
    bridge.eval()
    return bridge
