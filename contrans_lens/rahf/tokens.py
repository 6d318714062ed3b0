"""Answers as tokens: the same answer tokens after every prompt, and where they stand.

RAHF reads one answer under different prompts, token by token, so its tokens must be the same ones under all of them.
Prompts are cut on their left, after the instruction, where answers do not fit: the instruction and the end of the
prompt stay, and under all instructions the same part of the prompt does. Answers are cut on their right.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from contrans_lens.errors import RahfError
from contrans_lens.texts import Instructions, Preference

Where = Literal["answer", "predicting"]
"""``"answer"``: at the answer's own tokens, as in RAHF. ``"predicting"``: at the tokens whose next token is one of the
answer's, from the last token of the prompt to the answer's last token but one: where an answer is decided on."""
Answers = Literal["chosen", "rejected", "both"]
"""Which answers of the pairs are read."""
Side = Literal["positive", "negative", "plain"]
"""Under which instruction an answer is read; ``"plain"``: none."""
InstructionsByTopic = Instructions | Mapping[str, Instructions]
"""Instructions for all pairs, or by the topic of a pair."""

_LEAST_PROMPT = 1  # tokens of the prompt that are always kept: an answer is predicted from something


@dataclass(frozen=True)
class AnswerRow:
    """One prompt with one answer as token ids."""

    ids: tuple[int, ...]
    """BOS (where the model has it), instruction, prompt, answer."""
    start: int
    """Index of the answer's first token; at least 1."""

    def __post_init__(self) -> None:
        if not 1 <= self.start < len(self.ids):
            raise RahfError(
                f"an answer begins at token {self.start} of {len(self.ids)}; a token before it and one in it were "
                "expected."
            )

    @property
    def answer(self) -> tuple[int, ...]:
        """Token ids of the answer."""
        return self.ids[self.start :]

    def reads(self, where: Where) -> range:
        """Positions that are read, as many as the answer has tokens."""
        shift = _shift(where)
        return range(self.start - shift, len(self.ids) - shift)


@dataclass(frozen=True)
class AnswerTokens:
    """Rows of many answers, one for each preference and answer read, and what was cut."""

    rows: tuple[AnswerRow, ...]
    """In the order of the preferences; with ``answers="both"`` the chosen one of each pair before its rejected one."""
    cut_prompts: int
    """Rows whose prompt lost tokens on its left."""
    cut_answers: int
    """Rows whose answer lost tokens on its right."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class AnswerBatch:
    """Rows in one rectangle, padded on the right."""

    ids: Int[Tensor, "batch pos"]
    """Token ids."""
    mask: Bool[Tensor, "batch pos"]
    """True at real tokens."""
    answer: Bool[Tensor, "batch pos"]
    """True at tokens of the answer."""

    def reads(self, where: Where) -> Bool[Tensor, "batch pos"]:
        """True at the positions that are read, as many in each row as its answer has tokens."""
        return self.answer if _shift(where) == 0 else self.answer.roll(-1, dims=1)

    def to(self, device: str | torch.device) -> "AnswerBatch":
        """The same batch on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in ("ids", "mask", "answer")})


def tokenize_answers(
    tokenizer: Any,
    preferences: Sequence[Preference],
    *,
    bos: int | None,
    max_length: int,
    answers: Answers = "chosen",
    instructions: InstructionsByTopic | None = None,
    side: Side = "plain",
    max_answer_tokens: int | None = None,
    end: int | None = None,
) -> AnswerTokens:
    """Tokenise prompts with their answers.

    Prompt and answer are tokenised in one piece, as the model would read them; a token that straddles the end of the
    prompt belongs to the answer.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        preferences: the pairs.
        bos: id put before every text; None for none.
        max_length: most tokens in a row; room for the longest instruction is kept under every side, so that the same
            part of a prompt is read under all of them.
        answers: which answers are read.
        instructions: p+ and p-.
        side: the instruction that stands before the prompt.
        max_answer_tokens: most tokens of an answer; None: what fits.
        end: id put after every answer as its last token, which is the first to be cut; None for none.

    Returns:
        A row for each pair, two with ``answers="both"``.

    Raises:
        RahfError: no pairs; a topic without instructions; instructions or a limit that leave no room; an answer whose
            tokens depend on the instruction before it.
    """
    if not preferences:
        raise RahfError("there are no preference pairs to tokenise.")
    if side != "plain" and instructions is None:
        raise RahfError(f"side={side!r} needs instructions (p+ and p-); give instructions=....")
    texts = list(answer_texts(preferences, answers, instructions))
    spelled = {each: encoded_texts(tokenizer, [_joined(text, each) for text in texts]) for each in _sides(instructions)}
    rows, cut_prompts, cut_answers = [], 0, 0
    for number in range(len(texts)):
        pieces = {each: _pieces(spelled[each][number], texts[number], each) for each in spelled}
        chosen = pieces[side]
        if any(other.answer != chosen.answer for other in pieces.values()):
            raise RahfError(
                f"the tokens of the answer {texts[number].answer[:40]!r} depend on the instruction before the prompt; "
                "give instructions that end in white space of their own."
            )
        room = max_length - (bos is not None) - max(len(other.instruction) for other in pieces.values())
        whole = chosen.answer if end is None else (*chosen.answer, end)
        answer = whole[: min(room - _LEAST_PROMPT, max_answer_tokens or max_length)]
        if room <= _LEAST_PROMPT or not answer or not chosen.prompt:
            raise RahfError(
                f"a row of {max_length} tokens has no room for an answer after {texts[number].prompt[:40]!r} and its "
                "instruction; allow more tokens or shorten the instruction."
            )
        kept = min(len(chosen.prompt), room - len(answer))
        prompt = chosen.prompt[len(chosen.prompt) - kept :]
        cut_prompts += kept < len(chosen.prompt)
        cut_answers += len(answer) < len(whole)
        head = (*(() if bos is None else (bos,)), *chosen.instruction, *prompt)
        rows.append(AnswerRow((*head, *answer), len(head)))
    return AnswerTokens(tuple(rows), cut_prompts, cut_answers)


def collate(rows: Sequence[AnswerRow], pad: int) -> AnswerBatch:
    """Rows as one batch, padded on the right.

    Args:
        rows: at least one.
        pad: id to fill with.

    Raises:
        RahfError: there are none.
    """
    if not rows:
        raise RahfError("there are no rows to put into a batch.")
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask, answer = torch.zeros((2, len(rows), width), dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        mask[number, : len(row.ids)] = True
        answer[number, row.start : len(row.ids)] = True
    return AnswerBatch(ids, mask, answer)


@dataclass(frozen=True)
class AnswerText:
    """What one row is made of, and its instruction under each side."""

    prompt: str
    """What is asked."""
    answer: str
    """The answer that is read."""
    instructions: Instructions | None
    """p+ and p- of the pair."""

    def head(self, side: Side) -> str:
        """Instruction and prompt."""
        if side == "plain" or self.instructions is None:
            return self.prompt
        return self.instructions.before(self.prompt, side)


@dataclass(frozen=True)
class _Pieces:
    """The tokens of one row, in three parts."""

    instruction: tuple[int, ...]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def _shift(where: Where) -> int:
    if where not in ("answer", "predicting"):
        raise RahfError(f"where={where!r}; 'answer' or 'predicting' was expected.")
    return int(where == "predicting")


def _sides(instructions: InstructionsByTopic | None) -> tuple[Side, ...]:
    return ("plain",) if instructions is None else ("plain", "positive", "negative")


def answer_texts(
    preferences: Sequence[Preference], answers: Answers, instructions: InstructionsByTopic | None
) -> Iterator[AnswerText]:
    """The texts of the rows: one of each pair, or with ``"both"`` the chosen one and then the rejected one.

    Raises:
        RahfError: ``answers`` is none of the three, or a topic has no instructions.
    """
    if answers not in ("chosen", "rejected", "both"):
        raise RahfError(f"answers={answers!r}; 'chosen', 'rejected' or 'both' was expected.")
    for pair in preferences:
        given = instructions_for(pair, instructions)
        if answers != "rejected":
            yield AnswerText(pair.prompt, pair.chosen, given)
        if answers != "chosen":
            yield AnswerText(pair.prompt, pair.rejected, given)


def instructions_for(pair: Preference, instructions: InstructionsByTopic | None) -> Instructions | None:
    """The instructions of a pair.

    Raises:
        RahfError: its topic has none.
    """
    if instructions is None or isinstance(instructions, Instructions):
        return instructions
    if pair.topic not in instructions:
        raise RahfError(
            f"there are no instructions for the topic {pair.topic!r}; there are some for "
            f"{', '.join(instructions) or 'none'}."
        )
    return instructions[pair.topic]


def _joined(text: AnswerText, side: Side) -> str:
    return text.head(side) + text.answer


def encoded_texts(tokenizer: Any, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Of each text the token ids and the characters ``[start, stop)`` that each token came from; no special tokens."""
    encoded = tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=True, verbose=False
    )
    return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))


def _pieces(encoded: tuple[list[int], list[tuple[int, int]]], text: AnswerText, side: Side) -> _Pieces:
    """Split a row's tokens into instruction, prompt and answer by the characters they came from."""
    ids, offsets = encoded
    head = text.head(side)
    # What the instruction ends with is the prompt, but for white space that the prompt began with.
    instruction = 0 if side == "plain" else len(head) - len(text.prompt.lstrip())
    first = sum(stop <= instruction for _, stop in offsets) if instruction else 0
    start = sum(stop <= len(head) for _, stop in offsets)
    return _Pieces(tuple(ids[:first]), tuple(ids[first:start]), tuple(ids[start:]))
