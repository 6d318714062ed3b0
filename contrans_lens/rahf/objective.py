"""What a training of RAHF learns: examples by index, how they become a batch, and the loss of a batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from contrans_lens.errors import RahfError

LossFunction = Callable[[nn.Module, Any], tuple[Tensor, Mapping[str, Tensor]]]
"""From the model and a collated batch to the loss (a mean over the batch's examples, see :attr:`Objective.weights`) and
further columns of the curve, scalars without gradients."""


@dataclass(frozen=True)
class Objective:
    """What is learnt: examples by index, how they become a batch, and the loss of a batch.

    Raises:
        RahfError: there are no examples.
    """

    tokens: tuple[int, ...]
    """Tokens that each example runs forward, all its rows and passes counted, without padding."""
    n_blocks: int
    """Blocks that each of these tokens runs through."""
    collate: Callable[[Sequence[int]], Any]
    """From indices of examples to a batch on the CPU: tensors, or what has ``.to(device)``, or containers of them."""
    loss: LossFunction
    """The loss of such a batch on the model's device. The model is the one that is trained, never a wrapper of it."""
    weights: tuple[int, ...] | None = None
    """What each example counts in the mean that the loss of a batch is, such as its answer tokens; None: all alike.
    Batches are averaged by these, so that a mean over tokens is one over all tokens of an update."""
    beside: tuple[int, ...] | None = None
    """Tokens that are run for each example beside these, where it is made when it is asked for; None: none. They count
    in the cost, and nowhere else."""

    def __post_init__(self) -> None:
        if not self.tokens:
            raise RahfError("there are no examples to learn from; give at least one.")
        if self.weights is not None and (len(self.weights) != len(self.tokens) or min(self.weights) <= 0):
            raise RahfError(
                f"{len(self.weights)} weights were given for {len(self.tokens)} examples; one above 0 for each was "
                "expected."
            )

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.tokens)

    def run_forward(self, examples: Sequence[int]) -> int:
        """Tokens that are run for examples, all counted."""
        return sum(self.tokens[index] + (0 if self.beside is None else self.beside[index]) for index in examples)

    def weight(self, examples: Sequence[int]) -> int:
        """What examples count together."""
        return len(examples) if self.weights is None else sum(self.weights[index] for index in examples)
