"""Two models on the same texts, read at the same places, whatever their tokenizers.

A causal model's residual at a token stands for the text up to that token's last character. Two residuals make
a pair if their tokens end at the same character (and, for means over a span, begin at the same one). Places
where the two tokenizers disagree are left out, and the share that could be paired is reported as the
coverage.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from contrans_lens.errors import CaptureError
from contrans_lens.models import HookedModel, TokenBatch, tokenize
from contrans_lens.residuals.capture import LAST_TOKEN, capture
from contrans_lens.residuals.positions import CharSpan, LastToken, ReadPositions, TokenEnds, token_ends
from contrans_lens.residuals.prepared import PaddingSide, Truncate
from contrans_lens.residuals.store import ResidualStore

_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class PairedResiduals:
    """Residuals of two models; example ``i`` of one and of the other were read at the same place of the same text."""

    source: ResidualStore
    """Residuals ``[example, layer, d_source]``."""
    target: ResidualStore
    """Residuals ``[example, layer, d_target]``."""
    coverage: float
    """Share of the asked-for places at which both models could be read."""
    text_index: Int[Tensor, "example"]
    """Index of each example's text in the list that was given."""

    def __post_init__(self) -> None:
        """Check that the two stores are of the same examples."""
        if self.source.n_examples != self.target.n_examples:
            raise CaptureError(
                f"{self.source.n_examples} source and {self.target.n_examples} target examples are no pairs."
            )

    @classmethod
    def from_stores(cls, source: ResidualStore, target: ResidualStore) -> "PairedResiduals":
        """Pair stores that were captured one after the other, so that only one model is in memory at a time.

        Both must have been read at the last token of the same untruncated texts, or at the same
        :class:`TokenEnds`.

        Raises:
            CaptureError: the stores are of different texts, or of positions that may differ between
                tokenizers.
        """
        if source.text_hash != target.text_hash or not torch.equal(source.text_index, target.text_index):
            raise CaptureError("the stores are of different texts; capture both models on one list of texts.")
        if source.positions != target.positions or not isinstance(source.positions, LastToken | TokenEnds):
            raise CaptureError(
                f"positions {source.positions} and {target.positions} may fall on different characters in the two "
                "models; use LastToken or TokenEnds for both, or capture_pair."
            )
        if source.truncated or target.truncated:
            raise CaptureError(
                "texts were truncated, so the models read different texts; shorten them or capture_pair."
            )
        return cls(source, target, coverage=1.0, text_index=source.text_index)

    @property
    def n_examples(self) -> int:
        """Number of pairs."""
        return self.source.n_examples

    def select(self, indices: Sequence[int] | Int[Tensor, "chosen"]) -> "PairedResiduals":
        """Some of the pairs, in the order given.

        Raises:
            CaptureError: an index is outside the pairs.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return replace(
            self,
            source=self.source.select(chosen),
            target=self.target.select(chosen),
            text_index=self.text_index[chosen],
        )


def capture_pair(
    source: HookedModel,
    target: HookedModel,
    texts: Sequence[str],
    *,
    source_hook_points: Sequence[str] | None = None,
    target_hook_points: Sequence[str] | None = None,
    pairing: Literal["text_end", "token_ends"] | CharSpan = "text_end",
    per_text: int | None = None,
    seed: int = 0,
    store: Path | str | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    truncate: Truncate = "error",
    prepend_bos: bool | None = None,
    padding_side: PaddingSide = "right",
    progress: bool = False,
) -> PairedResiduals:
    """Capture both models on the same texts at the same places.

    Args:
        source: the model that concepts are read in.
        target: the model that they are carried to.
        texts: the texts.
        source_hook_points: where the source is read; ``None`` is every block's output.
        target_hook_points: where the target is read; ``None`` is every block's output.
        pairing: ``"text_end"`` reads the last token of each text; ``"token_ends"`` reads wherever a token
            ends in both models (many pairs for each text; a text's first token is left out); a
            :class:`CharSpan` reads that range of characters.
        per_text: most pairs taken of a text with ``"token_ends"``, drawn at random; ``None`` takes all.
        seed: of that draw.
        store: folder for two memory-mapped stores, ``source`` and ``target``; ``None`` keeps them in memory.
        batch_size: texts in a batch; ``None`` finds it.
        dtype: dtype the residuals are kept in.
        truncate: what becomes of texts longer than a model's context; see :func:`capture`.
        prepend_bos: whether texts begin with BOS; ``None`` is each model's own convention.
        padding_side: side on which shorter texts are padded.
        progress: whether to show progress bars.

    Returns:
        The two stores and the share of places that could be paired: of the texts, or, for ``"token_ends"``,
        of all ends of source tokens. What could not be paired is left out.

    Raises:
        CaptureError: nothing could be paired, or either capture fails.
        TextError: a text is empty, or too long with ``truncate="error"``.
        ArtifactError: ``store`` holds other captures or cannot be written.
    """
    tokenised = _tokenised_alike(source, target, texts, truncate, prepend_bos)
    kept, positions, coverage = (
        _shared_ends(tokenised, per_text, seed)
        if pairing == "token_ends"
        else _same_places(tokenised, LAST_TOKEN if pairing == "text_end" else pairing)
    )
    if not kept:
        raise CaptureError("no text could be read at the same place in both models; look at the texts and positions.")
    chosen = [texts[index] for index in kept]
    stores = [
        capture(
            model,
            chosen,
            hook_points,
            positions=positions,
            store=None if store is None else Path(store) / name,
            batch_size=batch_size,
            dtype=dtype,
            truncate=truncate,
            prepend_bos=prepend_bos,
            padding_side=padding_side,
            progress=progress,
        )
        for name, model, hook_points in (
            ("source", source, source_hook_points),
            ("target", target, target_hook_points),
        )
    ]
    return PairedResiduals(stores[0], stores[1], coverage, torch.tensor(kept)[stores[0].text_index])


_Tokenised = Iterator[tuple[int, list[str], TokenBatch, TokenBatch]]


def _tokenised_alike(
    source: HookedModel,
    target: HookedModel,
    texts: Sequence[str],
    truncate: Truncate,
    prepend_bos: bool | None,
) -> _Tokenised:
    """Chunks of texts with both models' tokens."""
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        chunk = list(texts[first : first + _TEXTS_AT_ONCE])
        batches = [tokenize(model, chunk, truncate=truncate, prepend_bos=prepend_bos) for model in (source, target)]
        yield first, chunk, batches[0], batches[1]


def _same_places(tokenised: _Tokenised, positions: ReadPositions) -> tuple[list[int], ReadPositions, float]:
    """Texts in which both models read the same characters."""
    kept, n_texts = [], 0
    for first, chunk, source, target in tokenised:
        for row, text in enumerate(chunk):
            ranges = [_characters(batch, row, text, positions, first) for batch in (source, target)]
            if ranges[0] is not None and ranges[0] == ranges[1]:
                kept.append(first + row)
        n_texts += len(chunk)
    if isinstance(positions, CharSpan) and len(positions.spans) > 1:
        positions = replace(positions, spans=tuple(positions.spans[index] for index in kept))
    return kept, positions, len(kept) / max(1, n_texts)


def _characters(batch: TokenBatch, row: int, text: str, positions: ReadPositions, first: int) -> tuple[int, int] | None:
    """Characters that a position's tokens cover in one row, without surrounding white space; None where it has none.

    Where only one token is read, what it stands for ends where it ends, so its beginning does not count.
    """
    try:
        span = positions.resolve(batch.rows([row]), [text], first + row)
    except CaptureError:
        return None
    offsets = batch.offsets[row][int(span.start[0]) : int(span.stop[0])]
    begin, end = offsets[0][0], offsets[-1][1]
    if isinstance(positions, LastToken):
        # The last token must stand for the whole text in both models: nothing but white space may follow it.
        return (0, len(text)) if not text[end:].strip() else None
    read = text[begin:end]
    end -= len(read) - len(read.rstrip())
    begin += len(read) - len(read.lstrip())
    return (begin, end) if isinstance(positions, CharSpan) and positions.reduce == "mean" else (0, end)


def _shared_ends(tokenised: _Tokenised, per_text: int | None, seed: int) -> tuple[list[int], TokenEnds, float]:
    """Characters at which a token ends in both models, at most ``per_text`` drawn from each text."""
    generator = torch.Generator().manual_seed(seed)
    kept, ends, n_shared, n_source = [], [], 0, 0
    for first, chunk, source, target in tokenised:
        for row in range(len(chunk)):
            found = [
                # A text's first token draws massive activations that drown everything else.
                {end for end, token in token_ends(batch, row).items() if token > 0}
                for batch in (source, target)
            ]
            shared = sorted(found[0] & found[1])
            n_shared, n_source = n_shared + len(shared), n_source + len(found[0])
            if per_text is not None and len(shared) > per_text:
                drawn = torch.randperm(len(shared), generator=generator)[:per_text].sort().values
                shared = [shared[index] for index in drawn.tolist()]
            if shared:
                kept.append(first + row)
                ends.append(tuple(shared))
    return kept, TokenEnds(tuple(ends)), n_shared / max(1, n_source)
