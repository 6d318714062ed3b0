"""What an adapter is fitted to: the base's own activity, moved along the differences (step 3 of RAHF)."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from contrans_lens.errors import RahfError
from contrans_lens.models.plain import block_count, residuals
from contrans_lens.rahf.losses import ActivityLoss, activity_loss
from contrans_lens.rahf.objective import Objective
from contrans_lens.rahf.protocol import Differences
from contrans_lens.rahf.summaries import reading_tokens
from contrans_lens.rahf.tokens import AnswerBatch, Where, collate


@dataclass(frozen=True, eq=False)
class FitBatch:
    """Rows with what is wanted of them."""

    rows: AnswerBatch
    """The answers under the plain prompt."""
    moved: Float[Tensor, "token layer d_model"]
    """``alpha v`` where the rows are read, row by row."""
    base: Float[Tensor, "token layer d_model"] | None
    """``A_base`` there; None where it has to be read."""

    def to(self, device: str | torch.device) -> "FitBatch":
        """The same batch on another device."""
        base = None if self.base is None else self.base.to(device)
        return FitBatch(self.rows.to(device), self.moved.to(device), base)


@dataclass(frozen=True)
class FitStep:
    """What some rows say of a fit, as means over layers and the tokens that are read."""

    loss: Float[Tensor, ""]
    """What is made small; it carries gradients where they are switched on."""
    missed: Float[Tensor, ""]
    """``mean ||A_LoRA - target||_2``, whatever the loss."""
    wanted: Float[Tensor, ""]
    """``mean ||alpha v||_2``."""

    @property
    def relative_error(self) -> Float[Tensor, ""]:
        """``missed / wanted``: 1 where nothing was learnt, 0 where all was.

        Raises:
            RahfError: nothing was wanted.
        """
        if not self.wanted:
            raise nothing_wanted()
        return self.missed / self.wanted


@dataclass(frozen=True, eq=False)
class FitTargets:
    """The targets ``target_l(t) = A_base,l(t) + alpha v_l(t)`` of every row at every position that is read.

    Raises:
        RahfError: alpha is not a finite number.
    """

    differences: Differences
    """v, and the rows it was read on."""
    alpha: float | int
    """How many times v the residual stream shall move."""
    loss: ActivityLoss
    """``"norm"`` or ``"mse"``."""
    pad: int
    """Id to fill rows with."""
    base: tuple[Tensor, ...] | None = None
    """``A_base`` of every row where it is read, ``[token, layer, d_model]`` each; None: it is read each time, in a
    second pass over the batch with the adapter switched off."""

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def with_base(self, model: nn.Module, batch_size: int) -> "FitTargets":
        """The same targets with ``A_base`` of all rows, read now: rows are seen many times, the base never changes.

        The targets are the same but for rounding, because rows stand in other batches.

        Args:
            model: the base, with an adapter (which is switched off) or without.
            batch_size: rows run at once.
        """
        device, pieces = _device_of(model), []
        for numbers in in_batches(self.differences, batch_size):
            pieces.append(self._read_base(model, self._rows(numbers).to(device)).cpu())
        return replace(self, base=torch.cat(pieces).split([len(row.answer) for row in self.differences.rows]))

    @property
    def base_bytes(self) -> int:
        """What :meth:`with_base` keeps, in bytes."""
        n_tokens = sum(len(row.answer) for row in self.differences.rows)
        return n_tokens * len(self.differences.hook_points) * self.differences.d_model * torch.float32.itemsize

    def batch(self, rows: Sequence[int]) -> FitBatch:
        """Rows with what is wanted of them, by their numbers, on the CPU."""
        moved = self.alpha * self.differences.of(rows).to("cpu", torch.float32)
        base = None if self.base is None else torch.cat([self.base[row] for row in rows])
        return FitBatch(self._rows(rows), moved, base)

    def step(self, model: nn.Module, batch: FitBatch) -> FitStep:
        """Loss and errors of some rows: a mean over layers and over the real tokens of all rows together.

        ::

            L = mean_(l, row, t) || A_LoRA,l(t) - (A_base,l(t) + alpha v_l(t)) ||_2

        Of a model in training mode only the adapter's own dropout is on: any other would move the student away from
        the base without the adapter's doing.

        Args:
            model: with its adapter.
            batch: from :meth:`batch`, on the model's device.
        """
        if model.training:
            only_adapter_dropout(model)
        base = self._read_base(model, batch.rows) if batch.base is None else batch.base
        target = base + batch.moved
        student = read_residuals(model, batch.rows, self.differences.hook_points, self.differences.where)
        with torch.no_grad():
            missed, wanted = activity_loss(student, target), batch.moved.norm(dim=-1).mean()
        return FitStep(activity_loss(student, target, self.loss), missed, wanted)

    def relative_error(self, model: nn.Module, batch_size: int) -> float:
        """``mean ||A_LoRA - target|| / mean ||alpha v||`` over all rows, without dropout.

        Args:
            model: with its adapter; its mode is as before afterwards.
            batch_size: rows run at once.

        Raises:
            RahfError: nothing was wanted: alpha or all differences are zero.
        """
        missed = wanted = 0.0
        device = _device_of(model)
        with evaluating(model):
            for numbers in in_batches(self.differences, batch_size):
                batch = self.batch(numbers).to(device)
                step = self.step(model, batch)
                missed += len(batch.moved) * float(step.missed)
                wanted += len(batch.moved) * float(step.wanted)
        if wanted == 0:
            raise nothing_wanted()
        return missed / wanted

    def objective(self) -> Objective:
        """The fit in the terms of :func:`~contrans_lens.rahf.training.train`; ``relative_error`` is a column."""
        passes = 1 if self.base is not None else 2

        def loss(model: nn.Module, batch: FitBatch) -> tuple[Tensor, dict[str, Tensor]]:
            step = self.step(model, batch)
            return step.loss, {"relative_error": step.relative_error}

        return Objective(
            tokens=tuple(passes * len(row.ids) for row in self.differences.rows),
            beside=reading_tokens(self.differences),
            n_blocks=block_count(self.differences.hook_points),
            collate=self.batch,
            loss=loss,
            weights=tuple(len(row.answer) for row in self.differences.rows),
        )

    def _rows(self, numbers: Sequence[int]) -> AnswerBatch:
        return collate([self.differences.rows[number] for number in numbers], self.pad)

    def _read_base(self, model: nn.Module, rows: AnswerBatch) -> Float[Tensor, "token layer d_model"]:
        with evaluating(model), _adapter_off(model):
            return read_residuals(model, rows, self.differences.hook_points, self.differences.where)


def check_alpha(alpha: float | int) -> None:
    """Check a strength.

    Raises:
        RahfError: it is not a finite number.
    """
    if isinstance(alpha, bool) or not isfinite(alpha):
        raise RahfError(f"alpha={alpha}; a finite number was expected, such as RAHF's 5.")


def read_residuals(
    model: nn.Module, batch: AnswerBatch, hook_points: Sequence[str], where: Where
) -> Float[Tensor, "token layer d_model"]:
    """The residual stream of a plain model at the positions that are read, row by row, in float32.

    Args:
        model: plain or wrapped by ``peft``, whole or without the blocks above the last point.
        batch: the rows, on the model's device.
        hook_points: the layers, in order.
        where: which positions.
    """
    return residuals(model, batch.ids, batch.mask, hook_points)[:, batch.reads(where)].transpose(0, 1).float()


def in_batches(differences: Differences, batch_size: int) -> Iterator[range]:
    """The numbers of all rows in order, ``batch_size`` at a time."""
    numbers = range(len(differences.rows))
    for start in numbers[::batch_size]:
        yield numbers[start : start + batch_size]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients while the ``with`` block lasts; every module's mode is as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def only_adapter_dropout(model: nn.Module) -> None:
    """Leave a model in training mode, but switch off every dropout that is not the adapter's."""
    for module in model.modules():
        module.training = False
    for name, module in model.named_modules():
        if name.endswith("lora_dropout"):
            module.train()
    model.training = True


def _adapter_off(model: Any) -> contextlib.AbstractContextManager[Any]:
    """The adapter of a model that ``peft`` wrapped is off; a plain model has none."""
    switch = getattr(model, "disable_adapter", None)
    return contextlib.nullcontext() if switch is None else switch()


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def nothing_wanted() -> RahfError:
    """The error of a fit to nothing."""
    return RahfError(
        "the differences, or alpha, are zero: there is nothing to fit. Both sides were read alike; check the "
        "instructions or the two models."
    )
