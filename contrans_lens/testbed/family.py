"""The public face of the shipped weights: which models exist and where they lie."""

from pathlib import Path

from contrans_lens.errors import TestbedError

WEIGHTS = Path(__file__).parent / "weights"
FAMILIES = ("gpt2", "rotary")
ROLES = ("source", "target", "aligned")


def model_names() -> tuple[str, ...]:
    """The names of the six models: `<family>-<role>`.

    `source` is small and aligned, `target` larger and unaligned, `aligned` is the target after alignment.
    """
    return tuple(f"{family}-{role}" for family in FAMILIES for role in ROLES)


def model_path(name: str, root: Path = WEIGHTS) -> Path:
    """The folder of a shipped model: Hugging Face files (config, weights, tokenizer) and its card.

    Args:
        name: One of `model_names()`.
        root: Where the folders lie; the package's own by default, or the `--out` of a training run.

    Raises:
        TestbedError: If there is no such model, or its weights are missing.
    """
    if name not in model_names():
        raise TestbedError(f"no embedded model {name!r}; there are {', '.join(model_names())}")
    folder = root / name
    if not (folder / "model.safetensors").is_file():
        present = [other for other in model_names() if (root / other / "model.safetensors").is_file()]
        raise TestbedError(
            f"the weights of {name!r} are not in {root} (present: {', '.join(present) or 'none'}); reinstall"
            f" the package, or train them with `python -m contrans_lens.testbed train --out {root}`"
        )
    return folder
