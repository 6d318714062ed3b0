"""Step 2 of RAHF: how the activity at an answer's tokens differs between the two runs of a contrast.

With one model under two instructions (SCIT) or two models under one prompt (Dual), at the same answer tokens r::

    v_l(t) = A(p+, q, r)_l(t) - A(p-, q, r)_l(t)        v_l(t) = A_good(q, r)_l(t) - A_bad(q, r)_l(t)

per token and per answer, never averaged (Liu et al., arXiv 2312.15997). Tokens are aligned by their offset in the
answer; prompts under instructions are longer than the plain one.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import RahfError
from contrans_lens.models import HookedModel, check_hook_points, fingerprint, residual_hook_points
from contrans_lens.models.plain import place_of
from contrans_lens.rahf.contrasts import Contrast, ContrastTokens, DualContrast, ScitContrast, tokenize_contrast
from contrans_lens.rahf.difference_store import ActivityDifferences, Origin, rows_hash
from contrans_lens.rahf.difference_writing import based_on, kept, to_folder, to_memory
from contrans_lens.rahf.protocol import Differences
from contrans_lens.rahf.reading import ContrastReader
from contrans_lens.rahf.summaries import SummarisedDifferences
from contrans_lens.rahf.tokens import Answers, Where
from contrans_lens.residuals.progress import token_progress
from contrans_lens.residuals.reader import automatic_budget
from contrans_lens.texts import PreferenceSet

__all__ = [
    "ActivityDifferences",
    "Contrast",
    "Differences",
    "DualContrast",
    "ScitContrast",
    "StreamedDifferences",
    "capture_differences",
    "stream_differences",
]

MAX_ANSWER_TOKENS = 512
"""Tokens of an answer that are read at most, as in the paper's SCIT (its Dual reads 64)."""


class StreamedDifferences(SummarisedDifferences):
    """Activity differences that are computed whenever they are asked for; made by :func:`stream_differences`."""

    def __init__(
        self, reader: ContrastReader, groups: tuple[str, ...], base: HookedModel | None, dtype: torch.dtype
    ) -> None:
        self._reader = reader
        self._base = base
        self._dtype = dtype
        self._norms: Float[Tensor, " layer"] | None = None
        self.hook_points = reader.hook_points
        self.where = reader.where
        self.d_model = int(reader.contrast.models[0].cfg.d_model)
        self.fingerprint = None if base is None else fingerprint(base)
        self.rows = reader.tokens.plain
        self.groups = groups

    @property
    def contrast(self) -> Contrast:
        """The two runs."""
        return self._reader.contrast

    @property
    def cuts(self) -> tuple[int, int]:
        """Rows whose prompt lost tokens on its left, and rows whose answer lost tokens on its right."""
        return self._reader.tokens.cut_prompts, self._reader.tokens.cut_answers

    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        """See :meth:`SummarisedDifferences.of`.

        Raises:
            RahfError: there is no such row.
            CaptureError: an activity is not finite, or memory is too small for a single row.
        """
        self.check_rows(rows)
        values = kept(self._reader, self._reader.differences(rows), rows, self._dtype)
        return values.to(torch.promote_types(self._dtype, torch.float32))

    @property
    def reading_tokens(self) -> tuple[int, ...]:
        """Tokens of both runs."""
        tokens = self._reader.tokens
        return tuple(
            len(first.ids) + len(second.ids) for first, second in zip(tokens.first, tokens.second, strict=True)
        )

    def residual_norms(self) -> Float[Tensor, " layer"] | None:
        """See :meth:`SummarisedDifferences.residual_norms`; measured when it is first asked for."""
        if self._norms is None and self._base is not None:
            self._norms = self._reader.mean_norms(self._base)
        return self._norms


def capture_differences(
    contrast: Contrast,
    preferences: PreferenceSet,
    hook_points: Sequence[str] | None = None,
    *,
    base: HookedModel | None = None,
    answers: Answers = "chosen",
    where: Where = "predicting",
    max_answer_tokens: int | None = MAX_ANSWER_TOKENS,
    max_length: int | None = None,
    store: Path | str | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
) -> ActivityDifferences:
    """Compute the activity differences of all answers once, and keep them.

    Args:
        contrast: the two runs.
        preferences: the pairs whose answers are read.
        hook_points: points of the residual stream, such as ``"blocks.3.hook_resid_post"``; None: after every block.
            Nothing after the last of them is run.
        base: the model that an adapter is to be fitted on. Its fingerprint is recorded and its residual norms are
            measured at the same tokens, as the unit of :meth:`~SummarisedDifferences.norms` and of
            :meth:`~SummarisedDifferences.mean_vectors`.
        answers: which answers of a pair are read.
        where: ``"predicting"``: at the tokens whose next one is the answer's, where short answers are decided on; of
            long answers it is nearly the same as ``"answer"``: at the answer's own tokens, as in the paper.
        max_answer_tokens: most tokens of an answer; None: what fits.
        max_length: most tokens in a row; None: the shortest context of the models.
        store: a folder to keep them in, memory-mapped. Memory then grows with the token ids only. A capture into it
            that was interrupted is taken up again, one that is finished is opened. None: in memory.
        batch_size: rows in a batch; None finds it from the device's memory. Halved when memory runs out.
        dtype: dtype they are kept in.
        progress: whether to show a progress bar.

    Raises:
        RahfError: answers whose tokens differ between runs or models, a topic without instructions, a limit that
            leaves no room, or a dtype that is not floating-point.
        HookPointError: a hook point does not exist, or is not between blocks.
        CaptureError: an activity is not finite (pair and hook point are named), or memory is too small for one row.
        ArtifactError: ``store`` holds something else, or cannot be written.
        FingerprintMismatchError: ``store`` belongs to another base model.
    """
    reader = _reader(
        contrast, preferences, hook_points, base, answers, where, max_answer_tokens, max_length, batch_size
    )
    origin = _origin(reader, preferences, answers)
    _check_dtype(dtype)
    n_tokens = sum(len(row.ids) for row in (*reader.tokens.first, *reader.tokens.second))
    n_tokens += 0 if base is None else sum(len(row.ids) for row in reader.tokens.plain)
    with token_progress(progress, "activity differences", n_tokens) as advance:
        if store is None:
            origin = based_on(origin, reader, base, advance)
            return ActivityDifferences.make(origin, to_memory(reader, origin, dtype, advance))
        return to_folder(reader, origin, base, Path(store), dtype, advance)


def stream_differences(
    contrast: Contrast,
    preferences: PreferenceSet,
    hook_points: Sequence[str] | None = None,
    *,
    base: HookedModel | None = None,
    answers: Answers = "chosen",
    where: Where = "predicting",
    max_answer_tokens: int | None = MAX_ANSWER_TOKENS,
    max_length: int | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> StreamedDifferences:
    """The same differences, computed anew whenever they are asked for; nothing is kept but token ids.

    Arguments and errors are those of :func:`capture_differences`; what concerns single activities is raised when they
    are asked for.

    Raises:
        RahfError: as there.
        HookPointError: as there.
    """
    reader = _reader(
        contrast, preferences, hook_points, base, answers, where, max_answer_tokens, max_length, batch_size
    )
    _check_dtype(dtype)
    return StreamedDifferences(reader, _groups(preferences, reader.rows_per_pair), base, dtype)


def _reader(
    contrast: Contrast,
    preferences: PreferenceSet,
    hook_points: Sequence[str] | None,
    base: HookedModel | None,
    answers: Answers,
    where: Where,
    max_answer_tokens: int | None,
    max_length: int | None,
    batch_size: int | None,
) -> ContrastReader:
    """The arguments, checked before anything is run."""
    names = residual_hook_points(contrast.models[0]) if hook_points is None else list(hook_points)
    if isinstance(hook_points, str) or not names or len(set(names)) < len(names):
        raise RahfError(f"hook points must be a list of different names; {hook_points!r} was given.")
    for name in names:
        place_of(name)
    for model in (*contrast.models, *([] if base is None else [base])):
        check_hook_points(model, names)
    if base is not None and int(base.cfg.d_model) != int(contrast.models[0].cfg.d_model):
        raise RahfError(
            f"the base model's residual stream has {base.cfg.d_model} numbers, that of the contrast "
            f"{contrast.models[0].cfg.d_model}; a contrast of models tuned from this base was expected."
        )
    tokens = tokenize_contrast(
        contrast, preferences, base=base, answers=answers, max_length=max_length, max_answer_tokens=max_answer_tokens
    )
    tokens.plain[0].reads(where)  # refuses an unknown `where` before anything is run
    budget = automatic_budget(contrast.models[0], batch_size)
    return ContrastReader(contrast, tokens, tuple(names), where, budget, 2 if answers == "both" else 1)


def _check_dtype(dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        raise RahfError(f"differences cannot be kept as {dtype}; choose a floating-point dtype.")


def _groups(preferences: PreferenceSet, rows_per_pair: int) -> tuple[str, ...]:
    return tuple(pair.unit for pair in preferences for _ in range(rows_per_pair))


def _origin(reader: ContrastReader, preferences: PreferenceSet, answers: Answers) -> Origin:
    tokens: ContrastTokens = reader.tokens
    return Origin(
        hook_points=reader.hook_points,
        where=reader.where,
        answers=answers,
        rows=tokens.plain,
        groups=_groups(preferences, reader.rows_per_pair),
        preferences=preferences.content_hash,
        rows_read=rows_hash(tokens.plain, tokens.first, tokens.second),
        contrast=reader.contrast.to_dict(),
        fingerprint=None,
        residual_norms=None,
        cut_prompts=tokens.cut_prompts,
        cut_answers=tokens.cut_answers,
    )
