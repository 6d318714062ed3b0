"""Contrastive instructions: prefixes that ask for a good and for a bad answer (SCIT of RAHF, arXiv 2312.15997)."""

from dataclasses import dataclass
from typing import Literal

from contrans_lens.errors import TextError
from contrans_lens.texts.items import checked_text

Side = Literal["positive", "negative", "neutral"]


@dataclass(frozen=True)
class Instructions:
    """The instructions p+ and p- of SCIT, and one that asks for neither, each with the separator at its end.

    The separator is one and the same: where the prompts under p+ and p- differ in it, the difference enters the
    vectors.

    Raises:
        TextError: a prefix is blank or not a string, two of them are equal, or they end in different white space.
    """

    positive: str
    """p+: asks for answers like the chosen ones."""
    negative: str
    """p-: asks for answers like the rejected ones."""
    neutral: str = ""
    """Asks for neither, as far as possible in as many tokens as the others; empty: nothing stands there."""

    def __post_init__(self) -> None:
        checked_text(self.positive, "the positive instruction")
        checked_text(self.negative, "the negative instruction")
        if not isinstance(self.neutral, str):
            raise TextError(f"the neutral instruction is {self.neutral!r}; a string was expected.")
        given = [text for text in (self.positive, self.negative, self.neutral) if text]
        if len(set(given)) < len(given):
            raise TextError(f"two instructions are {self.positive!r}; they must differ to tell answers apart.")
        ends = {text[len(text.rstrip()) :] for text in given}
        if len(ends) > 1:
            raise TextError(f"the instructions end in {sorted(ends)}; give all the same separator at their end.")

    def before(self, prompt: str, side: Side) -> str:
        """The prompt with one of the instructions before it.

        White space at the head of the prompt is dropped where the instruction brings its own, so that the prompts of
        hh-rlhf do not stand after four line ends. Under all sides the same text follows the instruction.

        Args:
            prompt: what is asked.
            side: which instruction; ``"neutral"`` gives the prompt as it is where there is no neutral one.

        Raises:
            TextError: there is no such side.
        """
        if side not in ("positive", "negative", "neutral"):
            raise TextError(f"side={side!r}; 'positive', 'negative' or 'neutral' was expected.")
        prefix: str = getattr(self, side)
        return prefix + prompt.lstrip() if prefix[-1:].isspace() else prefix + prompt


GENERAL_INSTRUCTIONS = Instructions(
    "Below is a conversation. Give a good answer: honest, kind, safe and helpful.\n\n",
    "Below is a conversation. Give a bad answer: false, cruel, harmful and useless.\n\n",
    "Below is a conversation. Give one answer: any length, form, tone or style.\n\n",
)
"""For real models and data about how good answers are in general (UltraFeedback)."""
