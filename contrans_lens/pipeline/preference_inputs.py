"""What the command line gives RAHF: preferences, instructions, a strength, and how long is trained."""

import json
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

from contrans_lens.errors import RahfError, TextError
from contrans_lens.pipeline.inputs import EMBEDDED
from contrans_lens.rahf.losses import ActivityLoss
from contrans_lens.rahf.settings import AlignMethod
from contrans_lens.rahf.tokens import Answers, InstructionsByTopic, Where
from contrans_lens.rahf.training import TrainingSettings
from contrans_lens.texts import GENERAL_INSTRUCTIONS, Instructions, PreferenceSet, read_preferences
from contrans_lens.texts.files import read_file

_SEPARATOR = "\n\n"  # between an instruction that ends in no white space and the prompt
_SMALL = TrainingSettings(steps=100, accumulation=1, learning_rate=1e-3, checkpoint_every=25)
_EMBEDDED_KINDS = ("kindness", "honesty", "both")
_EMBEDDED_PAIRS = 288  # training pairs of each kind, where no limit is given


def preferences_reference(name: str, *, limit: int | None = None, seed: int = 0) -> PreferenceSet:
    """A file of preferences, or ``embedded:kindness``, ``embedded:honesty``, ``embedded:both`` of the embedded world.

    Args:
        name: the file (hh-rlhf, UltraFeedback or triples; ``.jsonl``, ``.json``, ``.csv``, or ``.gz`` of each), or the
            embedded set.
        limit: at most so many pairs, drawn with the seed; of embedded sets: so many training pairs of each kind.
        seed: of the draw, and of the embedded world's wording.

    Raises:
        TextError: the file is missing, malformed or has no usable pair, or no embedded set has that name.
    """
    if not name.startswith(EMBEDDED):
        return read_preferences(name, limit=limit, seed=seed)
    kind = name.removeprefix(EMBEDDED)
    if kind not in _EMBEDDED_KINDS:
        known = ", ".join(f"{EMBEDDED}{each}" for each in _EMBEDDED_KINDS)
        raise TextError(f"no embedded preferences are called {name!r}; there are {known}.")
    from contrans_lens.testbed import preference_set

    made: Any = kind
    return preference_set(made, seed, min(_EMBEDDED_PAIRS, limit or _EMBEDDED_PAIRS))


def instructions_reference(
    preferences: str, positive: str | None = None, negative: str | None = None, path: Path | None = None
) -> InstructionsByTopic:
    r"""p+ and p-: two texts, a file, or what fits the preferences.

    Without any: those of the embedded world for its preferences, general ones for all others.

    Args:
        preferences: how the preferences are named.
        positive: p+; ``\n`` as typed in a shell is a line break. An empty line is added unless it ends in white space.
        negative: p-, alike.
        path: a JSON file with ``positive`` and ``negative``, or an object of such by topic.

    Raises:
        RahfError: only one of the two is given, or both kinds of source.
        TextError: the file or a text cannot be used.
    """
    if (positive is None) != (negative is None):
        raise RahfError("--positive and --negative belong together; give both, or none.")
    if path is not None:
        if positive is not None:
            raise RahfError("instructions are given as texts and as a file; leave one of the two out.")
        return _instructions_file(path)
    if positive is not None and negative is not None:
        return Instructions(_separated(positive), _separated(negative))
    if not preferences.startswith(EMBEDDED):
        return GENERAL_INSTRUCTIONS
    from contrans_lens.testbed import SCIT_INSTRUCTIONS

    kind = preferences.removeprefix(EMBEDDED)
    return SCIT_INSTRUCTIONS[kind] if kind in SCIT_INSTRUCTIONS else dict(SCIT_INSTRUCTIONS)


def alpha_reference(given: str) -> float | Literal["auto"]:
    """A strength: a number other than 0, or ``auto``.

    Raises:
        RahfError: it is neither.
    """
    if given == "auto":
        return "auto"
    try:
        alpha = float(given)
    except ValueError:
        alpha = 0.0
    if not isfinite(alpha) or not alpha:
        raise RahfError(f"--alpha is {given!r}; a number other than 0 was expected, or auto.")
    return alpha


def names_reference(method: str, loss: str, where: str, answers: str) -> dict[str, Any]:
    """Check the options that are one of a few names; gives them as :func:`~contrans_lens.rahf.align.align` takes them.

    Raises:
        RahfError: a name is unknown.
    """
    given = {"method": method, "loss": loss, "where": where, "answers": answers}
    for option, kinds in {"method": AlignMethod, "loss": ActivityLoss, "where": Where, "answers": Answers}.items():
        if given[option] not in get_args(kinds):
            known = ", ".join(get_args(kinds))
            raise RahfError(f"--{option} is {given[option]!r}; choose one of {known}.")
    return dict(given)


def training_reference(base: str, **given: Any) -> TrainingSettings:
    """Settings of a training: those that were given, and for the rest RAHF's, or shorter ones for embedded models.

    RAHF's are made for models of 7B (450 updates of 64 pairs at 3e-4). A model of a million weights needs fewer updates
    and a higher rate: 100 of 16 pairs at 1e-3.

    Args:
        base: how the base model is named.
        given: fields of :class:`TrainingSettings`; None leaves one as it is.

    Raises:
        RahfError: a value is out of its range.
    """
    values = {name: value for name, value in given.items() if value is not None}
    return replace(_SMALL if base.startswith(EMBEDDED) else TrainingSettings(), **values)


def _separated(text: str) -> str:
    typed = text.replace("\\n", "\n")
    return typed if typed[-1:].isspace() else typed + _SEPARATOR


def _instructions_file(path: Path) -> InstructionsByTopic:
    try:
        found = json.loads(read_file(path))
    except json.JSONDecodeError as error:
        raise TextError(f"{path} is not readable JSON: {error}.") from error
    if not isinstance(found, Mapping) or not found:
        raise TextError(f"{path} holds no instructions; an object with 'positive' and 'negative' was expected.")
    if all(isinstance(each, Mapping) for each in found.values()):
        return {topic: _instructions(each, f"{path}, topic {topic!r}") for topic, each in found.items()}
    return _instructions(found, str(path))


def _instructions(row: Mapping[str, Any], where: str) -> Instructions:
    missing = [name for name in ("positive", "negative") if not isinstance(row.get(name), str)]
    if missing:
        raise TextError(f"{where} lacks the text {missing[0]!r}; it has {', '.join(map(str, row))}.")
    return Instructions(row["positive"], row["negative"])
