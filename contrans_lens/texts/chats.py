"""Chat templates, applied through a tokenizer, as text that does not bring its own BOS."""

from collections.abc import Mapping, Sequence
from typing import Any

from contrans_lens.errors import TextError
from contrans_lens.texts.items import checked_text

Message = Mapping[str, str]
"""``{"role": "user" | "assistant" | "system", "content": text}``."""


def chat_template(
    tokenizer: Any,
    messages: str | Sequence[Message],
    *,
    system: str | None = None,
    answer: str | None = None,
) -> str:
    """Put messages into the tokenizer's own chat template, ending where the assistant is about to speak.

    Most chat templates write the BOS token as text; tokenising that text adds BOS again, and a model then
    reads it twice. The text returned here has no BOS at its head: ``models.tokenize`` adds the one that
    belongs there.

    Args:
        tokenizer: a Hugging Face tokenizer with a ``chat_template``.
        messages: the conversation, or one user message as a plain string.
        system: a system message to put before the others.
        answer: how the assistant's answer begins; the text then ends with it and the turn stays open.

    Returns:
        The conversation as one text, without a BOS string at its head.

    Raises:
        TextError: the tokenizer has no chat template, a message is malformed, or the template refuses the
            roles.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TextError(
            "the tokenizer has no chat_template (a base model, most likely); use the texts as they are, or "
            "set tokenizer.chat_template."
        )
    given = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    turns = [_checked_message(message) for message in given]
    if not turns:
        raise TextError("there are no messages; give at least one, e.g. [{'role': 'user', 'content': 'Hello.'}].")
    if system is not None:
        turns.insert(0, {"role": "system", "content": checked_text(system, "the system message")})
    opening = _apply(tokenizer, turns)
    if answer is not None:
        opening += checked_text(answer, "the beginning of the answer")
    return without_bos(tokenizer, opening)


def without_bos(tokenizer: Any, text: str) -> str:
    """``text`` without the tokenizer's BOS string at its head, however often it stands there."""
    bos = getattr(tokenizer, "bos_token", None)
    while isinstance(bos, str) and bos and text.startswith(bos):
        text = text[len(bos) :]
    return text


def _apply(tokenizer: Any, turns: list[dict[str, str]]) -> str:
    """The tokenizer's own rendering; a refusal by the template (a jinja error) becomes a TextError."""
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        roles = [turn["role"] for turn in turns]
        raise TextError(f"the tokenizer's chat template refuses the roles {roles}: {error}.") from error
    return str(text)


def _checked_message(message: Message) -> dict[str, str]:
    """A message as a plain dictionary, with both its keys."""
    if not {"role", "content"} <= set(message):
        raise TextError(f"a message has the keys {sorted(message)}; expected 'role' and 'content'.")
    return {"role": str(message["role"]), "content": checked_text(message["content"], "a message")}
