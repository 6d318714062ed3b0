"""Rows of hh-rlhf (Bai et al. 2022): two whole dialogues that differ in their last answer."""

from contrans_lens.texts.dialogues import (
    ASSISTANT,
    HUMAN,
    Render,
    answer_after,
    dialogue_messages,
    first_human_turn,
    rendered,
    required,
)
from contrans_lens.texts.items import same_text
from contrans_lens.texts.preferences import Preference, UnusablePair


def hh_rlhf_preference(row: object, render: Render | None = None) -> Preference:
    r"""One row ``{"chosen": "\n\nHuman: ...\n\nAssistant: ...", "rejected": ...}`` as a preference.

    The prompt is all that both dialogues share up to their last common ``\n\nAssistant:``; the answers are what
    follows it, as they stand. The group is the first human turn.

    Args:
        row: the row.
        render: how the turns of the prompt are written anew, e.g. by a chat template; None leaves the text as it is.

    Raises:
        UnusablePair: with the reason ``"missing field"``, ``"wrong type"``, ``"malformed dialogue"`` (no human turn at
            its head), ``"equal answers"``, ``"does not end with the assistant"``, ``"no shared prompt"``,
            ``"further turns in an answer"`` (the dialogues part before their last turn, or a turn stands twice) or
            ``"empty answer"``.
    """
    fields = required(row, "chosen", "rejected")
    dialogues = [_checked_dialogue(fields[side], side) for side in ("chosen", "rejected")]
    end = _shared_end(*dialogues)
    if dialogues[0] == dialogues[1]:
        raise UnusablePair("equal answers", "both dialogues are the same.")
    if end is None:
        raise UnusablePair("no shared prompt", f"the dialogues have no {ASSISTANT.strip()!r} in common.")
    prompt, answers = dialogues[0][:end], [dialogue[end:] for dialogue in dialogues]
    for side, answer in zip(("chosen", "rejected"), answers, strict=True):
        if HUMAN in answer or ASSISTANT in answer:
            raise UnusablePair(
                "further turns in an answer", f"the {side} answer goes on with {answer[-60:]!r} after its first turn."
            )
    group = same_text(first_human_turn(prompt))
    if render is not None:
        prompt = rendered(dialogue_messages(prompt), render)
        answers = [answer_after(prompt, answer.removeprefix(" ")) for answer in answers]
    return Preference(prompt, answers[0], answers[1], group=group)


def _shared_end(one: str, other: str) -> int | None:
    """Where the beginning that both share ends: after their last common mark of the assistant; None without one."""
    end, mark = None, one.find(ASSISTANT)
    while mark >= 0 and one[: mark + len(ASSISTANT)] == other[: mark + len(ASSISTANT)]:
        end = mark + len(ASSISTANT)
        mark = one.find(ASSISTANT, end)
    return end


def _checked_dialogue(value: object, side: str) -> str:
    """A dialogue that a human opens and the assistant ends."""
    if not isinstance(value, str):
        raise UnusablePair("wrong type", f"{side!r} is a {type(value).__name__}; a dialogue was expected.")
    if not value.lstrip().startswith(HUMAN.strip()):
        raise UnusablePair(
            "malformed dialogue", f"{side!r} begins with {value[:40]!r}; {HUMAN.strip()!r} was expected."
        )
    if value.rfind(ASSISTANT) < value.rfind(HUMAN) or ASSISTANT not in value:
        raise UnusablePair("does not end with the assistant", f"{side!r} ends with {value[-60:]!r}.")
    return value
