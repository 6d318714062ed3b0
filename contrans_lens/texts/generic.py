"""A generic corpus of our own: plain English in many voices, for maps and damage where no corpus is given."""

import random
import re
from collections.abc import Sequence

from contrans_lens.errors import TextError
from contrans_lens.texts.generic_frames import FRAMES
from contrans_lens.texts.generic_words import WORDS
from contrans_lens.texts.templates import Template

_ARTICLE = re.compile(r"\b([Aa])(?= (?:[aeio]|umb))")
_SECOND_FRAME = 0.35
"""Share of texts that go on with a second frame of the same voice, so that not every text is one sentence."""


def generic_texts(n: int = 600, seed: int = 0) -> list[str]:
    """Varied short English texts: encyclopaedia, news, stories, dialogue, letters, reviews and more.

    Every voice gets an equal share, whatever ``n``. The voices differ in mood, manners and truthfulness on
    purpose: a map can only carry a direction along which its texts vary. All names and places are invented.

    Args:
        n: how many texts, all different; thousands are no trouble.
        seed: another seed, other texts; ``generic_texts(m, seed)`` is the head of a longer list.

    Raises:
        TextError: ``n`` is below one, or more than the frames can give.
    """
    if n < 1:
        raise TextError(f"n is {n}; ask for at least one text.")
    generator = random.Random(seed)
    frames = {voice: _shuffled(templates, generator) for voice, templates in FRAMES.items()}
    voices = list(frames)
    texts: dict[str, None] = {}
    draws = 0
    while len(texts) < n:
        voice = voices[draws % len(voices)]
        frame = frames[voice][(draws // len(voices)) % len(frames[voice])]
        text = _filled(frame, generator)
        if generator.random() < _SECOND_FRAME:
            others = [other for other in frames[voice] if other != frame]
            text += " " + _filled(generator.choice(others), generator)
        texts.setdefault(text)
        draws += 1
        if draws > 20 * n + 1000:
            raise TextError(f"generic_texts has about {len(texts)} different texts; {n} were asked for.")
    return list(texts)


def _shuffled(values: Sequence[str], generator: random.Random) -> list[str]:
    """A shuffled copy."""
    copy = list(values)
    generator.shuffle(copy)
    return copy


def _filled(frame: str, generator: random.Random) -> str:
    """Fill each gap with a word of its kind; ``{name}`` and ``{name_2}`` get two different ones."""
    template = Template(frame)
    values: dict[str, str] = {}
    for gap in template.fields:
        kind = gap.rstrip("0123456789").rstrip("_")
        values[gap] = generator.choice([word for word in WORDS[kind] if word not in values.values()])
    text = _ARTICLE.sub(r"\1n", template.fill(**values))
    return text[0].upper() + text[1:]
