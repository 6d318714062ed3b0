"""The three steps of RAHF in a folder, each kept there and taken up again where it was broken off.

::

    FOLDER/
        step1/scit | step1/preferred, step1/dispreferred    fine-tuned adapters (not with "cues")
        differences/train, differences/validation           activity differences, memory-mapped
        differences/train-cost.json, ...                     what reading them took
        adapter/                                            the fit: a standard peft adapter
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from contrans_lens.artifacts import read_json, write_json
from contrans_lens.models import HookedModel, open_model
from contrans_lens.models.plain import block_count
from contrans_lens.rahf.contrasts import Contrast, DualContrast, ScitContrast, tokenize_contrast
from contrans_lens.rahf.difference_store import ActivityDifferences
from contrans_lens.rahf.differences import capture_differences
from contrans_lens.rahf.finetuning import FineTuned, fine_tune
from contrans_lens.rahf.fit import fit_adapter
from contrans_lens.rahf.fitted import FittedAdapter
from contrans_lens.rahf.processes import Processes
from contrans_lens.rahf.protocol import Differences
from contrans_lens.rahf.settings import AlignSettings
from contrans_lens.rahf.tokens import InstructionsByTopic
from contrans_lens.rahf.training import Cost, TrainingSettings
from contrans_lens.texts import PreferenceSet

TUNED: Mapping[str, tuple[Literal["scit", "preferred", "dispreferred"], ...]] = {
    "scit": ("scit",),
    "dual": ("preferred", "dispreferred"),
    "cues": (),
}
"""The models of step 1, by method."""


@dataclass(frozen=True, eq=False)
class Steps:
    """What all paths of one run share: model, settings, instructions, processes."""

    base: str | Path
    """Folder or hub name of the base model."""
    settings: AlignSettings
    instructions: InstructionsByTopic
    hook_points: tuple[str, ...]
    """Where the residual stream is read."""
    device: str | torch.device | None
    progress: bool
    processes: Processes
    say: Callable[[str], None]
    """Told what runs now."""

    def opened(self, place: str | Path) -> HookedModel:
        """A model, or an adapter merged into its base, as activities are read and answers are scored."""
        return open_model(place, device=self.device)

    def tuned(
        self, folder: Path, train: PreferenceSet, validation: PreferenceSet | None = None
    ) -> dict[str, FineTuned]:
        """Step 1: the models that feel the preference, by name; none with ``"cues"``."""
        found: dict[str, FineTuned] = {}
        for method in TUNED[self.settings.method]:
            self.say(f"step 1: fine-tuning {folder.name}: {method}")
            found[method] = fine_tune(
                self.base,
                train,
                folder / "step1" / method,
                method=method,
                instructions=self.instructions if method == "scit" else None,
                epsilon=self.settings.epsilon,
                lora=self.settings.lora,
                training=self.settings.tuning,
                validation=validation,
                device=self.device,
                progress=self.progress,
            )
        return found

    def differences(self, folder: Path, pairs: PreferenceSet, part: str = "train") -> ActivityDifferences:
        """Step 2: the activity differences of pairs between the models of step 1 in the same folder."""
        place = folder / "differences" / part
        self.processes.once(lambda: self._read(folder, pairs, place))
        return ActivityDifferences.open(place, verify=False)

    def fitted(
        self, out: Path, differences: Differences, alpha: float | int, validation: Differences | None = None
    ) -> FittedAdapter:
        """Step 3: an adapter that moves the base's residual stream along differences."""
        self.say(f"step 3: fitting {out.parent.name}/{out.name} (alpha {alpha:g})")
        return fit_adapter(
            self.base,
            differences,
            out,
            alpha=alpha,
            loss=self.settings.loss,
            lora=self.settings.lora,
            training=self.settings.fitting,
            validation=validation,
            device=self.device,
            progress=self.progress,
        )

    def learnt(self, pairs: PreferenceSet, training: TrainingSettings) -> PreferenceSet:
        """The pairs, or a sample of as many as a training of this length comes to see."""
        seen = training.steps * training.batch_size * training.accumulation * self.processes.count
        return pairs.sample(seen, self.settings.seed)

    def _read(self, folder: Path, pairs: PreferenceSet, place: Path) -> None:
        record = place.parent / f"{place.name}-cost.json"
        if record.exists():
            return
        self.say(f"step 2: reading activity differences of {len(pairs)} pairs ({place.name})")
        base = self.opened(self.base)
        contrast = self._contrast(folder, base)
        begin = time.perf_counter(), time.process_time()
        limits = self.settings.fitting
        capture_differences(
            contrast,
            pairs,
            self.hook_points,
            base=base,
            answers=self.settings.answers,
            where=self.settings.where,
            max_answer_tokens=limits.max_answer_tokens,
            max_length=limits.max_length,
            store=place,
            progress=self.progress,
        )
        took = time.perf_counter() - begin[0], time.process_time() - begin[1]
        tokens = tokenize_contrast(
            contrast,
            pairs,
            base=None,
            answers=self.settings.answers,
            max_length=limits.max_length,
            max_answer_tokens=limits.max_answer_tokens,
        )
        n_tokens = sum(len(row.ids) for row in (*tokens.first, *tokens.second))
        cost = Cost(*took, 0, n_tokens, n_tokens * block_count(self.hook_points), 0)
        write_json(record, cost.to_dict())

    def _contrast(self, folder: Path, base: HookedModel) -> Contrast:
        places = [folder / "step1" / method for method in TUNED[self.settings.method]]
        if self.settings.method == "dual":
            good, bad = (self.opened(place) for place in places)
            return DualContrast(good, bad)
        return ScitContrast(self.opened(places[0]) if places else base, self.instructions)


def reading_cost(folder: Path) -> Cost:
    """What step 2 in a folder took.

    Raises:
        ArtifactError: it was not done, or its record is damaged.
    """
    return Cost.from_dict(read_json(folder / "differences" / "train-cost.json"))
