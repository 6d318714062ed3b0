"""Continuing prompts until a stop string: the generation of lm-evaluation-harness.

Generation is done in rounds of a few tokens, because where a stop string ends is known in text only. After a round the
rows that are finished leave, and the others go on from their prompt and what they have written so far. A round begins
with a pass over all of that, so rounds are the longer the longer the prompts are, and each is twice the one before.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.passes import unembedding
from contrans_lens.interventions import Edit, steer
from contrans_lens.models import HookedModel, TokenBatch, generate_tokens, input_device
from contrans_lens.models.generation import end_ids
from contrans_lens.models.tokens import pad_id

# Tokens (and their keys and values) continued together, by device, and the least number of rows: a step costs about
# the same for a few rows as for one.
_CPU_TOKENS, _DEVICE_TOKENS, _LEAST_ROWS = 2048, 16_384, 16
_FIRST_ROUND = 16  # tokens
_ROUND_SHARE = 8  # a pass over so many prompt tokens costs about as much as one step of generation
_LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_p": (None, 1),
    "top_k": (None, 0),
    "min_p": (None, 0),
    "typical_p": (None, 1),
}
"""Options that matter when tokens are drawn, and the values with which they do nothing."""
_NEUTRAL_ALWAYS: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "repetition_penalty": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "use_cache": (None, True, False),
}
"""The same for those that matter in any case."""


@dataclass(frozen=True)
class Decoding:
    """How a continuation is chosen and where it ends."""

    until: tuple[str, ...]
    """Texts that end it; they are no part of it."""
    max_new_tokens: int
    """Tokens after which it ends."""
    temperature: float = 0.0
    """0 takes the most probable token; otherwise logits are divided by it and a token is drawn."""

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], default_length: int) -> "Decoding":
        """Read the generation arguments of a task, by the rules of lm-evaluation-harness.

        ``do_sample=False`` is greedy whatever the temperature; without ``do_sample`` a temperature above 0 draws; with
        ``do_sample=True`` the temperature is 1 if none is given.

        Raises:
            EvaluationError: an option that is not understood, or has a value that cannot be obeyed.
        """
        given = dict(kwargs)
        until = given.pop("until", None) or ()
        stops = (until,) if isinstance(until, str) else tuple(until)
        if not all(isinstance(stop, str) for stop in stops):
            raise EvaluationError(f"until is {until!r}; a text or a list of texts is expected.")
        lengths = [length for name in _LENGTH_NAMES if (length := given.pop(name, None)) is not None]
        length = int(lengths[0]) if lengths else default_length
        sampled, temperature = given.pop("do_sample", None), given.pop("temperature", None)
        if sampled is None:
            sampled = bool(temperature)
        chosen = float(1.0 if temperature is None else temperature) if sampled else 0.0
        if length < 1 or not chosen >= 0:
            raise EvaluationError(f"max_gen_toks={length}, temperature={chosen}: at least 1 and 0 are expected.")
        _require_neutral(given, drawn=chosen > 0)
        return cls(tuple(stop for stop in stops if stop), length, chosen)

    def cut(self, text: str) -> str:
        """The text up to the first stop string."""
        for stop in self.until:
            text = text.split(stop)[0]
        return text


def write(
    model: HookedModel,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    interventions: Sequence[Edit],
    *,
    batch_size: int | None = None,
    token_budget: int | None = None,
) -> Iterator[tuple[int, str]]:
    """Continue prompts, and say what was written as each of them is finished. Greedy, equal prompts are one.

    Args:
        model: the model.
        prompts: token ids; prompt and continuation fit the model's context.
        decoding: how to choose and where to end. Draws are seeded from torch's own random state.
        interventions: what is done to the residual stream; positions know where every prompt ends.
        batch_size: rows continued together; by the budget if None.
        token_budget: tokens continued together; by device if None.

    Yields:
        The number of a prompt, and the text that follows it, without stop string, EOS and special tokens.
    """
    asked: dict[tuple[int, ...], list[int]] = {}
    for number, prompt in enumerate(prompts):
        asked.setdefault(tuple(prompt) if decoding.temperature == 0 else (number,), []).append(number)
    numbers = list(asked.values())
    size = batch_size or _rows(model, max(map(len, prompts)) + decoding.max_new_tokens, token_budget)
    for row, text in _rounds(model, [prompts[same[0]] for same in numbers], decoding, interventions, size):
        for number in numbers[row]:
            yield number, text


def _rows(model: HookedModel, longest: int, token_budget: int | None) -> int:
    if token_budget is not None:
        return max(1, token_budget // longest)
    tokens = _CPU_TOKENS if input_device(model).type == "cpu" else _DEVICE_TOKENS
    return max(_LEAST_ROWS, tokens // longest)


def _rounds(
    model: HookedModel,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    interventions: Sequence[Edit],
    size: int,
) -> Iterator[tuple[int, str]]:
    """Number and text of each prompt as it is finished, in rounds (module docstring)."""
    ends = end_ids(model)
    written: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
    n_new, least = 0, _FIRST_ROUND
    while written:
        longest = max(len(prompts[number]) for number in written)
        n_tokens = min(decoding.max_new_tokens - n_new, max(least, longest // _ROUND_SHARE))
        order = sorted(written, key=lambda number: -len(prompts[number]))
        n_new, least = n_new + n_tokens, 2 * least
        for start in range(0, len(order), size):
            part = order[start : start + size]
            beginnings, so_far = [prompts[number] for number in part], [written[number] for number in part]
            rows = _round(model, beginnings, so_far, decoding.temperature, n_tokens, interventions)
            for number, row in zip(part, rows, strict=True):
                end = next((place for place, token in enumerate(row) if token in ends), None)
                written[number] += row if end is None else row[: end + 1]
                text = str(model.tokenizer.decode(written[number], skip_special_tokens=True))
                kept = decoding.cut(text)
                if end is not None or kept != text or n_new >= decoding.max_new_tokens:
                    del written[number]
                    yield number, kept


def _round(
    model: HookedModel,
    prompts: Sequence[list[int]],
    written: Sequence[list[int]],
    temperature: float,
    n_tokens: int,
    interventions: Sequence[Edit],
) -> list[list[int]]:
    """The next tokens of every row, up to ``n_tokens``; what follows an EOS is filling."""
    batch = _left_padded([prompt + new for prompt, new in zip(prompts, written, strict=True)], pad_id(model))
    lengths = [len(prompt) for prompt in prompts]
    # lm-evaluation-harness seeds torch; what is drawn here follows from that.
    seed = int(torch.randint(2**31 - 1, ())) if temperature > 0 else None
    with steer(model, interventions, batch=batch, prompt_lengths=lengths), _last_unembedded(model):
        new = generate_tokens(model, batch, max_new_tokens=n_tokens, temperature=temperature, seed=seed)
    rows: list[list[int]] = new.tolist()
    return rows


@contextlib.contextmanager
def _last_unembedded(model: HookedModel) -> Iterator[None]:
    """Only the last position goes through the unembedding, which costs the most in a pass over prompts."""
    unembed = unembedding(model)
    with contextlib.ExitStack() as stack:
        if unembed is not None:
            keep_last = unembed.register_forward_pre_hook(lambda module, args: (args[0][:, -1:], *args[1:]))
            stack.callback(keep_last.remove)
        yield


def _left_padded(rows: Sequence[list[int]], filler: int) -> TokenBatch:
    width = max(len(row) for row in rows)
    return TokenBatch(
        tokens=torch.tensor([[filler] * (width - len(row)) + row for row in rows]),
        mask=torch.arange(width)[None] >= width - torch.tensor([len(row) for row in rows])[:, None],
        bos=False,
        padding_side="left",
        offsets=((),) * len(rows),
        truncated=(0,) * len(rows),
    )


def _require_neutral(given: Mapping[str, Any], *, drawn: bool) -> None:
    """Refuse options that would change what is written and are not obeyed here."""
    for name, value in given.items():
        if name in _NEUTRAL and (not drawn or value in _NEUTRAL[name]):
            continue
        if value not in _NEUTRAL_ALWAYS.get(name, ()):
            raise EvaluationError(
                f"the generation argument {name}={value!r} cannot be obeyed under steering: until, max_gen_toks, "
                "do_sample and temperature can. Leave it out (gen_kwargs overrides a task's own arguments)."
            )
