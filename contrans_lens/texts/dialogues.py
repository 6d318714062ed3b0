"""Dialogues as one text, in the layout of hh-rlhf: turns that begin with ``Human:`` and ``Assistant:``."""

import re
from collections.abc import Callable, Mapping, Sequence

from contrans_lens.errors import TextError
from contrans_lens.texts.chats import Message
from contrans_lens.texts.preferences import UnusablePair

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"

Render = Callable[[Sequence[Message]], str]
"""From the messages before the answer to the prompt, e.g. ``partial(chat_template, tokenizer)``."""

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def dialogue_prompt(messages: Sequence[Message]) -> str:
    r"""Messages as ``\n\nHuman: ...\n\nAssistant: ...\n\nAssistant:``, open for an answer.

    A system message stands before its dialogue without a marker.
    """
    markers = {"user": f"{HUMAN} ", "assistant": f"{ASSISTANT} ", "system": ""}
    return "".join(markers[message["role"]] + message["content"] for message in messages) + ASSISTANT


def dialogue_messages(prompt: str) -> list[dict[str, str]]:
    """The turns of a prompt in this layout as messages; the open turn at its end is left out."""
    pieces = _TURN.split("\n\n" + prompt.removesuffix(ASSISTANT).lstrip())[1:]
    return [
        {"role": _ROLES[role], "content": text.strip()} for role, text in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def first_human_turn(prompt: str) -> str:
    """What the human said first; empty where nothing was said."""
    users = (message["content"] for message in dialogue_messages(prompt) if message["role"] == "user")
    return next(users, "")


def rendered(messages: Sequence[Message], render: Render | None) -> str:
    """The prompt that the messages make, by ``render`` or in the layout of hh-rlhf.

    Raises:
        UnusablePair: ``render`` refuses the messages.
    """
    try:
        return (render or dialogue_prompt)(messages)
    except TextError as error:
        raise UnusablePair("refused by the template", str(error)) from error


def answer_after(prompt: str, answer: str) -> str:
    """The answer as it goes on after the prompt: with a space between them, unless one of them brings white space."""
    return answer if prompt[-1:].isspace() or answer[:1].isspace() else f" {answer}"


def required(row: object, *names: str) -> Mapping[str, object]:
    """The row, if it is an object that has all these fields.

    Raises:
        UnusablePair: it is not.
    """
    if not isinstance(row, Mapping):
        raise UnusablePair("not an object", f"it is {str(row)[:60]!r}; an object with named fields was expected.")
    missing = [name for name in names if row.get(name) is None]
    if missing:
        raise UnusablePair("missing field", f"it lacks {missing}; it has {sorted(map(str, row))}.")
    return row
