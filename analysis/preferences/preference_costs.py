"""What methods spend: processor time, and tokens times the blocks that they run through."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from contrans_lens.artifacts import read_json, write_json
from contrans_lens.models import HookedModel
from contrans_lens.rahf.training import Cost


@dataclass
class Spent:
    """Time and work, by the name of the step."""

    cpu_seconds: float = 0.0
    block_tokens: int = 0
    """Forward only, padding included where hooked models run; a training's backward pass costs about twice more and
    shows in the seconds."""
    parts: dict[str, float] = field(default_factory=dict)
    """Processor seconds of each step."""

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.cpu_seconds + other.cpu_seconds, self.block_tokens + other.block_tokens, self.parts | other.parts
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return vars(self)


def trained(name: str, cost: Cost) -> Spent:
    """What a training of the package took."""
    return Spent(cost.cpu_seconds, cost.block_tokens, {name: cost.cpu_seconds})


@contextmanager
def metered(name: str, *models: HookedModel | nn.ModuleList) -> Iterator[Spent]:
    """Fill in what the ``with`` block takes: processor time, and everything the blocks of these models run.

    Args:
        name: of the step.
        models: hooked models (``.blocks``) or lists of blocks.
    """
    spent = Spent()

    def count(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        states = inputs[0] if inputs else named["hidden_states"]
        spent.block_tokens += int(states.shape[0] * states.shape[1])

    with ExitStack() as stack:
        for model in {id(model): model for model in models}.values():
            for block in model if isinstance(model, nn.ModuleList) else getattr(model, "blocks", ()):
                stack.callback(block.register_forward_pre_hook(count, with_kwargs=True).remove)
        begun = time.process_time()
        yield spent
        spent.cpu_seconds = time.process_time() - begun
    spent.parts = {name: spent.cpu_seconds}


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a finished part found, made now if it is not there yet."""
    if not path.exists():
        write_json(path, json.loads(json.dumps(make())))
    return read_json(path)
