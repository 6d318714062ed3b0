"""A small training that the tests of the loop and of its folders share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contrans_lens.models.plain import open_plain
from contrans_lens.rahf.adapters import add_adapter
from contrans_lens.rahf.losses import answer_nll
from contrans_lens.rahf.objective import Objective
from contrans_lens.rahf.tokens import AnswerBatch, AnswerRow, collate
from contrans_lens.rahf.training import LoraSettings, TrainingRecord, TrainingSettings, train
from contrans_lens.rahf.training_run import TrainingRun, save_weights
from tests.tiny_models import N_LAYERS, tiny_folder

SETTINGS = TrainingSettings(
    steps=9, batch_size=3, accumulation=2, learning_rate=1e-2, checkpoint_every=4, log_every=2, seed=3
)
_RANDOM = torch.Generator().manual_seed(0)
ROWS = tuple(
    AnswerRow(tuple(torch.randint(5, 90, (3 + 2 * (number % 5),), generator=_RANDOM).tolist()), 1 + number % 2)
    for number in range(11)
)
"""Eleven rows of three to eleven random tokens."""


def nll_loss(model: nn.Module, batch: AnswerBatch) -> tuple[Tensor, dict[str, Tensor]]:
    nll = answer_nll(model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits, batch)
    return nll.mean(), {"shortest": batch.mask.sum(1).min()}


def objective(loss: Callable[..., Any] = nll_loss, rows: tuple[AnswerRow, ...] = ROWS) -> Objective:
    return Objective(
        tuple(len(row.ids) for row in rows), N_LAYERS, lambda indices: collate([rows[at] for at in indices], 0), loss
    )


def student(seed: int = 3, dropout: float = 0.2) -> Any:
    """The tiny GPT-2 with an adapter; the dropout is its own as well as the adapter's."""
    model = open_plain(tiny_folder("gpt2"), device="cpu").model
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return add_adapter(model, LoraSettings(2, 8, dropout), seed)


def run_into(folder: Path, **key: Any) -> TrainingRun:
    return TrainingRun(folder, "a_test", key)


def trained(
    folder: Path, settings: TrainingSettings = SETTINGS, *, dropout: float = 0.2, commit: bool = False, **options: Any
) -> tuple[dict[str, Tensor], TrainingRecord]:
    """Train the tiny model's adapter: its weights, and what was recorded."""
    model = student(settings.seed, dropout)
    given = {"objective": objective(), "validation": objective(rows=ROWS[:4]), "device": "cpu"} | options
    record = train(model, training=settings, run=run_into(folder), **given)
    if commit:
        run_into(folder).commit(lambda to: save_weights(model, str(tiny_folder("gpt2")), to), record.to_dict())
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}, record


def breaking_off(after: int, error: type[BaseException] = KeyboardInterrupt) -> Callable[..., Any]:
    """The loss, until it has been asked for so often in training."""
    asked = 0

    def loss(model: nn.Module, batch: AnswerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal asked
        asked += model.training
        if asked > after:
            raise error
        return nll_loss(model, batch)

    return loss


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
