"""Which texts fit the map and which measure damage, from what the user gave."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from contrans_lens.errors import TextError
from contrans_lens.pipeline.settings import Settings
from contrans_lens.texts import cut_texts, generic_texts

_ENDS_A_SENTENCE = re.compile(r"[.!?][\"')\]]*\s*$")
_CUTS_PER_TEXT = 4
_NEUTRAL_SHARE = 0.2


@dataclass(frozen=True)
class Corpus:
    """Generic texts in two disjoint roles."""

    map_texts: tuple[str, ...]
    """Texts whose last token is read in both models; they stop in mid-sentence, where something is to be said."""
    neutral_texts: tuple[str, ...]
    """Whole texts on which KL and perplexity are measured."""


def build_corpus(texts: Sequence[str] | None, neutral: Sequence[str] | None, settings: Settings) -> Corpus:
    """Give every text a role.

    Texts that end with a sentence are cut at random in mid-sentence before they fit a map (several times each, if
    there are few); texts that already stop in mid-sentence are taken as they are. Without ``neutral`` a fifth of the
    texts, at most ``max_neutral_texts``, is kept whole for measuring damage and fits no map.

    Args:
        texts: generic texts; None takes the shipped plain-English corpus.
        neutral: texts to measure damage on; None holds out some of ``texts``.
        settings: how many of each are used.

    Raises:
        TextError: too few texts for both roles.
    """
    given = list(dict.fromkeys(generic_texts(settings.max_map_texts, seed=settings.seed) if texts is None else texts))
    if neutral is None:
        kept = min(settings.max_neutral_texts, max(1, round(_NEUTRAL_SHARE * len(given))))
        if len(given) <= kept:
            raise TextError(
                f"{len(given)} generic texts are too few to fit a map and to measure damage on; give more texts, or "
                "neutral texts of their own."
            )
        # Spread over the list, because a file is often sorted.
        step = len(given) / kept
        places = {int(i * step) for i in range(kept)}
        neutral = [text for i, text in enumerate(given) if i in places]
        given = [text for i, text in enumerate(given) if i not in places]
    return Corpus(tuple(_cut_whole(given, settings)), tuple(list(neutral)[: settings.max_neutral_texts]))


def _cut_whole(texts: list[str], settings: Settings) -> list[str]:
    """Cut the texts that end with a sentence; leave the others."""
    whole = [text for text in texts if _ENDS_A_SENTENCE.search(text)]
    open_ended = [text for text in texts if not _ENDS_A_SENTENCE.search(text)]
    wanted = max(0, settings.max_map_texts - len(open_ended))
    if not whole or not wanted:
        return open_ended
    long_enough = [text for text in whole if len(text.split()) > 6]
    n = min(wanted, _CUTS_PER_TEXT * len(long_enough))
    while n > 0:
        try:
            return open_ended + cut_texts(long_enough, n, seed=settings.seed, max_words=settings.max_cut_words)
        except TextError:
            n //= 2  # short texts have fewer different cuts than were asked for
    return open_ended
