"""Rows of UltraFeedback (Cui et al. 2023, arXiv 2310.01377): messages in pairs, or scored completions."""

import math
from collections.abc import Mapping
from typing import Any

from contrans_lens.texts.dialogues import Render, answer_after, rendered, required
from contrans_lens.texts.items import same_text
from contrans_lens.texts.preferences import Preference, UnusablePair

_ROLES = ("system", "user", "assistant")


def ultrafeedback_preference(row: object, render: Render | None = None, min_margin: float | int = 0.0) -> Preference:
    """One row ``{"chosen": [message, ...], "rejected": [message, ...]}`` of the binarized form as a preference.

    Both lists end with the answer of the assistant and are equal before it. Where they hold the answers alone, the
    field ``prompt`` (a text or a list of messages) stands before them. ``score_chosen`` and ``score_rejected`` give the
    margin; ``source`` is the topic; the group is the first message of the user.

    Args:
        row: the row.
        render: how messages become a prompt; None: the layout of hh-rlhf.
        min_margin: a pair whose margin is not above it is refused; pairs without scores pass.

    Raises:
        UnusablePair: with the reason ``"missing field"``, ``"wrong type"``, ``"malformed dialogue"``, ``"does not end
            with the assistant"``, ``"no shared prompt"``, ``"no preference in the scores"``, ``"equal answers"``,
            ``"empty answer"`` or ``"refused by the template"``.
    """
    fields = required(row, "chosen", "rejected")
    chosen, rejected = (_messages(fields[side], side) for side in ("chosen", "rejected"))
    if len(chosen) == len(rejected) == 1:
        asked = required(fields, "prompt")["prompt"]
        before = [{"role": "user", "content": asked}] if isinstance(asked, str) else _messages(asked, "prompt")
        chosen, rejected = before + chosen, before + rejected
    for side, messages in (("chosen", chosen), ("rejected", rejected)):
        if messages[-1]["role"] != "assistant":
            raise UnusablePair("does not end with the assistant", f"{side!r} ends with a {messages[-1]['role']}.")
    if chosen[:-1] != rejected[:-1]:
        raise UnusablePair("no shared prompt", "the messages before the answers differ.")
    scores = [_number(fields.get(f"score_{side}")) for side in ("chosen", "rejected")]
    margin = None if scores[0] is None or scores[1] is None else scores[0] - scores[1]
    answers = chosen[-1]["content"], rejected[-1]["content"]
    return _preference(chosen[:-1], answers, margin, fields, render, min_margin)


def ultrafeedback_raw_preference(
    row: object, render: Render | None = None, min_margin: float | int = 0.0, score: str = "overall_score"
) -> Preference:
    """One row ``{"instruction", "completions": [{"response", "overall_score", ...}]}`` of the raw form.

    The chosen answer is the completion with the highest score, the rejected one that with the lowest; of equal ones
    the first. The system prompts under which the completions were written are not part of the prompt.

    Args:
        row: the row.
        render: how messages become a prompt; None: the layout of hh-rlhf.
        min_margin: the best score must be above the worst by more than this.
        score: the field of a completion that holds its score; the first release gave some poor completions an
            ``overall_score`` of 10, its mean ``"fine-grained_score"`` is the way around them.

    Raises:
        UnusablePair: as :func:`ultrafeedback_preference`, and ``"too few scored completions"``.
    """
    fields = required(row, "instruction", "completions")
    instruction, completions = fields["instruction"], fields["completions"]
    if not isinstance(instruction, str) or not isinstance(completions, list | tuple):
        raise UnusablePair("wrong type", "'instruction' must be a text and 'completions' a list.")
    scored = []
    for completion in completions:
        answer = required(completion, "response")["response"]
        if not isinstance(answer, str):
            raise UnusablePair("wrong type", f"a response is a {type(answer).__name__}; a string was expected.")
        value = _number(completion.get(score))
        scored += [(value, answer)] if value is not None else []
    if len(scored) < 2:
        raise UnusablePair(
            "too few scored completions", f"{len(scored)} of {len(completions)} have a number {score!r}."
        )
    (high, best), (low, worst) = (pick(scored, key=lambda pair: pair[0]) for pick in (max, min))
    messages = [{"role": "user", "content": instruction}]
    return _preference(messages, (best, worst), high - low, fields, render, min_margin)


def _preference(
    messages: list[dict[str, str]],
    answers: tuple[str, str],
    margin: float | None,
    row: Mapping[str, Any],
    render: Render | None,
    min_margin: float | int,
) -> Preference:
    """The pair, once messages, answers and scores are known."""
    if margin is not None and not margin > min_margin:
        raise UnusablePair(
            "no preference in the scores", f"the margin is {margin:g}; above {min_margin:g} was expected."
        )
    users = [message["content"] for message in messages if message["role"] == "user"]
    if messages[-1]["role"] != "user" or not all(message["content"].strip() for message in messages):
        raise UnusablePair(
            "malformed dialogue", "a message of the user with words in it must stand before the answers."
        )
    if not all(answer.strip() for answer in answers):
        raise UnusablePair("empty answer", "an answer has nothing to read in it.")
    prompt = rendered(messages, render)
    source = row.get("source")
    return Preference(
        prompt,
        answer_after(prompt, answers[0]),
        answer_after(prompt, answers[1]),
        group=same_text(users[0]),
        topic=source if isinstance(source, str) else "",
        margin=margin,
    )


def _messages(value: object, what: str) -> list[dict[str, str]]:
    """A list of messages with the roles that are known, at least one."""
    if not isinstance(value, list | tuple) or not value:
        raise UnusablePair("wrong type", f"{what!r} is {str(value)[:40]!r}; a list of messages was expected.")
    messages = []
    for message in value:
        role, content = (required(message, "role", "content")[key] for key in ("role", "content"))
        if not isinstance(content, str):
            raise UnusablePair("wrong type", f"the content of a message is a {type(content).__name__}.")
        if role not in _ROLES:
            raise UnusablePair("malformed dialogue", f"{what!r} has the role {role!r}; one of {_ROLES} was expected.")
        messages.append({"role": str(role), "content": content})
    return messages


def _number(value: object) -> float | None:
    """A finite number, which may be written as text; None for anything else (``"N/A"``, say)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
