"""Low-rank adapters of RAHF: which modules of a plain model learn, and in which blocks."""

from typing import Any

from torch import nn

from contrans_lens.errors import RahfError
from contrans_lens.models.plain import blocks
from contrans_lens.rahf.training import LoraSettings, seeded
from contrans_lens.rahf.training_run import quiet

QUERY_AND_VALUE = (("q_proj", "v_proj"), ("c_attn",), ("query_key_value",), ("qkv_proj",), ("Wqkv",))
"""Where architectures keep their query and value projections. Where all three are one matrix, it learns as a whole."""


def lora_config(model: nn.Module, lora: LoraSettings, n_blocks: int | None = None) -> Any:
    """The ``peft.LoraConfig`` of an adapter on a plain model.

    Args:
        model: a ``PreTrainedModel``, truncated or not, not yet wrapped.
        lora: rank, scale, dropout, modules.
        n_blocks: only the first so many blocks learn, because nothing above them is read; None: all of them do.

    Raises:
        RahfError: a module that was asked for is not in these blocks, or none of the usual ones is there.
        ModelError: the model has no list of blocks.
    """
    from peft import LoraConfig, TaskType

    layers = blocks(model)
    if n_blocks is not None and not 1 <= n_blocks <= len(layers):
        raise RahfError(f"n_blocks={n_blocks}; from 1 to {len(layers)} was expected, the number of the model's blocks.")
    modules = linear_modules(model, n_blocks)
    names = lora.modules or next((names for names in QUERY_AND_VALUE if all(_found(n, modules) for n in names)), ())
    missing = [name for name in names if not _found(name, modules)]
    if missing or not names:
        asked = f"no module {missing[0]!r}" if missing else "no query and value projections of a known name"
        raise RahfError(
            f"there is {asked} in the blocks of {type(model).__name__}; they have {', '.join(sorted(modules))}. "
            "Name some of these in LoraSettings(modules=...)."
        )
    stacked = {} if n_blocks is None else {"layers_to_transform": list(range(n_blocks)), "layers_pattern": _list(model)}
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=sorted(names),
        # GPT-2 keeps its projections as Conv1D, the other way round than nn.Linear.
        fan_in_fan_out=any(
            type(modules[each]).__name__ == "Conv1D" for name in names for each in _found(name, modules)
        ),
        **stacked,
    )


def add_adapter(model: nn.Module, lora: LoraSettings, seed: int, n_blocks: int | None = None) -> Any:
    """Wrap a plain model into a ``peft.PeftModel`` whose new adapter changes nothing yet (B = 0).

    The same seed draws the same first weights; the caller's random numbers are left alone.

    Args:
        model: a ``PreTrainedModel``, truncated or not; it is changed, and frozen but for the adapter.
        lora: rank, scale, dropout, modules.
        seed: of the first weights of A.
        n_blocks: only the first so many blocks learn; None: all of them do.

    Raises:
        RahfError: a module that was asked for is not in these blocks, or none of the usual ones is there.
        ModelError: the model has no list of blocks.
    """
    from peft import get_peft_model

    config = lora_config(model, lora, n_blocks)
    with seeded(seed), quiet():  # peft asks transformers for what has been renamed there
        return get_peft_model(model, config)


def linear_modules(model: nn.Module, n_blocks: int | None = None) -> dict[str, nn.Module]:
    """The linear modules that a plain model's first blocks have, by their names within a block.

    Args:
        model: a plain model.
        n_blocks: how many blocks are looked at; None: all.

    Raises:
        ModelError: the model has no list of blocks.
    """
    found: dict[str, nn.Module] = {}
    for layer in blocks(model)[:n_blocks]:
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
                found.setdefault(name, module)
    return found


def _found(name: str, modules: dict[str, nn.Module]) -> list[str]:
    """The modules that ``peft`` takes a name for: it is theirs, or the end of theirs."""
    return [each for each in modules if each == name or each.endswith(f".{name}")]


def _list(model: nn.Module) -> str:
    """What the model calls its list of blocks, such as ``"layers"``."""
    layers = blocks(model)
    return next(name for name, module in model.named_modules() if module is layers).rpartition(".")[2]
