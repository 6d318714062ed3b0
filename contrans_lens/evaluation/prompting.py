"""What words in the prompt cost: the damage of the prompt-only control, comparable to that of a vector."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.scores import log_probabilities
from contrans_lens.models import HookedModel, TokenBatch, logits, tokenize

_BATCH = 16


@dataclass(frozen=True)
class PromptDamage:
    """Damage done to neutral text by a prefix before it, over the tokens that are the same with and without it."""

    kl: float
    """KL(without || with the prefix), mean over tokens, nats per token."""
    perplexity: float
    """Perplexity of those tokens with the prefix before them."""
    n_tokens: int
    """Tokens compared."""


def prompt_damage(
    model: HookedModel, texts: Sequence[str], prefix: str, *, max_tokens: int | None = None
) -> PromptDamage:
    """KL and perplexity on neutral texts that a prefix causes.

    A token counts if the text gives it with and without the prefix (at the seam a tokenizer may merge otherwise) and
    if it is predicted from something in both. Texts that do not fit the context lose their end.

    Args:
        model: the target.
        texts: neutral texts.
        prefix: put before each of them as it is.
        max_tokens: use at most this many tokens of each text; the model's context if None.

    Raises:
        EvaluationError: no token can be compared, or the logits are not finite.
        TextError: no texts, or an empty one.
    """
    kl, nll, count = 0.0, 0.0, 0
    for start in range(0, len(texts), _BATCH):
        part = list(texts[start : start + _BATCH])
        alone = tokenize(model, part, truncate="right", max_length=max_tokens)
        after = tokenize(model, [prefix + text for text in part], truncate="right")
        p, q = (log_probabilities(logits(model, batch)) for batch in (alone, after))
        for row in range(len(part)):
            pairs = _same_tokens(alone, after, row, len(prefix))
            if not pairs:
                continue
            here, there = (torch.tensor(side, device=p.device) for side in zip(*pairs, strict=True))
            base, cued = p[row, here - 1], q[row, there - 1]
            kl += float((base.exp() * (base - cued)).sum())
            tokens = after.tokens[row].to(p.device)[there]
            nll -= float(cued.gather(-1, tokens[:, None]).sum())
            count += len(pairs)
    if count == 0:
        raise EvaluationError("no token of the neutral texts survives behind the prefix; use longer texts.")
    if not math.isfinite(kl + nll):
        raise EvaluationError("the logits behind the prefix hold NaN or infinity; use a wider dtype.")
    return PromptDamage(kl / count, math.exp(min(nll / count, 700.0)), count)


def _same_tokens(alone: TokenBatch, after: TokenBatch, row: int, shift: int) -> list[tuple[int, int]]:
    """Positions (in the padded rows) of equal tokens at equal characters, each with a token before it."""
    ids = [batch.tokens[row][batch.mask[row]].tolist() for batch in (alone, after)]
    spans = {
        (start - shift, stop - shift): place for place, (start, stop) in enumerate(after.offsets[row]) if start >= shift
    }
    pairs = []
    for place, span in enumerate(alone.offsets[row]):
        other = spans.get(span)
        if place and other and span[0] < span[1] and ids[0][place] == ids[1][other]:
            pairs.append((place, other))
    return pairs
