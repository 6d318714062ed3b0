"""How far a steered model is from the unsteered one where it acts: at the first token, and along what it writes.

Neutral text says what an intervention costs elsewhere; this says how much it changes on the prompts themselves. The
steered model writes greedily, and at every token it wrote both models are asked for their next-token distributions on
the same tokens::

    KL_t = KL(p(. | x, y_<t) || q(. | x, y_<t))     x the prompt, y what the steered model q wrote, p unsteered
    TV_t = 1/2 sum_w |p(w | x, y_<t) - q(w | x, y_<t)|
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.cells import Cell, Cells, stack_logits
from contrans_lens.evaluation.continuations import Read, TokenRow
from contrans_lens.evaluation.generating import Written, generate_cells
from contrans_lens.evaluation.meter import distribution_change, kl_divergence
from contrans_lens.evaluation.scores import log_probabilities
from contrans_lens.models import HookedModel, tokenize


@dataclass(frozen=True, eq=False)
class Drift:
    """Distance from the unsteered model, step by step; step 0 is the first token after the prompt."""

    kl: Float[Tensor, "cell prompt step"]
    """Nats, float64; zero where nothing was written any more."""
    tv: Float[Tensor, "cell prompt step"]
    """Total variation, [0, 1]."""
    changed: Float[Tensor, "cell prompt step"]
    """1 where another token is the most probable one."""
    mask: Bool[Tensor, "cell prompt step"]
    """Where a token was written."""

    def first(self, values: Float[Tensor, "cell prompt step"]) -> Float[Tensor, "cell prompt"]:
        """A quantity at the first token."""
        return values[:, :, 0]

    def along(self, values: Float[Tensor, "cell prompt step"]) -> Float[Tensor, "cell prompt"]:
        """A quantity's mean over what was written after each prompt."""
        return (values * self.mask).sum(2) / self.mask.sum(2)

    def percentile(self, values: Float[Tensor, "cell prompt step"], share: float = 0.95) -> Float[Tensor, " cell"]:
        """A percentile over all written tokens of each cell."""
        return torch.stack([row[mask].quantile(share) for row, mask in zip(values, self.mask, strict=True)])


def drift(
    model: HookedModel,
    prompts: Sequence[str],
    cells: Sequence[Cell],
    *,
    max_new_tokens: int = 40,
    written: Written | None = None,
    token_budget: int | None = None,
) -> Drift:
    """Measure drift at the first token and along the generation.

    Args:
        model: the model.
        prompts: texts to continue.
        cells: what is done to the model.
        max_new_tokens: how many tokens are written at most; 1 looks at the first token only.
        written: what each cell wrote after the prompts, where that is known already.
        token_budget: most tokens in one forward pass.

    Raises:
        EvaluationError: no prompts, or distributions that are not finite.
        ModelError: prompt and new tokens do not fit the context.
    """
    written = written or generate_cells(model, prompts, cells, max_new_tokens=max_new_tokens)
    batch = tokenize(model, list(prompts))
    n_steps = max(len(tokens) for cell in written.tokens for tokens in cell)
    shape = len(cells), len(prompts), n_steps
    kl, tv, changed = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    mask = torch.zeros(shape, dtype=torch.bool)
    for number, cell in enumerate(cells):
        rows = []
        for row, (prompt, new) in enumerate(zip(written.prompt_tokens, written.tokens[number], strict=True)):
            rows.append(_row(prompts[row], batch.offsets[row], prompt, new, row, batch.bos))
            mask[number, row, : len(new)] = True
        both = Cells(model, [(), cell])
        runs = both.runs(model, rows, token_budget=token_budget)
        for group in runs.groups(both.widest):
            logits: dict[int, Tensor] = {}
            for numbers, part in stack_logits(runs, group, both.stacks):
                logits |= dict(zip(numbers, part, strict=True))
            base, steered = log_probabilities(logits[0]), log_probabilities(logits[1])[None]
            values = kl_divergence(base, steered)[0], *(each[0] for each in distribution_change(base, steered))
            for place, row in enumerate(group):
                count = len(rows[row].reads)
                for target, found in zip((kl, tv, changed), values, strict=True):
                    target[number, row, :count] = found[place, :count]
        if not bool((kl[number].isfinite() & tv[number].isfinite()).all()):
            raise EvaluationError(
                f"the distributions of cell {number} hold NaN or infinity. Lower the strength or use a wider dtype."
            )
    return Drift(kl, tv, changed, mask)


def _row(
    text: str, spans: tuple[tuple[int, int], ...], prompt: tuple[int, ...], new: tuple[int, ...], number: int, bos: bool
) -> TokenRow:
    """Prompt and what was written, read at every written token; the last one is only predicted."""
    tokens = [*prompt, *new[:-1]]
    reads = [Read(number, len(prompt) - 1 + step, token, 1) for step, token in enumerate(new)]
    beyond = ((len(text), len(text) + 1),) * (len(tokens) - len(prompt))  # written tokens are no part of the text
    return TokenRow(tokens, (*spans, *beyond), text, len(prompt), bos, reads)
