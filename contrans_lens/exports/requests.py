"""What lm-evaluation-harness asks for, as token rows to run: contexts with continuations, already in token ids.

A task sends one request a choice. Of a row no more is run than is read: ``context + continuation`` without its last
token, which is only predicted. Rows that are equal are run once, and so are rows that begin a longer one with the same
prompt, since a causal model says the same on the way through it; several one-token choices of a context are therefore
one row with several reads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.continuations import Read, TokenRow
from contrans_lens.evaluation.scores import log_probabilities
from contrans_lens.evaluation.stacked import StackedRuns

Name = Callable[[int], str]
"""What request number ``n`` is called in a message."""


@dataclass(frozen=True)
class Answer:
    """What the model says to one request."""

    request: int
    """Which request."""
    log_probability: float
    """Of the whole continuation, summed over its tokens in float64."""
    is_greedy: bool
    """Whether every token of the continuation is the most probable one."""


def plan_requests(
    requests: Sequence[tuple[list[int], list[int]]], max_length: int, bos: int | None, name: Name
) -> tuple[list[TokenRow], int]:
    """Contexts and continuations as rows, and how many contexts lost their beginning.

    What is too long for the model keeps its end, as in lm-evaluation-harness.

    Args:
        requests: token ids of context and continuation.
        max_length: most tokens that the model is run on.
        bos: id of the BOS token, if there is one.
        name: what a request is called in a message.

    Raises:
        EvaluationError: a continuation without tokens, or longer than the model's context; nothing before it.
    """
    rows, n_cut = [], 0
    for number, (context, continuation) in enumerate(requests):
        if not continuation:
            raise EvaluationError(
                f"{name(number)}: the continuation has no tokens of its own, so there is nothing to predict. Where it "
                "merges with the context's last token, begin it with a space."
            )
        if not context:
            raise EvaluationError(f"{name(number)}: there is no token that the continuation could be predicted from.")
        if len(continuation) > max_length:
            raise EvaluationError(
                f"{name(number)}: the continuation has {len(continuation)} tokens and the model takes {max_length}. "
                "Only contexts are cut; leave the document out, or score it with loglikelihood_rolling."
            )
        whole = context + continuation
        cut = max(0, len(whole) - max_length - 1)
        n_cut += cut > 0
        whole = whole[cut:]
        prompt_length = len(whole) - len(continuation)
        reads = [Read(number, place - 1, whole[place], 1) for place in range(prompt_length, len(whole))]
        rows.append(TokenRow(whole[:-1], (), "", prompt_length, whole[0] == bos, reads))
    return _merged(rows), n_cut


def buckets(rows: Sequence[TokenRow]) -> list[list[TokenRow]]:
    """Rows apart by how many positions are read, up to a factor of two.

    A batch unembeds as many positions of every row as are read from the one with the most, and its size is decided on
    its longest row.
    """
    found: dict[int, list[TokenRow]] = {}
    for row in rows:
        n_positions = len({read.position for read in row.reads})
        found.setdefault(n_positions.bit_length(), []).append(row)
    return list(found.values())


def read_answers(
    logits: Float[Tensor, "row read vocab"], runs: StackedRuns, group: Sequence[int], name: Name
) -> Iterator[Answer]:
    """The answers to all requests that are read from one group of rows; no request is read from two rows.

    Raises:
        EvaluationError: a log-probability is not finite; the request is named.
    """
    log_p, best = log_probabilities(logits), logits.argmax(-1)
    places = []
    for row, index in enumerate(group):
        column = {position: place for place, position in enumerate(runs.positions(index))}
        places += [(row, column[read.position], read.token, read.item) for read in runs.rows[index].reads]
    row_at, column_at, token_at, request_at = torch.tensor(places).T
    where = row_at.to(logits.device), column_at.to(logits.device)
    values = log_p[*where, token_at.to(logits.device)].to("cpu", torch.float64)
    chosen = best[where].cpu() == token_at
    if not bool(torch.isfinite(values).all()):
        bad = int(request_at[(~torch.isfinite(values)).nonzero()[0]])
        raise EvaluationError(
            f"{name(bad)}: a log-probability is not finite, the model's logits hold NaN or infinity. Lower the "
            "strength or use a wider dtype."
        )
    numbers, request_of = request_at.unique(return_inverse=True)
    sums = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, request_of, values)
    misses = torch.zeros(len(numbers), dtype=torch.long).index_add_(0, request_of, (~chosen).long())
    for number, total, missed in zip(numbers.tolist(), sums.tolist(), misses.tolist(), strict=True):
        yield Answer(number, total, missed == 0)


def _merged(rows: list[TokenRow]) -> list[TokenRow]:
    """Rows without those that another row with the same prompt begins with; their reads move there."""
    # Sorted, a beginning stands right before what it begins.
    rows.sort(key=lambda row: (row.prompt_length, row.tokens))
    kept: list[TokenRow] = []
    for row in reversed(rows):
        longer = kept[-1] if kept else row
        same_prompt = longer is not row and longer.prompt_length == row.prompt_length
        if same_prompt and longer.tokens[: len(row.tokens)] == row.tokens:
            longer.reads += row.reads
        else:
            kept.append(row)
    return kept
