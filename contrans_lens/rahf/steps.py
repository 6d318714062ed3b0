"""The three steps of RAHF in a folder, each kept there and taken up again where it was broken off.

::

    FOLDER/
        step1/scit | step1/preferred, step1/dispreferred    fine-tuned adapters (not with "cues")
        differences/train, differences/validation           activity differences, memory-mapped, if they are kept
        differences/train-cost.json, ...                     what reading them took
        adapter/                                            the fit: a standard peft adapter
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from contrans_lens.artifacts import read_json, write_json
from contrans_lens.models import HookedModel, open_model
from contrans_lens.models.plain import block_count
from contrans_lens.rahf.contrasts import Contrast, DualContrast, ScitContrast, tokenize_contrast
from contrans_lens.rahf.difference_store import ActivityDifferences
from contrans_lens.rahf.differences import capture_differences, stream_differences
from contrans_lens.rahf.finetuning import FineTuned, fine_tune
from contrans_lens.rahf.fit import fit_adapter
from contrans_lens.rahf.fitted import FittedAdapter
from contrans_lens.rahf.memory import free_models
from contrans_lens.rahf.processes import Processes
from contrans_lens.rahf.protocol import Differences
from contrans_lens.rahf.settings import AlignSettings
from contrans_lens.rahf.summaries import SummarisedDifferences
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
        free_models()
        return open_model(place, dtype=self.settings.dtype, device=self.device)

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
                dtype=self.settings.dtype,
                device=self.device,
                progress=self.progress,
            )
        return found

    def differences(
        self, folder: Path, parts: Mapping[str, PreferenceSet], *, norms: bool = True
    ) -> dict[str, SummarisedDifferences]:
        """Step 2: the activity differences of pairs between the models of step 1 in the same folder, by part.

        Args:
            folder: where step 1 is, and where they are kept.
            parts: the pairs, by name.
            norms: whether the base's residual norms are wanted beside the differences of the part ``"train"``.
        """
        if self.settings.keep == "nothing":
            return self._streamed(folder, parts, norms)
        self.processes.once(lambda: self._capture(folder, parts, norms))
        return {part: ActivityDifferences.open(folder / "differences" / part, verify=False) for part in parts}

    def reading_cost(self, folder: Path) -> Cost | None:
        """What reading the part ``"train"`` took; None where differences are not kept: then it is part of the fits.

        Of a reading that was broken off only the last call's time is known.

        Raises:
            ArtifactError: it was not done, or its record is damaged.
        """
        if self.settings.keep == "nothing":
            return None
        return Cost.from_dict(read_json(_record(folder, "train")))

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
            dtype=self.settings.dtype,
            device=self.device,
            progress=self.progress,
        )

    def learnt(self, pairs: PreferenceSet, training: TrainingSettings) -> PreferenceSet:
        """The pairs, or a sample of as many as a training of this length comes to see."""
        seen = training.steps * training.batch_size * training.accumulation * self.processes.count
        return pairs.sample(seen, self.settings.seed)

    @property
    def _limits(self) -> dict[str, Any]:
        """What is read of each pair."""
        limits = self.settings.fitting
        return {
            "answers": self.settings.answers,
            "max_answer_tokens": limits.max_answer_tokens,
            "max_length": limits.max_length,
        }

    def _streamed(
        self, folder: Path, parts: Mapping[str, PreferenceSet], norms: bool
    ) -> dict[str, SummarisedDifferences]:
        self.say(f"step 2: opening the models of {folder.name} that activity differences are read in")
        base, contrast = self._models(folder, norms)
        return {
            part: stream_differences(
                contrast,
                pairs,
                self.hook_points,
                base=base if part == "train" else None,
                where=self.settings.where,
                **self._limits,
            )
            for part, pairs in parts.items()
        }

    def _capture(self, folder: Path, parts: Mapping[str, PreferenceSet], norms: bool) -> None:
        missing = [part for part in parts if not _record(folder, part).exists()]
        if not missing:
            return
        base, contrast = self._models(folder, norms)
        for part in missing:
            self._capture_part(folder, part, parts[part], contrast, base if part == "train" else None)

    def _capture_part(
        self, folder: Path, part: str, pairs: PreferenceSet, contrast: Contrast, base: HookedModel | None
    ) -> None:
        self.say(f"step 2: reading activity differences of {len(pairs)} pairs ({part})")
        begin = time.perf_counter(), time.process_time()
        capture_differences(
            contrast,
            pairs,
            self.hook_points,
            base=base,
            where=self.settings.where,
            store=folder / "differences" / part,
            dtype=getattr(torch, self.settings.keep),
            progress=self.progress,
            **self._limits,
        )
        took = time.perf_counter() - begin[0], time.process_time() - begin[1]
        tokens = tokenize_contrast(contrast, pairs, base=None, **self._limits)
        n_tokens = sum(len(row.ids) for row in (*tokens.first, *tokens.second))
        cost = Cost(*took, 0, n_tokens, n_tokens * block_count(self.hook_points), 0)
        write_json(_record(folder, part), cost.to_dict())

    def _models(self, folder: Path, norms: bool) -> tuple[HookedModel | None, Contrast]:
        """The base, if its norms are wanted, and what the differences are read in."""
        places = [folder / "step1" / method for method in TUNED[self.settings.method]]
        base = self.opened(self.base) if norms or not places else None
        if self.settings.method == "dual":
            good, bad = (self.opened(place) for place in places)
            return base, DualContrast(good, bad)
        model = self.opened(places[0]) if places or base is None else base
        return base, ScitContrast(model, self.instructions)


def _record(folder: Path, part: str) -> Path:
    return folder / "differences" / f"{part}-cost.json"
