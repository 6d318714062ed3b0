"""Templates: one text with named gaps, filled with scenarios, entities and cues."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from contrans_lens.errors import TextError
from contrans_lens.texts.contrast_sets import ContrastSet
from contrans_lens.texts.items import checked_text


@dataclass(frozen=True)
class Template:
    """A text with gaps such as ``{text}``; a literal brace is written twice (``{{``).

    Raises:
        TextError: the text is blank, has no gap, a gap without a name, or braces that do not match.
    """

    text: str
    """The text with its gaps."""
    name: str = ""
    """Used as the group of what it makes; default: the text itself."""

    def __post_init__(self) -> None:
        checked_text(self.text, "a template")
        if not self.fields:
            raise TextError(f"the template {self.text!r} has no gap such as {{text}}; there is nothing to fill.")

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the gaps, each once, in order."""
        try:
            parsed = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(self.text)]
        except ValueError as error:
            raise TextError(f"the template {self.text!r} has braces that do not match: {error}.") from error
        names = [name for name, _, _ in parsed if name is not None]
        for name, spec, conversion in parsed:
            if name is not None and (not name.isidentifier() or spec or conversion):
                raise TextError(f"the gap {{{name}}} of {self.text!r} must be one plain name, such as {{text}}.")
        return tuple(dict.fromkeys(names))

    def fill(self, **values: str) -> str:
        """The text with every gap filled.

        Raises:
            TextError: a gap has no value, a value has no gap, or a value is not a string.
        """
        missing, unknown = set(self.fields) - set(values), set(values) - set(self.fields)
        if missing or unknown:
            raise TextError(
                f"the template {self.text!r} has the gaps {list(self.fields)}; "
                f"missing values: {sorted(missing)}, values without a gap: {sorted(unknown)}."
            )
        return self.text.format(
            **{key: checked_text(value, f"the value of {{{key}}}") for key, value in values.items()}
        )

    def fill_all(self, texts: Sequence[str]) -> list[str]:
        """One filled text for each given text; the template must have exactly one gap.

        Raises:
            TextError: the template has several gaps, or a text is blank or not a string.
        """
        if len(self.fields) != 1:
            raise TextError(f"the template {self.text!r} has the gaps {list(self.fields)}; fill_all needs exactly one.")
        return [self.fill(**{self.fields[0]: text}) for text in texts]


EMOTION_TEMPLATE = Template("Scenario: {text}\nThe emotion of the above scenario is", name="emotion of a scenario")
"""The template of ConTrans (Dong et al. 2025, section 4): the next token names the emotion."""


def contrast_from_templates(
    name: str,
    templates: Sequence[Template],
    cues: Mapping[str, Sequence[tuple[str, str]]],
    values: Sequence[Mapping[str, str]] = ({},),
    *,
    group: str = "template",
) -> ContrastSet:
    """Build a paired set by filling each template with each row of values, once with each side of each cue.

    Args:
        name: the concept.
        templates: texts with a gap for the cue and gaps for the values.
        cues: the name of the cue's gap, with (positive, negative) fillings, e.g.
            ``{"cue": [("tells the truth", "tells lies")]}``. Several gaps are filled in step, so each needs
            equally many.
        values: fillings of the other gaps, e.g. one mapping an entity. They are the same on both sides of a
            pair.
        group: what must not straddle a split: ``"template"``, or the name of a gap of ``values`` (an entity).

    Raises:
        TextError: a gap is missing or has no value, cues are uneven, or ``group`` names nothing.
    """
    lengths = {len(pairs) for pairs in cues.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise TextError(f"the cues {sorted(cues)} have {sorted(lengths)} fillings; give each gap equally many.")
    positives, negatives, groups = [], [], []
    for template in templates:
        for row in values:
            if group != "template" and group not in row:
                raise TextError(f"group={group!r} is neither 'template' nor one of the values {sorted(row)}.")
            for index in range(max(lengths)):
                sides = [{gap: pairs[index][side] for gap, pairs in cues.items()} for side in (0, 1)]
                positives.append(template.fill(**row, **sides[0]))
                negatives.append(template.fill(**row, **sides[1]))
                groups.append((template.name or template.text) if group == "template" else row[group])
    return ContrastSet(
        name,
        tuple(positives),
        tuple(negatives),
        True,
        positive_groups=tuple(groups),
        negative_groups=tuple(groups),
    )
