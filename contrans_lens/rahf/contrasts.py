"""Contrasts: the two runs that activity differences are taken between, in one model (SCIT) or in two (Dual)."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from contrans_lens.errors import RahfError
from contrans_lens.models import HookedModel, fingerprint
from contrans_lens.models.tokens import model_tokenizer, special_id
from contrans_lens.rahf.tokens import AnswerRow, Answers, AnswerTokens, InstructionsByTopic, Side, tokenize_answers
from contrans_lens.texts import Instructions, Preference, PreferenceSet

_PAIRS_AT_ONCE = 256  # the character offsets of a chunk take far more memory than its tokens


@dataclass(frozen=True, eq=False)
class ScitContrast:
    """One model under two instructions: ``v_l(t) = A(p+, q, r)_l - A(p-, q, r)_l``.

    The model is one that SCIT has trained to obey the instructions (arXiv 2312.15997), or any that does.
    """

    model: HookedModel
    """The model that is read."""
    instructions: InstructionsByTopic
    """p+ and p-, for all pairs or by topic."""

    @property
    def method(self) -> Literal["scit"]:
        """Name of the kind of contrast."""
        return "scit"

    @property
    def models(self) -> tuple[HookedModel, HookedModel]:
        """The models of the first and of the second run."""
        return self.model, self.model

    def swapped(self) -> "ScitContrast":
        """The contrast with p+ and p- exchanged: v changes its sign."""
        given = self.instructions
        if isinstance(given, Instructions):
            return ScitContrast(self.model, _reversed(given))
        return ScitContrast(self.model, {topic: _reversed(each) for topic, each in given.items()})

    def to_dict(self) -> dict[str, Any]:
        """Method, instructions and the fingerprint of the model."""
        given = self.instructions
        plain = _spelled(given) if isinstance(given, Instructions) else {t: _spelled(i) for t, i in given.items()}
        return {"method": self.method, "instructions": plain, "models": {"model": fingerprint(self.model).to_dict()}}


@dataclass(frozen=True, eq=False)
class DualContrast:
    """Two models under one prompt: ``v_l(t) = A_good(q, r)_l - A_bad(q, r)_l`` (arXiv 2312.15997).

    Raises:
        RahfError: the residual streams differ in width.
    """

    good: HookedModel
    """The model that was tuned to chosen answers."""
    bad: HookedModel
    """The model that was tuned to rejected answers, from the same base."""

    def __post_init__(self) -> None:
        widths = [int(model.cfg.d_model) for model in self.models]
        if len(set(widths)) > 1:
            raise RahfError(
                f"the models have residual streams of {widths[0]} and {widths[1]} numbers; two models tuned from one "
                "base were expected."
            )

    @property
    def method(self) -> Literal["dual"]:
        """Name of the kind of contrast."""
        return "dual"

    @property
    def models(self) -> tuple[HookedModel, HookedModel]:
        """The models of the first and of the second run."""
        return self.good, self.bad

    def swapped(self) -> "DualContrast":
        """The contrast with the two models exchanged: v changes its sign."""
        return DualContrast(self.bad, self.good)

    def to_dict(self) -> dict[str, Any]:
        """Method and the fingerprints of the models."""
        prints = {name: fingerprint(getattr(self, name)).to_dict() for name in ("good", "bad")}
        return {"method": self.method, "instructions": None, "models": prints}


Contrast = ScitContrast | DualContrast
"""Either way to have two runs over one answer."""


@dataclass(frozen=True)
class ContrastTokens:
    """The rows of a contrast; number by number they end in the same answer tokens."""

    plain: tuple[AnswerRow, ...]
    """Under the prompt alone."""
    first: tuple[AnswerRow, ...]
    """As the first run reads them: under p+ (SCIT), or plain (Dual)."""
    second: tuple[AnswerRow, ...]
    """As the second run reads them: under p- (SCIT), or plain (Dual)."""
    cut_prompts: int
    """Rows whose prompt lost tokens on its left."""
    cut_answers: int
    """Rows whose answer lost tokens on its right."""


def tokenize_contrast(
    contrast: Contrast,
    preferences: PreferenceSet,
    *,
    base: HookedModel | None,
    answers: Answers,
    max_length: int | None,
    max_answer_tokens: int | None,
) -> ContrastTokens:
    """Tokenise the answers for both runs and for the plain prompt, and check that their tokens are the same.

    Args:
        contrast: the two runs.
        preferences: the pairs.
        base: the base model, whose tokens are compared with the others' where it is given.
        answers: which answers of a pair are read.
        max_length: most tokens in a row; None: the shortest context of the models.
        max_answer_tokens: most tokens of an answer; None: what fits.

    Raises:
        RahfError: an answer's tokens differ between runs or models, the limit is larger than a context, or as
            :func:`~contrans_lens.rahf.tokens.tokenize_answers`.
    """
    models = [*contrast.models, *([] if base is None else [base])]
    context = min(int(model.cfg.n_ctx) for model in models)
    if max_length is not None and not 1 <= max_length <= context:
        raise RahfError(f"max_length is {max_length}; the models take 1 to {context} tokens.")
    limits = {"answers": answers, "max_length": max_length or context, "max_answer_tokens": max_answer_tokens}
    given = contrast.instructions if isinstance(contrast, ScitContrast) else None
    pairs = preferences.preferences
    if given is None:
        first, second = (_tokenize(model, pairs, None, "plain", limits) for model in contrast.models)
        _require_same(first.rows, second.rows, "the two models")
        # One and the same rows, so that they are kept once.
        plain = second = first
    else:
        plain, first, second = (
            _tokenize(contrast.models[0], pairs, given, side, limits) for side in ("plain", "positive", "negative")
        )
    if base is not None and base not in contrast.models:
        _require_same(_tokenize(base, pairs, given, "plain", limits).rows, plain.rows, "the base model and the other")
    _require_same_answers(plain.rows, first.rows, second.rows)
    return ContrastTokens(plain.rows, first.rows, second.rows, plain.cut_prompts, plain.cut_answers)


def _tokenize(
    model: HookedModel,
    pairs: tuple[Preference, ...],
    instructions: InstructionsByTopic | None,
    side: Side,
    limits: Mapping[str, Any],
) -> AnswerTokens:
    chunks = [
        tokenize_answers(
            model_tokenizer(model),
            pairs[begin : begin + _PAIRS_AT_ONCE],
            bos=bos_of(model),
            instructions=instructions,
            side=side,
            **limits,
        )
        for begin in range(0, len(pairs), _PAIRS_AT_ONCE)
    ]
    return AnswerTokens(
        tuple(chain.from_iterable(chunk.rows for chunk in chunks)),
        sum(chunk.cut_prompts for chunk in chunks),
        sum(chunk.cut_answers for chunk in chunks),
    )


def bos_of(model: HookedModel) -> int | None:
    """The token that this model's texts begin with."""
    return special_id(model, "bos") if getattr(model.cfg, "default_prepend_bos", True) else None


def _require_same(one: tuple[AnswerRow, ...], other: tuple[AnswerRow, ...], who: str) -> None:
    for number, (own, others) in enumerate(zip(one, other, strict=True)):
        if own != others:
            raise RahfError(
                f"{who} make different tokens of row {number}; activities can only be compared token by token between "
                "models with one tokenizer."
            )


def _require_same_answers(*sides: tuple[AnswerRow, ...]) -> None:
    for number, rows in enumerate(zip(*sides, strict=True)):
        if len({row.answer for row in rows}) > 1:
            raise RahfError(
                f"the answer of row {number} has other tokens under another instruction; give instructions that end "
                "in white space of their own."
            )


def _reversed(instructions: Instructions) -> Instructions:
    return Instructions(instructions.negative, instructions.positive, instructions.neutral)


def _spelled(instructions: Instructions) -> dict[str, str]:
    return {"positive": instructions.positive, "negative": instructions.negative}
