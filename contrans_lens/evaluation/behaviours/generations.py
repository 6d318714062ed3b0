"""What a model writes, judged: by a lexicon, by a callable of the user's own, or by another model behind one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.behaviours.behaviour import Measurement
from contrans_lens.evaluation.cells import Cell
from contrans_lens.evaluation.drift import drift
from contrans_lens.evaluation.fluency import fluency_columns
from contrans_lens.evaluation.generating import Written, generate_cells
from contrans_lens.models import HookedModel

Judge = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""Prompts and what was written after them to one score each, in [-1, 1]: +1 shows the behaviour, -1 its opposite."""


@dataclass(frozen=True)
class Generations:
    """Generations judged, with what tells fluent text from degenerate text beside the score.

    Columns: ``score`` (the judge's, [-1, 1]; its mean is the behaviour expectation B), the columns of
    :func:`contrans_lens.evaluation.fluency.fluency_columns` (repetition, compression, length), and with ``drift`` those
    of :mod:`contrans_lens.evaluation.drift`: ``kl_first``, ``tv_first``, ``changed_first`` at the first token and
    ``kl_along``, ``tv_along``, ``changed_along`` as means over what was written. Whole numbers of a cell:
    ``kl_along_p95``, ``tv_along_p95``.
    """

    prompts: tuple[str, ...]
    judge: Judge
    judged_by: str
    """What the judge is called: it stands for the judge in the key of kept results, so change it with the judge."""
    max_new_tokens: int = 40
    temperature: float = 0.0
    seed: int = 0
    drift: bool = True
    """Measure drift too (one more pass over what was written; greedy generations only)."""
    groups: tuple[str, ...] = ()
    """Group of each prompt; empty: every prompt by itself."""
    name: str = "generations"
    primary: str = "score"

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        object.__setattr__(self, "groups", tuple(self.groups) or ("",) * len(self.prompts))
        if not self.prompts:
            raise EvaluationError("there are no prompts: give at least two, so that there is an interval.")
        if len(self.groups) != len(self.prompts):
            raise EvaluationError(f"{len(self.prompts)} prompts need as many groups; got {len(self.groups)}.")

    def measure(self, model: HookedModel, cells: Sequence[Cell], *, token_budget: int | None = None) -> Measurement:
        """Generate after every prompt under every cell, and judge.

        Raises:
            EvaluationError: the judge does not give one score in [-1, 1] for each text.
            TextError: a prompt is empty, or too long for the model.
            ModelError: prompt and new tokens do not fit the context.
        """
        return self.judged(self.write(model, cells), model, cells, token_budget=token_budget)

    def write(self, model: HookedModel, cells: Sequence[Cell]) -> Written:
        """What is written after every prompt under every cell."""
        return generate_cells(
            model,
            self.prompts,
            cells,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )

    def judged(
        self, written: Written, model: HookedModel, cells: Sequence[Cell], *, token_budget: int | None = None
    ) -> Measurement:
        """Judge what was written.

        Raises:
            EvaluationError: the judge does not give one score in [-1, 1] for each text.
        """
        scores = [_scores(self.judge, self.judged_by, self.prompts, texts) for texts in written.texts]
        fluency = [fluency_columns(*each) for each in zip(written.texts, written.tokens, strict=True)]
        columns = {"score": torch.stack(scores)}
        columns |= {name: torch.stack([each[name] for each in fluency]) for name in fluency[0]}
        whole: dict[str, Tensor] = {}
        if self.drift and self.temperature == 0:
            found = drift(model, self.prompts, cells, written=written, token_budget=token_budget)
            for name, values in (("kl", found.kl), ("tv", found.tv), ("changed", found.changed)):
                columns |= {f"{name}_first": found.first(values), f"{name}_along": found.along(values)}
            whole = {"kl_along_p95": found.percentile(found.kl), "tv_along_p95": found.percentile(found.tv)}
        return Measurement(self.name, columns, self.primary, self.groups, None, whole)

    def with_prefix(self, prefix: str) -> "Generations":
        """The same prompts after a piece of text; the judge sees them with it."""
        return replace(self, prompts=tuple(prefix + prompt for prompt in self.prompts))

    def to_dict(self) -> dict[str, Any]:
        """What decides the numbers, as JSON values."""
        settings = {key: getattr(self, key) for key in ("judged_by", "max_new_tokens", "temperature", "seed", "drift")}
        texts = {"prompts": list(self.prompts), "groups": list(self.groups)}
        return {"kind": "generations", "name": self.name, **texts, **settings}


def _scores(judge: Judge, judged_by: str, prompts: Sequence[str], texts: Sequence[str]) -> Float[Tensor, " prompt"]:
    given = list(judge(prompts, texts))
    if len(given) != len(texts):
        raise EvaluationError(
            f"the judge {judged_by!r} gave {len(given)} scores for {len(texts)} texts; one each is due."
        )
    scores = torch.tensor([float(score) for score in given], dtype=torch.float64)
    bad = (~scores.isfinite() | (scores.abs() > 1)).nonzero()
    if len(bad):
        where = int(bad[0])
        raise EvaluationError(
            f"the judge {judged_by!r} scored text {where} ({texts[where][:40]!r}) {given[where]!r}; a number in "
            "[-1, 1] was expected."
        )
    return scores
