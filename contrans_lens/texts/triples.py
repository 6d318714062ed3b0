"""Plain preference triples: rows with a prompt and two answers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from contrans_lens.texts.dialogues import Render, answer_after, rendered, required
from contrans_lens.texts.preferences import Preference, UnusablePair


def triple_preference(row: object, render: Render | None = None) -> Preference:
    """One row ``{"prompt", "chosen", "rejected"}`` with the optional keys of :meth:`Preference.to_dict`.

    Texts are taken as they stand: an answer brings its own leading space.

    Args:
        row: the row; in a csv file the margin is digits.
        render: how a prompt, taken as one message of the user, is written; answers are then put after it with a space
            where neither brings one.

    Raises:
        UnusablePair: a field is missing, a text is blank or not a string, the answers are equal, or a value is not
            what it should be.
    """
    fields: Mapping[str, Any] = required(row, "prompt", "chosen", "rejected")
    pair = Preference.from_dict({**fields, "margin": _margin(fields.get("margin")), "swapped": fields.get("swapped")})
    if render is None:
        return pair
    prompt = rendered([{"role": "user", "content": pair.prompt}], render)
    chosen, rejected = (answer_after(prompt, answer.removeprefix(" ")) for answer in (pair.chosen, pair.rejected))
    return replace(pair, prompt=prompt, chosen=chosen, rejected=rejected, group=pair.unit)


def _margin(value: object) -> Any:
    """A margin; a cell of a csv file holds digits, or nothing."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if value.strip() else None
    except ValueError as error:
        raise UnusablePair("margin not a number", f"the margin is {value!r}; a number was expected.") from error
