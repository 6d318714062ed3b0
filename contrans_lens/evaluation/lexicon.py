"""Lexicons: words and phrases that speak for or against something, counted in generated text.

A lexicon is a crude judge. It is fast, it needs no second model, and it can be read; it does not know what a text is
about. Use it for many generations beside another measure, not for single ones.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import TextError
from contrans_lens.texts.files import parse_json, read_file
from contrans_lens.texts.items import checked_text

_APOSTROPHES = str.maketrans(dict.fromkeys("‘’ʼ′`", "'"))
_WORD = re.compile(r"\w+(?:'\w+)*")
_CLAUSE_END = re.compile(r"[.,;:!?…\n()\"“”—]")
_EMOTIONS_FILE = "emotions"


@dataclass(frozen=True)
class Lexicon:
    """Phrases for two sides of something, and how they are looked for.

    A phrase is matched as whole words. ``*`` stands for any letters (``hope*`` is found in "hopeful"), a space for any
    white space, and a straight apostrophe for curly ones. Where phrases overlap, the one that begins first counts, and
    of these the longest: "can't help but" as a phrase of its own keeps "can't help" from being found in it.

    Raises:
        TextError: a phrase is blank or not a string, stands on both sides, or there is none; a negation is not one
            word; a number is out of range.
    """

    name: str
    """What is measured."""
    positive: tuple[str, ...]
    """Phrases that speak for it."""
    negative: tuple[str, ...] = ()
    """Phrases that speak against it."""
    negations: tuple[str, ...] = ()
    """Words such as "not" or ``*n't`` that turn around what follows in the same clause."""
    window: int = 3
    """How many words before a phrase are searched for negations; two of them cancel."""
    negated: Literal["flip", "drop"] = "flip"
    """Whether a negated phrase counts for the other side ("not happy" is unhappy) or not at all."""
    within: int | None = None
    """Only phrases that begin among the first so many words count; None: anywhere."""
    case_sensitive: bool = False
    """Whether capitals matter."""

    def __post_init__(self) -> None:
        checked_text(self.name, "the name of a lexicon")
        for side in ("positive", "negative", "negations"):
            object.__setattr__(self, side, _phrases(getattr(self, side), f"{side} of the lexicon {self.name!r}"))
        if not self.positive and not self.negative:
            raise TextError(f"the lexicon {self.name!r} has no phrases; give at least one.")
        both = {self._plain(phrase) for phrase in self.positive} & {self._plain(phrase) for phrase in self.negative}
        if both:
            raise TextError(f"{sorted(both)} stand(s) on both sides of the lexicon {self.name!r}; choose one.")
        if any(" " in word.strip() for word in self.negations):
            raise TextError(f"the negations of the lexicon {self.name!r} must be single words: {list(self.negations)}.")
        if self.window < 0 or (self.within is not None and self.within < 1):
            raise TextError(f"window={self.window} and within={self.within}; they count words, from 0 and from 1.")
        if self.negated not in ("flip", "drop"):
            raise TextError(f"negated={self.negated!r}; 'flip' or 'drop' was expected.")

    def hits(self, texts: Sequence[str]) -> Int[Tensor, "text side"]:
        """How many phrases speak for (column 0) and against (column 1) it in each text, negation included.

        Raises:
            TextError: ``texts`` is one string.
        """
        if isinstance(texts, str):
            raise TextError("the texts are one string; give a list of texts.")
        return torch.tensor([self._count(text) for text in texts], dtype=torch.int64).reshape(len(texts), 2)

    def score(self, texts: Sequence[str]) -> Float[Tensor, "text"]:
        """The balance of each text, ``(hits+ - hits-) / (hits+ + hits-)``, float64 in [-1, 1]; 0 without hits.

        Raises:
            TextError: ``texts`` is one string.
        """
        found = self.hits(texts).double()
        return (found[:, 0] - found[:, 1]) / found.sum(1).clamp_min(1.0)

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        """:meth:`score` as a judge of generations, which does not look at the prompts."""
        return [float(each) for each in self.score(texts)]

    def _count(self, text: str) -> tuple[int, int]:
        text = self._plain(text.translate(_APOSTROPHES))
        end = len(text)
        if self.within is not None:
            starts = [word.start() for word in _WORD.finditer(text)]
            end = starts[self.within] if len(starts) > self.within else end
        counts = [0, 0]
        for hit in self._pattern.finditer(text):
            if hit.start() >= end:
                break
            side = self._side(hit.group())
            negated = self._is_negated(text[: hit.start()])
            if not negated or self.negated == "flip":
                counts[side ^ negated] += 1
        return counts[0], counts[1]

    def _is_negated(self, before: str) -> bool:
        if not self.negations or not self.window:
            return False
        words = _WORD.findall(_CLAUSE_END.split(before)[-1])[-self.window :]
        return sum(self._negation.fullmatch(word) is not None for word in words) % 2 == 1

    def _side(self, found: str) -> int:
        """The side (0 or 1) of a text that the pattern found."""
        side = self._literal.get(" ".join(found.split()))
        return next(side for each, side in self._wild if each.fullmatch(found)) if side is None else side

    @cached_property
    def _ordered(self) -> list[tuple[str, int]]:
        """All phrases with their side, the longest first: of the alternatives that fit, re takes the first."""
        sides = [(phrase, 0) for phrase in self.positive] + [(phrase, 1) for phrase in self.negative]
        return sorted(((self._plain(phrase), side) for phrase, side in sides), key=lambda pair: -len(pair[0]))

    @cached_property
    def _literal(self) -> dict[str, int]:
        return {phrase: side for phrase, side in self._ordered if "*" not in phrase}

    @cached_property
    def _wild(self) -> list[tuple[re.Pattern[str], int]]:
        return [(re.compile(_expression(phrase)), side) for phrase, side in self._ordered if "*" in phrase]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Neither groups nor IGNORECASE: without them re passes over alternatives by their first letter.
        return re.compile(rf"(?<!\w)(?:{'|'.join(_expression(phrase) for phrase, _ in self._ordered)})(?!\w)")

    @cached_property
    def _negation(self) -> re.Pattern[str]:
        return re.compile("|".join(_expression(self._plain(word)) for word in self.negations))

    def _plain(self, text: str) -> str:
        return text if self.case_sensitive else text.lower()

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], name: str = "") -> "Lexicon":
        """Read a lexicon from a JSON object whose keys are the fields of the class; ``name`` is used if it has none.

        Raises:
            TextError: a key is unknown or ``positive`` is missing, or a value is not what it should be.
        """
        unknown = sorted(set(row) - set(cls.__dataclass_fields__))
        if unknown or "positive" not in row:
            raise TextError(
                f"a lexicon needs 'positive' and may have {sorted(cls.__dataclass_fields__)}; unknown keys: {unknown}."
            )
        for key, kind in (("window", int), ("within", int), ("case_sensitive", bool)):
            value = row.get(key)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool)):
                raise TextError(f"{key!r} of a lexicon is {value!r}; a value of type {kind.__name__} was expected.")
        named = checked_text(row.get("name", name), "the name of a lexicon")
        sides = [key for key in ("positive", "negative", "negations") if key in row]
        phrases = {key: _phrases(row[key], f"{key} of the lexicon {named!r}") for key in sides}
        return cls(**{**row, "name": named, **phrases})


def builtin_lexicons() -> tuple[str, ...]:
    """The names of the lexicons that ship with the package; the emotions have :func:`emotion_lexicon`."""
    names = (entry.name.removesuffix(".json") for entry in _folder().iterdir() if entry.name.endswith(".json"))
    return tuple(sorted(name for name in names if name != _EMOTIONS_FILE))


def load_lexicon(name_or_path: str | Path) -> Lexicon:
    """Load a lexicon: a built-in name (``"sentiment"``, ``"refusal"``), or the path of a JSON file.

    The file is an object whose keys are the fields of :class:`Lexicon`; ``positive`` is the only one it needs.

    Raises:
        TextError: there is neither a built-in lexicon nor a file of this name, or the file is not a lexicon; with the
            path.
    """
    if str(name_or_path) in builtin_lexicons():
        return _builtin(str(name_or_path))
    path = Path(name_or_path)
    if not path.exists():
        raise TextError(
            f"{str(name_or_path)!r} is neither a built-in lexicon nor a file. "
            f"Built-in: {', '.join(builtin_lexicons())}."
        )
    return _read(path)


def emotion_lexicon(emotion: str) -> Lexicon:
    """The words of one emotion against those of the other five of ConTrans (happiness, sadness, anger, ...).

    A negated word counts for nothing: who is not sad need not be happy. It finds emotions that a text names; what a
    scene would make one feel it does not know.

    Raises:
        TextError: another emotion.
    """
    with resources.as_file(_folder() / f"{_EMOTIONS_FILE}.json") as path:
        row = parse_json(read_file(path), path)
    words = row.pop("words")
    if emotion not in words:
        raise TextError(f"there is no lexicon of the emotion {emotion!r}; there are {list(words)}.")
    others = [word for other, found in words.items() if other != emotion for word in found]
    return Lexicon.from_dict({**row, "name": emotion, "positive": words[emotion], "negative": others})


def refusal(texts: Sequence[str], lexicon: Lexicon | None = None) -> Float[Tensor, "text"]:
    """Whether generations refuse: 1 for a refusal, -1 for none, float64.

    A text refuses if a positive phrase of the lexicon is found in it; the built-in one looks among the first 30 words.
    An empty text does not refuse. Refusals in other words are missed, and a story in which someone refuses early on
    is taken for one: read some of both.

    Args:
        texts: generations without their prompts.
        lexicon: default: the built-in ``"refusal"``.

    Raises:
        TextError: ``texts`` is one string.
    """
    found = (load_lexicon("refusal") if lexicon is None else lexicon).hits(texts)[:, 0] > 0
    return torch.where(found, 1.0, -1.0).double()


@cache
def _builtin(name: str) -> Lexicon:
    """Read a shipped lexicon, once: its compiled pattern is kept with it."""
    with resources.as_file(_folder() / f"{name}.json") as path:
        return _read(path)


def refusal_judge(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """:func:`refusal` as a judge of generations, which does not look at the prompts."""
    return [float(each) for each in refusal(texts)]


def _folder() -> Any:
    return resources.files("contrans_lens.evaluation") / "lexicons"


def _read(path: Path) -> Lexicon:
    """A lexicon from its file."""
    row = parse_json(read_file(path), path)
    if not isinstance(row, Mapping):
        raise TextError(f"{path} holds a JSON {type(row).__name__}; an object with 'positive' phrases was expected.")
    try:
        return Lexicon.from_dict(row, path.name.split(".")[0])
    except TextError as error:
        raise TextError(f"{path}: {error}") from error


def _phrases(value: object, what: str) -> tuple[str, ...]:
    """Phrases with straight apostrophes and single spaces."""
    if not isinstance(value, list | tuple):
        raise TextError(f"{what} is {value!r}; a list of phrases was expected.")
    checked = [checked_text(phrase, f"one of the {what}") for phrase in value]
    if any(not phrase.replace("*", "").strip() for phrase in checked):
        raise TextError(f"one of the {what} is nothing but '*', which would be found everywhere.")
    return tuple(" ".join(phrase.translate(_APOSTROPHES).split()) for phrase in checked)


def _expression(phrase: str) -> str:
    """A phrase as a regular expression."""
    return r"\s+".join(re.escape(word).replace(r"\*", r"\w*") for word in phrase.split())
