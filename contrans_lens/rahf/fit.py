"""Step 3 of RAHF: an adapter that moves the base's residual stream by ``alpha v`` (arXiv 2312.15997)."""

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from contrans_lens.errors import RahfError
from contrans_lens.models import Fingerprint, fingerprint, open_model
from contrans_lens.models.plain import PlainModel, block_count, check_residual_points, open_plain, truncate
from contrans_lens.rahf.adapters import add_adapter
from contrans_lens.rahf.difference_store import rows_hash
from contrans_lens.rahf.fitted import KIND, FittedAdapter
from contrans_lens.rahf.losses import ActivityLoss
from contrans_lens.rahf.memory import free_models
from contrans_lens.rahf.protocol import Differences
from contrans_lens.rahf.targets import FitTargets, check_alpha, nothing_wanted
from contrans_lens.rahf.training import (
    RAHF_LORA,
    RAHF_TRAINING,
    Cost,
    LoraSettings,
    TrainingSettings,
    dtype_name,
    train,
)
from contrans_lens.rahf.training_run import TrainingRun, base_identity, save_weights

BASE_BYTES = 2**30
"""The base's activity is kept in memory where it takes at most this many bytes."""
_LEAST_PASSES = 2  # over the rows; keeping what is read once saves nothing
_PROBED = 16  # rows whose numbers say which differences these are
_ROUNDING, _HALF_ROUNDING = 1e-3, 3e-2  # by which these may differ, as a share of the largest


def fit_adapter(
    base: str | Path,
    differences: Differences,
    out: str | Path,
    *,
    alpha: float | int = 5.0,
    loss: ActivityLoss = "norm",
    lora: LoraSettings = RAHF_LORA,
    training: TrainingSettings = RAHF_TRAINING,
    validation: Differences | None = None,
    base_once: bool | None = None,
    check_model: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> FittedAdapter:
    """Fit a LoRA whose residual stream is the base's, moved by ``alpha v`` where answers are read.

    ::

        target_l(t) = A_base,l(t) + alpha v_l(t)
        L = mean over layers, rows and their answer tokens of || A_LoRA,l(t) - target_l(t) ||_2

    Blocks above the last hook point are neither run nor given an adapter: nothing there could learn. The adapter is a
    standard one for the whole base nevertheless. All dropout but the adapter's own is off.

    The defaults are RAHF's for models of 7B. Which alpha is right depends on the contrast: where v leads from a bad
    answer to a good one and the base stands between the two, 0.5 to 1 arrives at the good one, and much more goes past.

    A run that was broken off goes on from its last checkpoint when it is called again; a finished one is opened.

    Args:
        base: folder or hub name of the base model; it is opened anew, so that no live model is changed.
        differences: v with the rows, hook points and positions it was read at. Rows were cut there:
            ``max_length`` and ``max_answer_tokens`` of the training settings say nothing here.
        out: folder of the adapter.
        alpha: how many times v; negative moves the other way.
        loss: ``"norm"`` or ``"mse"``.
        lora: the adapter.
        training: how long and how fast.
        validation: differences on held-out rows, scored at every checkpoint and at the end.
        base_once: read ``A_base`` of all rows once and keep it, instead of in a second pass in every update. None:
            where it takes at most 1 GiB and rows are seen at least twice. Results are the same but for rounding.
        check_model: compare the base with the differences' fingerprint, where they have one. It takes opening the
            model once more.
        dtype: of the base's weights, float32 or bfloat16; those of the adapter, targets and losses are float32.
        device: where it runs; CUDA if there is one and None is given, else the CPU.
        progress: whether to show a bar.

    Raises:
        RahfError: alpha is zero or all differences are (nothing is to be fitted), the loss becomes NaN, the validation
            rows were read at other places, the settings do not fit the model, or the dtype is none to train in.
        FingerprintMismatchError: the differences belong to another base.
        HookPointError: the base lacks a hook point.
        ArtifactError: the folder holds something else or cannot be written.
    """
    _check(differences, validation, alpha, loss)
    settings = {"lora": asdict(lora), "training": asdict(training), "dtype": dtype_name(dtype)}
    own = fingerprint(open_model(base, dtype=dtype, device=device)) if check_model else None
    free_models()
    plain = open_plain(base, dtype=dtype, device="cpu")
    _check_base(plain, own, differences, validation)
    told = {"differences": description(differences)}
    if validation is not None:
        told["validation"] = description(validation)
    key = {
        "base": base_identity(plain),
        "validation": None,
        **{name: each.exact for name, each in told.items()},
        "alpha": float(alpha),
        "loss": loss,
        **settings,
    }
    measured = {name: each.measured for name, each in told.items()}
    run = TrainingRun(Path(out), KIND, key, measured, _ROUNDING if dtype == torch.float32 else _HALF_ROUNDING)
    if run.finished() is not None:
        return FittedAdapter.load(run.folder)
    student = _Student.of(plain, differences.hook_points, lora, training, device)
    targets = FitTargets(differences, alpha, loss, student.pad)
    once = _worth_keeping(targets, training) if base_once is None else base_once
    targets, reading = student.read_base(targets, once)
    held_out = None if validation is None else student.read_base(replace(targets, differences=validation), once)[0]
    record = train(
        student.model,
        targets.objective(),
        training,
        run,
        validation=None if held_out is None else held_out.objective(),
        device=device,
        progress=progress,
    )
    batch_size = training.batch_size
    result = FittedAdapter(
        folder=run.folder,
        base=student.place,
        hook_points=tuple(differences.hook_points),
        where=differences.where,
        alpha=float(alpha),
        loss=loss,
        relative_error=targets.relative_error(student.model, batch_size),
        validation_relative_error=None if held_out is None else held_out.relative_error(student.model, batch_size),
        n_rows=len(differences.rows),
        n_read=sum(len(row.answer) for row in differences.rows),
        record=replace(record, cost=_sum(record.cost, reading)),
        fingerprint=own,
        settings=settings,
    )
    run.commit(lambda folder: save_weights(student.model, student.place, folder), result.to_dict())
    return FittedAdapter.load(run.folder)


@dataclass(frozen=True, eq=False)
class _Student:
    """The lower blocks of the base, with an adapter."""

    model: Any
    place: str
    pad: int
    batch_size: int

    @classmethod
    def of(
        cls,
        plain: PlainModel,
        hook_points: tuple[str, ...],
        lora: LoraSettings,
        training: TrainingSettings,
        device: str | torch.device | None,
    ) -> "_Student":
        pad, n_blocks = plain.pad, block_count(hook_points)
        truncate(plain.model, n_blocks)
        model = add_adapter(plain.model, lora, training.seed, n_blocks)
        return cls(model.to(_own_device(device)), plain.place, pad, training.batch_size)

    def read_base(self, targets: FitTargets, once: bool) -> tuple[FitTargets, Cost]:
        """The targets with ``A_base`` if it is to be kept, and what reading it took."""
        if not once:
            return replace(targets, base=None), Cost(0.0, 0.0, 0, 0, 0, 0)
        wall, cpu = time.perf_counter(), time.process_time()
        kept = replace(targets, base=None).with_base(self.model, self.batch_size)
        objective = kept.objective()
        n_tokens = sum(objective.tokens)
        took = time.perf_counter() - wall, time.process_time() - cpu
        return kept, Cost(*took, 0, n_tokens, n_tokens * objective.n_blocks, 0)


def _check(differences: Differences, validation: Differences | None, alpha: float | int, loss: ActivityLoss) -> None:
    """What can be known before a model is opened."""
    check_alpha(alpha)
    if alpha == 0:
        raise RahfError("alpha=0 leaves the base as it is: there is nothing to fit. Give another number.")
    if loss not in get_args(ActivityLoss):
        raise RahfError(f"loss={loss!r}; 'norm' or 'mse' was expected.")
    block_count(differences.hook_points)
    if validation is None:
        return
    for name in ("hook_points", "where", "d_model"):
        fitted, held_out = getattr(differences, name), getattr(validation, name)
        if fitted != held_out:
            raise RahfError(
                f"the held-out differences have {name}={held_out!r}, those to fit {fitted!r}; read both alike."
            )


def _check_base(
    plain: PlainModel, own: Fingerprint | None, differences: Differences, validation: Differences | None
) -> None:
    """Whether the differences belong to the base, as far as that is known."""
    for given in (differences, validation):
        if own is not None and given is not None and given.fingerprint is not None:
            given.fingerprint.require(own, "the activity differences")
    check_residual_points(plain.model, differences.hook_points)
    if plain.d_model != differences.d_model:
        raise RahfError(
            f"the differences are {differences.d_model} wide, the base's residual stream {plain.d_model}; read them on "
            "this base, or map them to its width."
        )


def _worth_keeping(targets: FitTargets, training: TrainingSettings) -> bool:
    seen = training.steps * training.batch_size * training.accumulation
    return seen >= _LEAST_PASSES * len(targets.differences.rows) and targets.base_bytes <= BASE_BYTES


def _own_device(device: str | torch.device | None) -> torch.device:
    """Where this process' model goes; under accelerate's launcher each process has a card of its own."""
    if device is None and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu" if device is None else device)


def _sum(training: Cost, reading: Cost) -> Cost:
    """What training and reading the base took together."""
    return Cost(**{name: value + getattr(reading, name) for name, value in training.to_dict().items()})


@dataclass(frozen=True)
class Description:
    """What tells activity differences apart."""

    exact: dict[str, Any]
    """Their rows, and where they were read."""
    measured: list[float]
    """Norms and projections of some rows. Differences that are computed anew are the same only to rounding."""


def description(differences: Differences) -> Description:
    """What tells differences apart.

    Raises:
        RahfError: a number is not finite, or all that is looked at is zero: both sides were read alike.
    """
    n_rows = len(differences.rows)
    probed = sorted({number * (n_rows - 1) // (_PROBED - 1) for number in range(_PROBED)})
    values = differences.of(probed).double()
    if not values.isfinite().all():
        raise RahfError("the differences hold NaN or infinity; read them anew, in float32.")
    layers, width = (torch.arange(size) for size in values.shape[1:])
    signs = (width // (layers[:, None] + 1)).remainder(2) * 2.0 - 1  # other ones at each layer
    seen = torch.stack([values.norm(dim=-1), (values * signs).sum(-1)], dim=-1).mean(1)
    if not seen[:, 0].any():
        raise nothing_wanted()
    rows = seen.split([len(differences.rows[number].answer) for number in probed])
    return Description(
        {
            "rows": rows_hash(differences.rows),
            "hook_points": list(differences.hook_points),
            "where": differences.where,
        },
        torch.stack([row.mean(0) for row in rows]).flatten().tolist(),
    )
