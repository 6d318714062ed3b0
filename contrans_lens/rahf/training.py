"""What both trainings of RAHF share: settings, loss curves, costs, and a run of ``transformers.Trainer``.

The order of the batches is a function of the seed, the number of examples and their lengths; checkpoints keep the
optimiser and every random state. A run that was broken off and called again therefore ends in the very tensors of an
unbroken one.
"""

import contextlib
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from contrans_lens.errors import ArtifactError, RahfError
from contrans_lens.rahf.memory import free_models
from contrans_lens.rahf.objective import Objective
from contrans_lens.rahf.training_run import TrainingRun

Schedule = Literal["constant", "linear", "cosine"]
"""What the learning rate does after the warm-up: stay, or fall to zero."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise RahfError(message)


@dataclass(frozen=True)
class LoraSettings:
    """A low-rank adapter, by default that of RAHF: rank 8 on the query and value projections.

    Raises:
        RahfError: a number is out of its range.
    """

    rank: int = 8
    """Rank r of the update ``(alpha / r) B A``."""
    alpha: int | float = 16
    """Scale of the update, before it is divided by the rank."""
    dropout: float | int = 0.05
    """Share of the adapter's inputs that is dropped in training."""
    modules: tuple[str, ...] | None = None
    """Names of the linear modules that learn; None: query and value projections, or what holds them."""

    def __post_init__(self) -> None:
        _require(self.rank >= 1, f"rank={self.rank}; 1 or more was expected.")
        _require(math.isfinite(self.alpha) and self.alpha > 0, f"alpha={self.alpha}; a number above 0 was expected.")
        _require(0 <= self.dropout < 1, f"dropout={self.dropout}; a share from 0 to below 1 was expected.")
        _require(self.modules is None or len(self.modules) > 0, "modules=(); name at least one, or give None.")


@dataclass(frozen=True)
class TrainingSettings:
    """How long, in which batches and how fast is learnt. The defaults are those of RAHF's fit (AdamW).

    Raises:
        RahfError: a number is out of its range, or there is no such schedule.
    """

    steps: int = 450
    """Updates of the weights."""
    batch_size: int = 16
    """Examples in one forward pass of one process."""
    accumulation: int = 4
    """Batches whose gradients are averaged for one update."""
    learning_rate: float | int = 3e-4
    """Highest learning rate."""
    schedule: Schedule = "constant"
    """What the learning rate does after the warm-up."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises from zero."""
    weight_decay: float | int = 0.0
    """Decay of AdamW."""
    max_grad_norm: float | int = 1.0
    """Norm to which gradients are clipped; 0: not at all."""
    seed: int = 0
    """Of the adapter's first weights, of dropout and of the order of the examples."""
    checkpoint_every: int = 100
    """Updates from one checkpoint (and validation) to the next."""
    log_every: int = 10
    """Updates that a point of the loss curve is the mean of."""
    max_length: int | None = None
    """Most tokens in a row; None: the model's context."""
    max_answer_tokens: int | None = 512
    """Most tokens of an answer; None: what fits."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "checkpoint_every", "log_every"):
            _require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}; 1 or more was expected.")
        for name in ("warmup_steps", "weight_decay", "max_grad_norm", "seed"):
            _require(getattr(self, name) >= 0, f"{name}={getattr(self, name)}; 0 or more was expected.")
        for name in ("max_length", "max_answer_tokens"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name}={value}; 1 or more, or None, was expected.")
        rate = self.learning_rate
        _require(math.isfinite(rate) and rate > 0, f"learning_rate={rate}; a number above 0 was expected.")
        _require(
            self.schedule in ("constant", "linear", "cosine"),
            f"schedule={self.schedule!r}; 'constant', 'linear' or 'cosine' was expected.",
        )


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What a base's weights may be in training; in float16 small gradients vanish."""


def dtype_name(dtype: torch.dtype, *, lora: bool = True) -> str:
    """Name of a dtype that the weights of a base may have in training.

    Losses and targets are computed in float32, and adapters have weights of float32, whatever the base's are.

    Args:
        dtype: of the base's weights.
        lora: whether an adapter learns, or else these weights.

    Raises:
        RahfError: gradients or updates would be lost in it.
    """
    name = str(dtype).removeprefix("torch.")
    _require(dtype in DTYPES.values(), f"dtype={name}; {' or '.join(DTYPES)} was expected.")
    _require(
        lora or dtype == torch.float32,
        f"dtype={name} without LoRA: updates smaller than a 256th of a weight would be lost; train in float32, or an "
        "adapter.",
    )
    return name


RAHF_LORA = LoraSettings()
"""The adapter of RAHF."""
RAHF_TRAINING = TrainingSettings()
"""The training of RAHF's fit."""


@dataclass(frozen=True)
class LossCurve:
    """A loss over a training, with further columns that explain it.

    Raises:
        RahfError: the columns are not all as long as the steps.
    """

    steps: tuple[int, ...]
    """Number of updates made at each point."""
    losses: tuple[float, ...]
    """The loss at each point: the mean since the point before."""
    columns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Further numbers by name, one per point."""

    def __post_init__(self) -> None:
        lengths = {len(self.steps), len(self.losses), *map(len, self.columns.values())}
        _require(len(lengths) == 1, f"a curve of {len(self.steps)} points has columns of {sorted(lengths)}.")

    def __len__(self) -> int:
        """Number of points."""
        return len(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        columns = {name: list(values) for name, values in self.columns.items()}
        return {"steps": list(self.steps), "losses": list(self.losses), "columns": columns}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LossCurve":
        """From :meth:`to_dict`.

        Raises:
            ArtifactError: something is missing or does not fit.
        """
        try:
            columns = {name: tuple(map(float, column)) for name, column in values["columns"].items()}
            return cls(tuple(map(int, values["steps"])), tuple(map(float, values["losses"])), columns)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ArtifactError(f"a stored loss curve cannot be read: {error!r}; train again.") from error


@dataclass(frozen=True)
class Cost:
    """What a training took, validation left out."""

    seconds: float
    """Wall time."""
    cpu_seconds: float
    """Processor time of this process."""
    n_steps: int
    """Updates of the weights."""
    n_tokens: int
    """Tokens run forward, all passes and processes counted, without padding."""
    block_tokens: int
    """Tokens times the blocks that each ran through: the unit in which methods are compared."""
    n_trainable: int
    """Weights that learnt."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Cost":
        """From :meth:`to_dict`.

        Raises:
            ArtifactError: a field is missing or unknown.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ArtifactError(f"a stored cost cannot be read: {error}; train again.") from error


@dataclass(frozen=True)
class TrainingRecord:
    """How a training went."""

    curve: LossCurve
    """Over the training examples."""
    validation_curve: LossCurve | None
    """Over the validation examples: before the first update, at every checkpoint and at the end."""
    cost: Cost
    """What it took."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        validation = None if self.validation_curve is None else self.validation_curve.to_dict()
        return {"curve": self.curve.to_dict(), "validation_curve": validation, "cost": self.cost.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingRecord":
        """From :meth:`to_dict`; other keys are left aside.

        Raises:
            ArtifactError: something is missing or does not fit.
        """
        try:
            validation = values["validation_curve"]
            curves = LossCurve.from_dict(values["curve"]), validation and LossCurve.from_dict(validation)
            return cls(*curves, Cost.from_dict(values["cost"]))
        except KeyError as error:
            raise ArtifactError(f"a stored training record lacks {error}; train again.") from error


def train(
    model: nn.Module,
    objective: Objective,
    training: TrainingSettings,
    run: TrainingRun,
    *,
    validation: Objective | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> TrainingRecord:
    """Train a model in place with ``transformers.Trainer`` and AdamW, or go on from the run's last checkpoint.

    Under accelerate's launcher every process trains on batches of its own, so that an update is made from
    ``batch_size * accumulation * processes`` examples. The seed of the caller's random numbers is left alone.

    Args:
        model: a ``PreTrainedModel`` or a ``PeftModel`` on the CPU; its weights that require gradients are trained. Draw
            an adapter's first weights within :func:`seeded`.
        objective: what is learnt.
        training: for how long and how fast.
        run: the folder, in which ``checkpoints/`` lies until ``run.commit`` is called.
        validation: examples that are scored, not learnt.
        device: ``"cpu"``, ``"cuda"``, ...; None: CUDA if there is one, else the CPU. Which card is decided by the
            launcher or ``CUDA_VISIBLE_DEVICES``.
        progress: whether to show a bar with the time left.

    Raises:
        RahfError: no weight requires gradients, the loss is not finite, or the device cannot be had.
        ArtifactError: a checkpoint cannot be written or read.
    """
    from contrans_lens.rahf.loop import train_with_trainer

    _require(
        any(weight.requires_grad for weight in model.parameters()),
        "no weight of the model requires gradients; give an adapter or unfreeze some.",
    )
    free_models()  # the model goes to its device now
    return train_with_trainer(model, objective, training, run, validation, device, progress)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of Python, numpy and torch begin at ``seed`` within; afterwards the caller's go on undisturbed."""
    states = random.getstate(), np.random.get_state()
    # All devices by name: without a list torch warns where there are several.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
