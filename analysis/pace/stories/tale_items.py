"""Items: story beginnings with an unwanted and an opposite continuation, by scene, in two parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from tale_frames import NAMES
from tale_scenes import (
    LIE_CUES,
    LIE_ENDINGS,
    LIE_MOTIVES,
    LIE_QUESTION,
    LIE_SCENES,
    PROMPT_EVENTS,
    SAD_CUES,
    SAD_ENDINGS,
    SAD_SCENES,
    UNKIND_CUES,
    UNKIND_ENDINGS,
    UNKIND_MOTIVES,
    UNKIND_SCENES,
)
from torch import Tensor

from contrans_lens.evaluation.behaviours import PairedAnswers
from contrans_lens.models import HookedModel
from contrans_lens.texts import EvaluationItem

GIRLS = frozenset({"Lily", "Mia", "Anna", "Sue", "Lucy", "Amy"})
N_ENDINGS = 2
"""Continuations of a scene that are used, of six in the pool."""
Endings = Sequence[tuple[str, str]]

ENDINGS: dict[str, Endings] = {"sadness": SAD_ENDINGS, "unkindness": UNKIND_ENDINGS, "lying": LIE_ENDINGS}


@dataclass(frozen=True)
class TaleItems:
    """The items of one unwanted topic in one part, two beginnings a scene; log-odds in nats are what is compared."""

    unwanted: PairedAnswers
    """After beginnings that bring it in; the positive continuation is the unwanted one."""
    opposite: PairedAnswers
    """The same scenes and continuations after beginnings that bring in the opposite."""

    def context_effect(self, model: HookedModel) -> Float[Tensor, " item"]:
        """How much more likely the unwanted continuation is after the unwanted beginning, nats, unedited model."""
        after = [side.measure(model, [()]).column("log_odds")[0] for side in (self.unwanted, self.opposite)]
        return after[0] - after[1]


def tale_items(topic: str, part: str, endings: Endings) -> TaleItems:
    """One item for each scene and ending: every third scene is for validation, the others for the test.

    Args:
        topic: ``sadness``, ``unkindness`` or ``lying``.
        part: ``validation`` or ``test``.
        endings: pairs of continuations, the unwanted one first.
    """
    sides: tuple[list[EvaluationItem], list[EvaluationItem]] = ([], [])
    for number, scene in enumerate(_scenes(topic)):
        if (number % 3 == 0) != (part == "validation"):
            continue
        for place, pair in enumerate(endings):
            words = _words(number + 5 * place)
            for items, beginning in zip(sides, scene, strict=True):
                texts = [text.format(**words) for text in (beginning, *pair)]
                items.append(EvaluationItem(texts[0], texts[1], texts[2], f"{topic} {number}", part))
    unwanted, opposite = map(tuple, sides)
    return TaleItems(
        PairedAnswers(unwanted, "unwanted", primary="log_odds"), PairedAnswers(opposite, "opposite", primary="log_odds")
    )


def chosen_endings(model: HookedModel, topic: str) -> tuple[list[tuple[str, str]], list[float]]:
    """The endings with the largest context effect on validation scenes, and the effects of the whole pool in nats."""
    pool = ENDINGS[topic]
    effects = tale_items(topic, "validation", pool).context_effect(model).unflatten(0, (-1, len(pool))).mean(0)
    best = torch.argsort(effects, descending=True, stable=True)[:N_ENDINGS].tolist()
    return [pool[place] for place in best], effects.tolist()


def sad_prompts() -> list[str]:
    """Sad beginnings to be continued, one for each event; they stop where a feeling is about to be named."""
    texts = (
        f"{event} {SAD_CUES[number % len(SAD_CUES)][0]} {{name}} felt" for number, event in enumerate(PROMPT_EVENTS)
    )
    return [text.format(**_words(number)) for number, text in enumerate(texts)]


def _scenes(topic: str) -> list[tuple[str, str]]:
    """Pairs of beginnings: unwanted and opposite."""
    if topic == "sadness":
        # Scenes go to the parts by threes, so the cue moves on by one every three scenes: every cue is in both parts.
        sad_cues = [SAD_CUES[(number // 3 + number) % len(SAD_CUES)] for number in range(len(SAD_SCENES))]
        return [
            (f"{start} {sad} {cue[0]}", f"{start} {happy} {cue[1]}")
            for (start, sad, happy), cue in zip(SAD_SCENES, sad_cues, strict=True)
        ]
    unkind = topic == "unkindness"
    scenes, motives, cues = (
        (UNKIND_SCENES, UNKIND_MOTIVES, UNKIND_CUES) if unkind else (LIE_SCENES, LIE_MOTIVES, LIE_CUES)
    )
    question = "" if unkind else f" {LIE_QUESTION}"
    pairs = []
    for number, scene in enumerate(scenes):
        motive, cue = motives[number % len(motives)], cues[(number // 3 + number) % len(cues)]
        bad, good = (f"{scene} {reason} {said}{question}" for reason, said in zip(motive, cue, strict=True))
        pairs.append((bad, good))
    return pairs


def _words(number: int) -> dict[str, str]:
    name, friend = NAMES[number % len(NAMES)], NAMES[(number + 7) % len(NAMES)]
    return {"name": name, "friend": friend, "He": "She" if name in GIRLS else "He"}
