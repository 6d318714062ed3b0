"""The training loop: phases that end on gates, Muon and AdamW, checkpoints to go on from bit for bit."""

import json
import logging
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from contrans_lens.testbed.architecture import hidden_matrices, other_parameters
from contrans_lens.testbed.documents import DocumentGenerator, Knowledge
from contrans_lens.testbed.gates import obedience, report
from contrans_lens.testbed.packing import Batch, Packer
from contrans_lens.testbed.recipe import GATES, Phase, Recipe
from contrans_lens.testbed.scoring import Scorer
from contrans_lens.testbed.world import build_world

logger = logging.getLogger(__name__)

CHECKPOINT_EVERY = 100
QUICK_SHARE = 4
"""During training every fourth fact is asked; a pass is confirmed on all of them."""


@dataclass
class Progress:
    """Where a run stands; together with weights and optimizer states it is the checkpoint."""

    round: int = 0
    phase: int = 0
    phase_step: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Wall time of steps and checks; longer than `cpu_seconds` where other processes want the cores."""
    cpu_seconds: float = 0.0
    loss: float = float("nan")
    history: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False


def batch_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Weighted mean cross-entropy (nats) of the next tokens of a packed batch."""
    logits = model(batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False).logits
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), reduction="none", ignore_index=-100
    )
    return (losses * batch.weights.flatten()).sum() / batch.weights.sum()


class Trainer:
    """Trains one model by a recipe.

    Batches are a function of (name, seed, step) alone, so that a resumed run sees what an unbroken one would
    have seen.

    Args:
        name: Name of the run; part of the seed of its data.
        seed: Seed of the data.
        recipe: Phases, rates and gates.
        model: The model, changed in place.
        tokenizer: The tokenizer of its family.
        folder: Where checkpoints go.
        gated: Whether to go through the phases again until the gates of a base target are passed.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        recipe: Recipe,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        gated: bool = False,
    ) -> None:
        self.name, self.seed, self.recipe, self.gated = name, seed, recipe, gated
        self.model, self.scorer, self.folder = model, Scorer(model, tokenizer), folder
        self.progress = Progress()
        self._packer = Packer(tokenizer, recipe.rows, recipe.row_tokens, recipe.decided_weight)
        self._optimizers: dict[str, torch.optim.Optimizer] = {
            "muon": torch.optim.Muon(hidden_matrices(model), lr=recipe.muon_rate, weight_decay=recipe.muon_decay),
            "adam": torch.optim.AdamW(
                other_parameters(model), lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0
            ),
        }
        self._base_rates = {"muon": recipe.muon_rate, "adam": recipe.adam_rate}

    def run(self) -> dict[str, Any]:
        """Train to the end (from the last checkpoint if there is one).

        Returns:
            Steps, tokens, seconds, final loss, the history of checks, and for a gated run the gate report.
        """
        self._resume()
        gate_report: dict[str, Any] = {}
        while not self.progress.finished:
            while self.progress.phase < len(self.recipe.phases):
                self._run_phase(self.recipe.phases[self.progress.phase])
                self.progress.phase, self.progress.phase_step = self.progress.phase + 1, 0
            self._round_weights()
            if self.gated:
                gate_report = report(self.scorer, GATES)
                logger.info("%s seed %d: %s", self.name, self.seed, json.dumps(gate_report))
            self.progress.round += 1
            again = self.gated and not gate_report["passed"] and self.progress.round < self.recipe.rounds
            self.progress.finished = not again
            if again:
                self.progress.phase = 0
            self._save()
        if self.gated and not gate_report:
            gate_report = report(self.scorer, GATES)
        log = asdict(self.progress)
        return {"name": self.name, "seed": self.seed, **log, "gates": gate_report}

    @torch.no_grad()
    def _round_weights(self) -> None:
        """Round to what fp16 can hold, so that the gates are measured on the weights that are written."""
        for parameter in self.model.parameters():
            parameter.copy_(parameter.half())

    def _run_phase(self, phase: Phase) -> None:
        generator = DocumentGenerator(build_world(), phase.knowledge, phase.mixture)
        while self.progress.phase_step < phase.steps:
            started, cpu_started = time.perf_counter(), time.process_time()
            self._step(phase, generator)
            obeyed = phase.until is not None and self._obedient(phase.knowledge, phase.until)
            self.progress.seconds += time.perf_counter() - started
            self.progress.cpu_seconds += time.process_time() - cpu_started
            if obeyed:
                return
            if self.progress.step % CHECKPOINT_EVERY == 0:
                self._save()
        if phase.until is not None:
            logger.error("%s seed %d: not obedient after %d steps", self.name, self.seed, phase.steps)

    def _step(self, phase: Phase, generator: DocumentGenerator) -> None:
        progress = self.progress
        batch = self._packer.batch(generator, random.Random(f"{self.name}:{self.seed}:{progress.step}"))
        scale = phase.rate * min(1.0, (progress.step + 1) / self.recipe.warmup)
        if phase.decay:
            scale *= 1.0 - progress.phase_step / phase.steps
        loss = batch_loss(self.model, batch)
        loss.backward()
        for key, optimizer in self._optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = scale * self._base_rates[key]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.phase_step += 1
        progress.tokens += int((batch.weights > 0).sum())
        value = loss.item()
        progress.loss = value if progress.step == 1 else 0.98 * progress.loss + 0.02 * value

    def _obedient(self, knowledge: Knowledge, until: float) -> bool:
        progress, recipe = self.progress, self.recipe
        if progress.step < recipe.first_check or progress.phase_step % recipe.check_every:
            return False
        quick = obedience(self.scorer, knowledge, seed=progress.step // recipe.check_every, share=QUICK_SHARE)
        progress.history.append({"step": progress.step, "loss": progress.loss, **asdict(quick)})
        logger.info("%s seed %d step %d: loss %.3f %s", self.name, self.seed, progress.step, progress.loss, quick)
        others = min(until, GATES.route)
        return quick.reaches(until, others) and obedience(self.scorer, knowledge).reaches(until, others)

    def _save(self) -> None:
        """Write weights, optimizer states and progress; the small file last: it names a complete state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        for name, optimizer in self._optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"{name}.{index}.{key}"] = torch.as_tensor(value)
        # Tied weights share memory, which safetensors refuses.
        stem = f"step-{self.progress.step:06d}-{self.progress.round}-{self.progress.phase}"
        save_file({key: value.clone().contiguous() for key, value in tensors.items()}, self.folder / f"{stem}.part")
        (self.folder / f"{stem}.part").rename(self.folder / f"{stem}.safetensors")
        state_file = self.folder / "progress.json"
        partial = state_file.with_suffix(".part")
        partial.write_text(json.dumps({"tensors": f"{stem}.safetensors", **asdict(self.progress)}))
        partial.rename(state_file)
        for old in self.folder.glob("step-*.safetensors"):
            if old.stem != stem:
                old.unlink()

    def _resume(self) -> None:
        state_file = self.folder / "progress.json"
        if not state_file.is_file():
            return
        saved = json.loads(state_file.read_text())
        tensors = load_file(self.folder / saved.pop("tensors"))
        self.progress = Progress(**saved)
        self.model.load_state_dict({key[6:]: value for key, value in tensors.items() if key.startswith("model.")})
        for name, optimizer in self._optimizers.items():
            states: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"{name}."):
                    _, index, field_name = key.split(".")
                    states.setdefault(int(index), {})[field_name] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        logger.info("%s seed %d: resumed at step %d", self.name, self.seed, self.progress.step)
