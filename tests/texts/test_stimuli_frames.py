import re
from typing import get_args

import pytest

from contrans_lens.errors import TextError
from contrans_lens.texts import stimuli_frames as frames
from contrans_lens.texts.stimuli_frames import FrameKind, frame_stimuli

NAMES = {"quality": "honesty", "thing": "bridge", "emotion": "anger", "act": "stealing", "topic": "astronomy"}


@pytest.mark.parametrize("kind", get_args(FrameKind))
@pytest.mark.parametrize("seed", [0, 1])
def test_thirty_different_sentences_come_out_the_same_every_time(kind, seed):
    concept = frame_stimuli(NAMES[kind], kind, seed=seed, topic="t")
    assert (len(concept.stimuli), concept.repeated, concept.topic) == (30, 0, "t")
    assert concept == frame_stimuli(NAMES[kind], kind, seed=seed, topic="t")
    for sentence in concept.stimuli:
        assert NAMES[kind] in sentence.lower()
        assert re.fullmatch(r"[A-Z][^{}]*\.", sentence)
        assert "  " not in sentence


@pytest.mark.parametrize("kind", get_args(FrameKind))
def test_each_kind_has_at_least_twelve_frames_and_all_are_used_equally(kind):
    known = frames._FRAMES[kind]
    assert len(set(known)) >= 12
    sentences = frame_stimuli("Qq", kind, n=3 * len(known)).stimuli
    fillers = {"concept": "Qq", "person": ".+", "friend": ".+", "place": ".+", "time": ".+"}
    fillers |= {key.capitalize(): ".+" for key in fillers if key != "concept"} | {"Concept": "Qq"}
    for frame in known:
        pattern = re.escape(frame)
        for key, value in fillers.items():
            pattern = pattern.replace(re.escape("{" + key + "}"), value)
        assert sum(bool(re.fullmatch(pattern, sentence)) for sentence in sentences) >= 2


def test_seeds_and_concepts_draw_differently():
    assert frame_stimuli("joy", "emotion", seed=0).stimuli != frame_stimuli("joy", "emotion", seed=1).stimuli
    joy = [text.replace("joy", "x").replace("Joy", "x") for text in frame_stimuli("joy", "emotion").stimuli]
    fear = [text.replace("fear", "x").replace("Fear", "x") for text in frame_stimuli("fear", "emotion").stimuli]
    assert joy != fear


def test_what_cannot_be_made_is_refused(monkeypatch):
    with pytest.raises(TextError, match="two or more"):
        frame_stimuli("joy", "emotion", n=1)
    with pytest.raises(TextError, match="empty"):
        frame_stimuli(" ", "emotion")
    monkeypatch.setitem(frames._FRAMES, "emotion", ("{Person} felt {concept}.",))
    assert len(frame_stimuli("joy", "emotion", n=len(frames._PEOPLE)).stimuli) == len(frames._PEOPLE)
    with pytest.raises(TextError, match="ask for fewer"):
        frame_stimuli("joy", "emotion", n=len(frames._PEOPLE) + 1)
