"""What lies on disk or on the hub, read as Hugging Face reads it: places, configurations, tokenizers."""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from contrans_lens.errors import ModelError
from contrans_lens.models import hooked


def model_place(model: str | Path) -> str:
    """A folder's absolute path, or the hub name.

    Raises:
        ModelError: it is a folder without a model, or looks like one that is not there.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"the folder {folder} holds no config.json; a Hugging Face model folder was expected.")
        return str(folder.resolve())
    text = str(model)
    if isinstance(model, Path) or folder.exists() or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ModelError(f"there is no model folder at {folder}; check the path (or give a hub name such as 'gpt2').")
    return text


def default_device(device: str | torch.device | None) -> torch.device:
    """The device that was asked for, else CUDA if there is one, else the CPU.

    Raises:
        ModelError: there is no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"{device!r} is no device; 'cpu', 'cuda', 'cuda:1' or 'mps' was expected.") from error
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(wanted.type, True):
        usable = ", ".join(["cpu", *(name for name, there in here.items() if there)])
        raise ModelError(f"the device {str(wanted)!r} is not there, or this torch cannot use it; here is {usable}.")
    return wanted


@contextlib.contextmanager
def reading(place: str, what: str) -> Iterator[None]:
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


def load_config(place: str) -> Any:
    """The Hugging Face configuration.

    Raises:
        ModelError: it cannot be had.
    """
    from transformers import AutoConfig

    with reading(place, "the configuration"):
        return AutoConfig.from_pretrained(place)


def load_tokenizer(place: str, config: Any, given: Any) -> tuple[Any, bool]:
    """A tokenizer that TransformerLens leaves as it is, or None, and whether texts start with BOS.

    They do where the tokenizer adds BOS by itself, or has one and the architecture's convention in
    TransformerLens is to begin with it (all but NeoX and Qwen).

    Args:
        place: folder or hub name.
        config: the model's configuration.
        given: used instead of the model's own (a copy of it is).

    Raises:
        ModelError: it cannot be read.
    """
    if given is not None:
        tokenizer = copy.deepcopy(given)
    else:
        from transformers import AutoTokenizer

        folder = Path(place)
        if folder.is_dir() and not any(folder.glob("*token*")) and not any(folder.glob("vocab*")):
            return None, False
        with reading(place, "the tokenizer"):
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


@contextlib.contextmanager
def quiet(place: str) -> Iterator[None]:
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
