"""Cuts of generic text: random ones in mid-sentence, and ones right before a decision."""

import random
import re
from collections.abc import Sequence
from typing import Literal

from contrans_lens.errors import TextError
from contrans_lens.texts.items import checked_text

_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"[.!?…:;][\"'”’)\]]*$")


def cut_texts(
    texts: Sequence[str],
    n: int | None = None,
    *,
    seed: int = 0,
    min_words: int = 4,
    max_words: int | None = None,
    removed: tuple[int, int] | None = None,
) -> list[str]:
    """Cut texts at random word ends in mid-sentence: the last token stands where something must follow.

    A cut text is a piece of its original that begins at its head (or, with ``max_words``, at some sentence's
    head), keeps at least ``min_words`` words, and ends at a word that does not close a sentence. Every text
    is cut once before any is cut again; no piece comes twice. The same texts and seed give the same pieces.

    Args:
        texts: sentences or longer texts.
        n: number of pieces; None: one for each text that can be cut.
        seed: another seed, other cuts.
        min_words: fewest words kept.
        max_words: most words kept; None: no limit.
        removed: cut only so many words before a sentence's end, least and most, e.g. ``(2, 4)`` as in
            ConTrans; None: anywhere.

    Raises:
        TextError: no text is long enough, or there are fewer than ``n`` different pieces.
    """
    if min_words < 1 or (max_words is not None and max_words < min_words) or (n is not None and n < 1):
        raise TextError(
            f"min_words={min_words}, max_words={max_words}, n={n}: expected 1 <= min_words <= max_words and n >= 1."
        )
    generator = random.Random(seed)
    queues = []
    for index, text in enumerate(texts):
        checked_text(text, f"text {index}")
        pieces = list(dict.fromkeys(_pieces(text, min_words, max_words, removed)))
        generator.shuffle(pieces)
        if pieces:
            queues.append(pieces)
    if not queues:
        raise TextError(
            f"none of {len(texts)} texts can be cut in mid-sentence with {min_words} words kept; give longer ones."
        )
    generator.shuffle(queues)
    wanted = len(queues) if n is None else n
    chosen: dict[str, None] = {}
    while len(chosen) < wanted and queues:
        for pieces in queues:
            while pieces and len(chosen) < wanted:
                piece = pieces.pop()
                if piece not in chosen:
                    chosen[piece] = None
                    break
        queues = [pieces for pieces in queues if pieces]
    if n is not None and len(chosen) < n:
        raise TextError(
            f"{len(texts)} texts give only {len(chosen)} different pieces, {n} were asked for; give more texts."
        )
    return list(chosen)


def cut_before(
    texts: Sequence[str],
    marker: str,
    *,
    keep_marker: bool = True,
    occurrence: Literal["first", "last"] = "last",
    missing: Literal["error", "drop"] = "error",
) -> list[str]:
    """Cut texts right before a decision: what follows the marker that announces it is taken off.

    ``cut_before(["Q: Two and two? Answer: four"], "Answer:")`` gives ``["Q: Two and two? Answer:"]``: the
    last token is then the one at which the model decides, which is where a concept is best read
    (``positions=LastToken()``).

    Args:
        texts: whole documents.
        marker: the string that announces the decision, e.g. ``"Answer:"``.
        keep_marker: end with the marker (True), or before it.
        occurrence: which marker, where a text has several.
        missing: what to do with a text without marker: refuse, or leave the text out.

    Raises:
        TextError: a text lacks the marker, nothing is left of a text, or no text is left.
    """
    checked_text(marker, "the marker")
    pieces = []
    for index, text in enumerate(texts):
        checked_text(text, f"text {index}")
        start = text.find(marker) if occurrence == "first" else text.rfind(marker)
        if start < 0 and missing == "drop":
            continue
        if start < 0:
            raise TextError(
                f"text {index} has no marker {marker!r}: {text[:80]!r}. Use missing='drop' to leave such texts out."
            )
        piece = (text[:start] + marker) if keep_marker else text[:start]
        pieces.append(checked_text(piece.rstrip(), f"what stands before {marker!r} in text {index}"))
    if not pieces:
        raise TextError(f"none of {len(texts)} texts has the marker {marker!r}.")
    return pieces


def _pieces(text: str, min_words: int, max_words: int | None, removed: tuple[int, int] | None) -> list[str]:
    """Every piece of a text that :func:`cut_texts` may choose."""
    words = list(_WORD.finditer(text))
    closes = [bool(_SENTENCE_END.search(word.group())) for word in words]
    closes[-1] = True
    heads = [0] + [index + 1 for index, close in enumerate(closes[:-1]) if close]
    pieces = []
    sentence_end = len(words) - 1
    for end in range(len(words) - 1, -1, -1):
        if closes[end]:
            sentence_end = end
            continue
        if removed is not None and not removed[0] <= sentence_end - end <= removed[1]:
            continue
        for head in heads if max_words is not None else [0]:
            kept = end + 1 - head
            if kept >= min_words and (max_words is None or kept <= max_words):
                pieces.append(text[words[head].start() : words[end].end()])
    return pieces
