"""How models are given, and how results name them."""

from pathlib import Path
from typing import Any

from contrans_lens.models.fingerprint import Fingerprint
from contrans_lens.models.protocol import HookedModel

Model = str | Path | HookedModel
"""A hub name, a local folder, or a live model."""


def described(fingerprint: Fingerprint, name: str) -> dict[str, Any]:
    """A model as results name it: its fingerprint and what it was called."""
    return {**fingerprint.to_dict(), "name": name}


def model_name(model: Model) -> str:
    """What a model is called: its hub name, the name of its folder, or its configuration's name."""
    if isinstance(model, Path):
        return model.name
    if isinstance(model, str):
        return Path(model).name if Path(model).is_dir() else model
    folder = Path(str(getattr(model.tokenizer, "name_or_path", "") or "")).name
    return folder or str(getattr(model.cfg, "model_name", type(model).__name__))
