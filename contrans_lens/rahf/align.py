"""RAHF in one call: fine-tune, read activity differences, fit an adapter, do it again on controls, and score all."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from contrans_lens.models import check_hook_points, fingerprint, open_model
from contrans_lens.models.naming import described, model_name
from contrans_lens.rahf.claim import claim, claimed_plan, texts_hash
from contrans_lens.rahf.course import Course
from contrans_lens.rahf.fitted import FittedAdapter
from contrans_lens.rahf.losses import ActivityLoss
from contrans_lens.rahf.processes import Processes
from contrans_lens.rahf.result import RESULT, RahfResult
from contrans_lens.rahf.scoring import ScoredPairs
from contrans_lens.rahf.settings import (
    AlignMethod,
    AlignSettings,
    Keep,
    checked_neutral,
    default_hook_points,
    spelled_instructions,
)
from contrans_lens.rahf.steps import Steps
from contrans_lens.rahf.tokens import Answers, InstructionsByTopic, Where
from contrans_lens.rahf.training import LoraSettings, TrainingSettings
from contrans_lens.texts import GENERAL_INSTRUCTIONS, PreferenceSet
from contrans_lens.texts.preference_sets import PreferenceSplits

_LORA, _TRAINING = LoraSettings(), TrainingSettings()


def align(
    base: str | Path,
    preferences: PreferenceSet,
    out: Path | str,
    *,
    method: AlignMethod = "scit",
    instructions: InstructionsByTopic | None = None,
    alpha: float | int | Literal["auto"] = 5.0,
    loss: ActivityLoss = "norm",
    where: Where = "predicting",
    answers: Answers = "chosen",
    hook_points: Sequence[str] | None = None,
    lora: LoraSettings = _LORA,
    tuning: TrainingSettings = _TRAINING,
    fitting: TrainingSettings = _TRAINING,
    epsilon: float | int = 0.2,
    neutral: Sequence[str] = (),
    controls: int = 1,
    keep: Keep = "float32",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda step: None,
) -> RahfResult:
    """Align a model with preferences by matching the activity that they call up (RAHF, arXiv 2312.15997).

    Step 1 makes models that feel the preference, step 2 reads how their activity differs at the tokens of one answer,
    step 3 fits an adapter of the base to move by ``alpha`` times that. The base, the base after p+ in words, the models
    of step 1, the result and controls are scored on held-out pairs. All is kept in ``out``: a call with the same
    arguments goes on where an earlier one was broken off, and opens a run that is finished. Works under accelerate's
    launcher; trainings share their work, and everything else is done by the main process. (Differences that are not
    kept are read by the process that fits to them.)

    Controls go the whole way on pairs half of which have their labels exchanged (with ``"cues"``: half of the
    differences their sign), or fit one random direction in each layer with the norms of v, which is scored once more
    scaled to the damage of the result.

    Args:
        base: hub name or folder of a model.
        preferences: pairs; what is not pinned to a part is split by group.
        out: folder of the run.
        method: ``"scit"``, ``"dual"``, or ``"cues"``: no step 1, the base under p+ and p- is read itself.
        instructions: p+ and p-, for all pairs or by topic; None: general ones.
        alpha: how many times v; ``"auto"``: several are fitted, and one is chosen on the validation pairs.
        loss: of the fit, ``"norm"`` or ``"mse"``.
        where: ``"predicting"``: at the positions that predict the answer's tokens; ``"answer"``: at these tokens.
        answers: which answers of a pair activities are read on.
        hook_points: where the residual stream is read; None: the paper's layers, scaled to the model's depth.
        lora: the adapters of step 1 and step 3.
        tuning: training of step 1. Its seed is replaced by ``seed``. The default is that of the paper's SCIT; its Dual
            makes 2,500 updates of 8 answers at a rate of 9e-6.
        fitting: training of step 3. Its seed is replaced by ``seed``; its limits of tokens hold in step 2.
        epsilon: label smoothing of SCIT's contrastive term.
        neutral: texts on which damage is measured, two at least; none: it is not.
        controls: runs of each kind of control.
        keep: how activity differences are kept: on disk in a dtype (an answer of 512 tokens at five layers of width
            4,096 takes 42 MB in float32), or ``"nothing"``: they are computed whenever they are asked for, which keeps
            the models that they are read in in memory.
        dtype: of the weights of all models, float32 or bfloat16. Adapters, losses and targets are float32 all the same.
        seed: of the split, the trainings, the controls and the bootstraps.
        device: where models run; CUDA if there is one and None is given, else the CPU.
        progress: whether to show bars.
        say: told what runs now, by the main process.

    Raises:
        RahfError: settings out of range, a topic without instructions, too few groups to score, nothing to fit.
        TextError: the pairs cannot be split by group.
        ModelError: the base cannot be opened, or lacks a hook point.
        ArtifactError: the folder holds another run, or cannot be written.
    """
    settings = AlignSettings(
        method=method,
        alpha=alpha,
        loss=loss,
        where=where,
        answers=answers,
        hook_points=None if hook_points is None else tuple(hook_points),
        lora=lora,
        tuning=tuning,
        fitting=fitting,
        epsilon=epsilon,
        controls=controls,
        keep=keep,
        dtype=dtype,
        seed=seed,
    )
    folder, texts = Path(out), checked_neutral(neutral)
    given = GENERAL_INSTRUCTIONS if instructions is None else instructions
    parts = preferences.split(seed=seed)
    processes = Processes.here(device)
    key = {
        "base": str(Path(base).resolve()) if Path(base).is_dir() else str(base),
        "preferences": preferences.content_hash,
        "instructions": spelled_instructions(given),
        "neutral": texts_hash(texts),
        "processes": processes.count,
        **settings.to_dict(),
    }
    heard = say if processes.is_main else _nothing
    processes.once(lambda: claim(folder, key, lambda: _plan(base, parts, given, settings, device, heard)))
    if not (folder / RESULT).exists():
        plan = claimed_plan(folder)
        steps = Steps(base, settings, given, tuple(plan["hook_points"]), device, progress, processes, heard)
        Course(folder, steps, preferences, parts, texts, plan["model"]).finish()
    FittedAdapter.load(folder / "adapter")  # says so when the weights that the numbers are about were altered
    return RahfResult.load(folder)


def _nothing(step: str) -> None:
    pass


def _plan(
    base: str | Path,
    parts: PreferenceSplits,
    instructions: InstructionsByTopic,
    settings: AlignSettings,
    device: str | torch.device | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Look at the base before anything is trained: where it is read, and whether the pairs can be scored."""
    say("opening the base")
    opened = open_model(base, dtype=settings.dtype, device=device)
    points = settings.hook_points or default_hook_points(int(opened.cfg.n_layers), settings.method)
    check_hook_points(opened, points)
    for pairs in parts if settings.alpha == "auto" else (parts.test,):
        ScoredPairs.of(opened, pairs, instructions)
    named = model_name(base if isinstance(base, Path) or not Path(base).is_dir() else Path(base))
    return {"hook_points": list(points), "model": described(fingerprint(opened), named)}
