"""What is kept of a training: curves, time, and the validation scores."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from contrans_lens.artifacts import write_json
from contrans_lens.errors import RahfError
from contrans_lens.rahf.objective import Objective
from contrans_lens.rahf.training import Cost, LossCurve, TrainingRecord, TrainingSettings

PROGRESS = "progress.json"
"""File in a checkpoint's folder: the checkpoint is whole once it is there."""
Points = list[tuple[int, dict[str, float]]]
"""Updates made, and the numbers at that point."""


class Recorder(TrainerCallback):
    """Curves, time and validation of a training; it goes on where a checkpoint's ended."""

    def __init__(
        self, model: nn.Module, accelerator: Any, training: TrainingSettings, validation: Objective | None
    ) -> None:
        self.model = model
        self.accelerator = accelerator
        self.training = training
        self.validation = validation
        self.curve: Points = []
        self.validation_curve: Points = []
        self.clock = Clock()
        self.step = 0
        self.on_step: Callable[[int], None] = lambda step: None
        self._sums: dict[str, float] = defaultdict(float)  # over batches, since the last point of the curve
        self._n_batches = 0

    def add(self, loss: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Add the loss of a batch to what the next point of the curve is the mean of.

        Raises:
            RahfError: it is NaN or infinite.
        """
        finite(loss.item(), self.step + 1, self.training.learning_rate)
        for name, value in {"loss": loss, **columns}.items():
            self._sums[name] += value.item()
        self._n_batches += 1

    def load(self, saved: Mapping[str, Any]) -> None:
        """Go on from what :meth:`on_save` wrote."""
        self.step = saved["step"]
        self.curve = [(step, dict(values)) for step, values in saved["curve"]]
        self.validation_curve = [(step, dict(values)) for step, values in saved["validation_curve"]]
        self.clock = Clock(saved["seconds"], saved["cpu_seconds"])
        self._sums.update(saved["sums"])
        self._n_batches = saved["n_batches"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Score the model as it is, and start the clock."""
        if state.global_step == 0:
            self._validate(0)
        self.clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add a point to the curve, and score the validation examples where a checkpoint is due."""
        self.step = int(state.global_step)
        last = self.step == self.training.steps
        if last or self.step % self.training.log_every == 0:
            n_batches = self._n_batches * self.accelerator.num_processes
            means = {name: value / n_batches for name, value in self._summed(self._sums).items()}
            self.curve.append((self.step, means))
            self._sums.clear()
            self._n_batches = 0
        if last or self.step % self.training.checkpoint_every == 0:
            self.clock.stop()
            self._validate(self.step)
            self.clock.start()
        self.on_step(self.step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the curves and the time beside the checkpoint, which is whole once they are there."""
        self.clock.stop()
        sums = self._summed(self._sums)
        self.accelerator.wait_for_everyone()  # every process has written its random state
        if self.accelerator.is_main_process:
            saved = {
                "step": self.step,
                "sums": {name: value / self.accelerator.num_processes for name, value in sums.items()},
                "n_batches": self._n_batches,
                "curve": self.curve,
                "validation_curve": self.validation_curve,
                "seconds": self.clock.seconds,
                "cpu_seconds": self.clock.cpu_seconds,
            }
            write_json(Path(args.output_dir) / f"checkpoint-{self.step}" / PROGRESS, saved)
        self.clock.start()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the clock."""
        self.clock.stop()

    def record(self, cost: Cost) -> TrainingRecord:
        """The curves as results."""
        validation = _as_curve(self.validation_curve) if self.validation_curve else None
        return TrainingRecord(_as_curve(self.curve), validation, cost)

    def _validate(self, step: int) -> None:
        if self.validation is None:
            return
        accelerator = self.accelerator
        part = slice(accelerator.process_index, None, accelerator.num_processes)
        sums = score(self.model, self.validation, self.training.batch_size, accelerator.device, part)
        weight = self.validation.weight(range(len(self.validation)))
        means = {name: value / weight for name, value in self._summed(sums).items()}
        finite(means["loss"], step, self.training.learning_rate)
        self.validation_curve.append((step, means))

    def _summed(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Sums over all processes."""
        if self.accelerator.num_processes == 1:
            return dict(sums)
        values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(sums, self.accelerator.reduce(values, reduction="sum").tolist(), strict=True))


class Clock:
    """Wall and processor time while it runs."""

    def __init__(self, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        self.seconds, self.cpu_seconds = seconds, cpu_seconds
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        """Run."""
        self._since = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Add what has passed since :meth:`start`; nothing if it does not run."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since[0]
            self.cpu_seconds += time.process_time() - self._since[1]
        self._since = None


def score(
    model: nn.Module, objective: Objective, batch_size: int, device: torch.device, part: slice = slice(None)
) -> dict[str, float]:
    """Sums over examples, by their weights, of the loss and its columns, without dropout and gradients.

    Args:
        model: on the device; it is left in evaluation mode.
        objective: what is scored.
        batch_size: examples in a batch.
        device: where the model is.
        part: which of the batches; all by default.
    """
    from accelerate.utils import send_to_device

    model.eval()
    by_length = sorted(range(len(objective)), key=lambda index: objective.tokens[index])
    batches = [by_length[at : at + batch_size] for at in range(0, len(by_length), batch_size)]
    sums: dict[str, float] = defaultdict(float)
    weighted = [(objective.weight(batch), batch) for batch in batches[part]]
    # A process without a batch of its own has to know the columns, too, or its sums would not fit the others'.
    for weight, batch in weighted or [(0, batches[0])]:
        with torch.no_grad():
            loss, columns = objective.loss(model, send_to_device(objective.collate(batch), device))
        for name, value in {"loss": loss, **columns}.items():
            sums[name] += weight * float(value)
    return dict(sums)


def finite(loss: float, step: int, learning_rate: float | int) -> float:
    """The loss, if it is a number.

    Raises:
        RahfError: it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise RahfError(
            f"the loss is {loss} at step {step}; lower the learning rate (now {learning_rate:g}), or clip gradients "
            "(max_grad_norm) if they are not, and train into a new folder."
        )
    return loss


def _as_curve(points: Points) -> LossCurve:
    names = [name for name in points[0][1] if name != "loss"]
    columns = {name: tuple(values[name] for _, values in points) for name in names}
    return LossCurve(tuple(step for step, _ in points), tuple(values["loss"] for _, values in points), columns)
