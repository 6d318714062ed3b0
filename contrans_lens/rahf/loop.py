"""``transformers.Trainer`` on an :class:`Objective`: the loop itself is Hugging Face's.

Imported when a training begins, because ``transformers`` takes seconds to import.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from contrans_lens.artifacts import read_json
from contrans_lens.errors import ArtifactError, RahfError
from contrans_lens.rahf.batches import loss_factors, plan_batches
from contrans_lens.rahf.objective import Objective
from contrans_lens.rahf.recorder import PROGRESS, Recorder
from contrans_lens.rahf.training import Cost, TrainingRecord, TrainingSettings, seeded
from contrans_lens.rahf.training_run import TrainingRun, quiet
from contrans_lens.residuals.progress import token_progress

_REMOVE = "Remove it, so that the one before it is taken up, or train into a new folder"


def train_with_trainer(
    model: nn.Module,
    objective: Objective,
    training: TrainingSettings,
    run: TrainingRun,
    validation: Objective | None,
    device: str | torch.device | None,
    progress: bool,
) -> TrainingRecord:
    """See :func:`contrans_lens.rahf.training.train`."""
    with quiet(), seeded(training.seed), _caching_as_before(model):
        arguments = _arguments(training, run, device)
        n_batches = training.steps * training.accumulation * arguments.world_size
        planned = plan_batches(objective.tokens, training.batch_size, n_batches, training.seed)
        trainer = ObjectiveTrainer(model, arguments, objective, planned)
        recorder = Recorder(model, trainer.accelerator, training, validation)
        if trainer.accelerator.is_main_process:
            run.begin()
        last = _last_checkpoint(run.checkpoints, trainer.accelerator)
        if last is not None:
            recorder.load(read_json(last / PROGRESS))
        tokens = [objective.run_forward(batch) for batch in planned]
        per_step = len(tokens) // training.steps
        by_step = [sum(tokens[at : at + per_step]) for at in range(0, len(tokens), per_step)]
        with token_progress(progress and trainer.accelerator.is_main_process, "training", sum(tokens)) as advance:
            advance(sum(by_step[: recorder.step]))
            recorder.on_step = lambda step: advance(by_step[step - 1])
            trainer.record_into(recorder)
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        cost = Cost(
            seconds=recorder.clock.seconds,
            cpu_seconds=recorder.clock.cpu_seconds,
            n_steps=training.steps,
            n_tokens=sum(tokens),
            block_tokens=sum(tokens) * objective.n_blocks,
            n_trainable=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        )
    return recorder.record(cost)


class ObjectiveTrainer(Trainer):
    """Hugging Face's trainer on batches that are planned ahead, with a loss that is a function of model and batch."""

    # The loss is a mean over a batch, so that Trainer has to divide it by the number of accumulated batches.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        objective: Objective,
        planned: Sequence[tuple[int, ...]],
    ) -> None:
        per_update = arguments.gradient_accumulation_steps * arguments.world_size
        factors = loss_factors([objective.weight(batch) for batch in planned], per_update)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=_Planned(planned, factors),
            # One item is one batch: which examples share one is planned, and must not depend on a loader.
            data_collator=lambda items: {"batch": objective.collate(items[0][0]), "factor": items[0][1]},
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False  # what older versions have in place of loss_is_scaled_for_ga
        self.objective = objective
        self.add: Callable[[Tensor, Mapping[str, Tensor]], None] = lambda loss, columns: None

    def record_into(self, recorder: Recorder) -> None:
        """Report every loss and step to a recorder."""
        self.add = recorder.add
        self.add_callback(recorder)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The loss of a batch, which is recorded with its columns."""
        loss, columns = self._through(model, lambda: self.objective.loss(self.model, inputs["batch"]))
        loss = inputs["factor"] * loss
        self.add(loss.detach(), {name: inputs["factor"] * value for name, value in columns.items()})
        return (loss, {}) if return_outputs else loss

    def _through(self, wrapper: nn.Module, compute: Callable[[], Any]) -> Any:
        """Call a function as if it were the wrapped model's forward pass.

        DistributedDataParallel averages gradients only of what went through its own forward pass, while losses need
        the model itself: its blocks, its configuration.
        """
        if wrapper is self.model:
            return compute()
        instance = self.model.__dict__

        def forward() -> Any:
            del instance["forward"]
            return compute()

        instance["forward"] = forward
        try:
            return wrapper()
        finally:
            instance.pop("forward", None)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Nothing: the curve is kept by :class:`Recorder`."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with _checkpoint_files("written", self.args.output_dir, "Free space and call again: the one before it is kept"):
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with _checkpoint_files("read", resume_from_checkpoint, _REMOVE):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _checkpoint_files("read", checkpoint, _REMOVE):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _checkpoint_files("read", checkpoint, _REMOVE):
            super()._load_rng_state(checkpoint)


class _Planned(Dataset[tuple[tuple[int, ...], float]]):
    """Batches of indices in order, each with the factor of its loss."""

    def __init__(self, batches: Sequence[tuple[int, ...]], factors: Sequence[float]) -> None:
        self._batches, self._factors = batches, factors

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[tuple[int, ...], float]:
        return self._batches[index], self._factors[index]


def _arguments(training: TrainingSettings, run: TrainingRun, device: str | torch.device | None) -> TrainingArguments:
    wanted = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    warming = training.schedule == "constant" and training.warmup_steps
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        arguments = TrainingArguments(
            output_dir=str(run.checkpoints),
            max_steps=training.steps,
            per_device_train_batch_size=1,  # of planned batches
            gradient_accumulation_steps=training.accumulation,
            learning_rate=training.learning_rate,
            lr_scheduler_type="constant_with_warmup" if warming else training.schedule,
            warmup_steps=training.warmup_steps,
            weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm,
            optim="adamw_torch",
            seed=training.seed,
            save_strategy="steps",
            save_steps=training.checkpoint_every,
            save_total_limit=2,  # a kill during a save leaves the one before
            logging_strategy="no",
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            log_level="error",
            log_level_replica="error",
            remove_unused_columns=False,
            dataloader_pin_memory=wanted.type == "cuda",
            ddp_find_unused_parameters=False,
            use_cpu=wanted.type == "cpu",
        )
    except OSError as error:
        raise ArtifactError(f"{run.checkpoints} cannot be made: {error}. Choose another folder.") from error
    found = arguments.device
    if found.type != wanted.type or wanted.index not in (None, found.index):
        raise RahfError(
            f"device={str(wanted)!r} was asked for, and accelerate gives {str(found)!r}; choose the card with the "
            "launcher or CUDA_VISIBLE_DEVICES."
        )
    # Several cards in one process would be DataParallel, which splits a batch tensor by tensor. The launcher gives
    # each card a process instead.
    arguments._n_gpu = min(arguments._n_gpu, 1)
    return arguments


def _last_checkpoint(folder: Path, accelerator: Any) -> Path | None:
    """The newest whole checkpoint. What a kill left of a later one is removed."""
    steps = sorted(int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*"))
    whole = [step for step in steps if (folder / f"checkpoint-{step}" / PROGRESS).exists()]
    accelerator.wait_for_everyone()  # nobody may look when they have begun to vanish
    if accelerator.is_main_process:
        for step in set(steps) - set(whole):
            shutil.rmtree(folder / f"checkpoint-{step}", ignore_errors=True)
    accelerator.wait_for_everyone()
    return folder / f"checkpoint-{whole[-1]}" if whole else None


@contextlib.contextmanager
def _checkpoint_files(what: str, place: str | None, advice: str) -> Iterator[None]:
    """Turn what torch and safetensors raise on files into our error. torch.load reads tensors, and runs no pickle."""
    try:
        yield
    # torch.save gives RuntimeError on a full disk, torch.load EOFError and ValueError on what is cut off.
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArtifactError(f"a checkpoint in {place} cannot be {what}: {first} {advice}.") from error


@contextlib.contextmanager
def _caching_as_before(model: nn.Module) -> Iterator[None]:
    """Trainer switches the key-value cache off in the configuration, which would be saved with the model."""
    config: Any = model.config
    before: Tensor | bool | None = getattr(config, "use_cache", None)
    try:
        yield
    finally:
        if before is not None:
            config.use_cache = before
