"""A concept dictionary from stimuli: every stimulus is run once, every layer gets its atoms, duplicates go."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.models import HookedModel, resid_post
from contrans_lens.models.naming import model_name
from contrans_lens.pace.atoms import draw_others, principal_atoms
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.duplicates import Dropped, Duplicates, find_duplicates
from contrans_lens.residuals import ResidualStore, capture
from contrans_lens.residuals.prepared import Truncate
from contrans_lens.residuals.progress import token_progress
from contrans_lens.texts.stimuli import DEFAULT_TEMPLATE, ConceptStimuli, check_template, folded_name

_CHUNK_BYTES = 1 << 27
"""Memory for the residuals (in float64) of the concepts whose atoms are computed together."""


def middle_hook_points(model: HookedModel) -> list[str]:
    """Outputs of the middle blocks: as a share of the depth, the window of PaCE.

    The paper edits 19 of 32 layers, from the 29th-last to the 11th-last: blocks 3 to 21. Here blocks from
    ``3/32`` to ``22/32`` of the depth, rounded, and at least one.
    """
    depth = int(model.cfg.n_layers)
    end = max(1, round(depth * 22 / 32))
    begin = min(round(depth * 3 / 32), end - 1)
    return [resid_post(layer) for layer in range(begin, end)]


def build_dictionary(
    model: HookedModel,
    concepts: Sequence[ConceptStimuli],
    hook_points: Sequence[str] | None = None,
    *,
    template: str = DEFAULT_TEMPLATE,
    others_per_concept: int = 60,
    seed: int = 0,
    batch_size: int | None = None,
    cosine_limit: float | int = 0.999,
    store: Path | str | None = None,
    truncate: Truncate = "error",
    progress: bool = False,
) -> ConceptDictionary:
    """Build the dictionary of PaCE (arXiv 2406.04331): one unit atom for each concept and hook point.

    Every stimulus, in its template, is run once, and the residual at its last token is read at all hook points in
    that one pass. An atom is the first principal direction of the unit-length differences between the concept's
    residuals and those of a random sample of other concepts' stimuli (see :mod:`contrans_lens.pace.atoms`), turned so
    that the concept's own stimuli lie higher along it in the mean. Duplicates are left out and named in ``dropped``.

    Args:
        model: the model.
        concepts: at least two; a repeated name is left out before the model is run.
        hook_points: where to read; ``None`` is :func:`middle_hook_points`.
        template: the prompt, with ``{stimulus}`` and perhaps ``{concept}``.
        others_per_concept: how many stimuli of other concepts each concept is compared with.
        seed: of their draw.
        batch_size: prompts in a batch; ``None`` finds it from the device's memory.
        cosine_limit: atoms with a greater ``|cos|`` at any hook point are duplicates; the first stays.
        store: folder for the residuals. A build that was interrupted takes up its capture from there, and memory does
            not grow with the number of stimuli. ``None`` keeps them in memory.
        truncate: what becomes of prompts longer than the model's context; see :func:`capture`.
        progress: whether to show progress bars.

    Raises:
        PaceError: fewer than two concepts, or a concept whose residuals do not differ from any other's at a hook point.
        TextError: the template has no place for the stimulus, or a prompt is too long.
        HookPointError: a hook point does not exist or holds something else than residuals.
        CaptureError: a residual is not finite, or memory is too small for one prompt.
        ArtifactError: ``store`` holds another capture or cannot be written.
    """
    check_template(template)
    if isinstance(concepts, str) or not all(isinstance(each, ConceptStimuli) for each in concepts):
        raise PaceError("concepts are a list of ConceptStimuli; read a file with contrans_lens.texts.read_stimuli().")
    concepts, repeated_names = _different_names(concepts)
    names = [concept.concept for concept in concepts]
    others = draw_others(names, [len(concept.stimuli) for concept in concepts], others_per_concept, seed)
    prompts = [prompt for concept in concepts for prompt in concept.prompts(template)]
    residuals = capture(
        model,
        prompts,
        middle_hook_points(model) if hook_points is None else hook_points,
        store=store,
        batch_size=batch_size,
        truncate=truncate,
        progress=progress,
    )
    layers = _fit_layers(residuals, concepts, others, progress)
    found = find_duplicates(names, {name: layer.atoms for name, layer in layers.items()}, cosine_limit)
    notes = _notes(concepts, residuals, layers, found)
    notes |= {
        "model": model_name(model),
        "seed": seed,
        "others_per_concept": others_per_concept,
        "cosine_limit": float(cosine_limit),
    }
    return ConceptDictionary(
        names=tuple(names[row] for row in found.kept.tolist()),
        topics=tuple(concepts[row].topic for row in found.kept.tolist()),
        hook_points=residuals.hook_points,
        atoms={name: layer.atoms[found.kept] for name, layer in layers.items()},
        fingerprint=residuals.fingerprint,
        template=template,
        dropped=(*repeated_names, *found.dropped),
        notes=notes,
        quality=torch.stack([layer.quality for layer in layers.values()], dim=1)[found.kept],
    )


@dataclass(frozen=True, eq=False)
class _LayerAtoms:
    atoms: Float[Tensor, "atom d_model"]
    quality: Float[Tensor, " atom"]
    n_turned: int


def _different_names(concepts: Sequence[ConceptStimuli]) -> tuple[list[ConceptStimuli], list[Dropped]]:
    """The concepts without those whose name an earlier one has."""
    first: dict[str, ConceptStimuli] = {}
    dropped = []
    for concept in concepts:
        kept = first.setdefault(folded_name(concept.concept), concept)
        if kept is not concept:
            dropped.append(Dropped(concept.concept, kept.concept, None))
    return list(first.values()), dropped


def _fit_layers(
    residuals: ResidualStore, concepts: Sequence[ConceptStimuli], others: Sequence[Sequence[int]], progress: bool
) -> dict[str, _LayerAtoms]:
    """The atoms of all concepts at each hook point, a chunk of concepts at a time."""
    chunks = list(_chunks(concepts, others, residuals.d_model))
    layers = {}
    with token_progress(progress, "atoms", len(concepts) * len(residuals.hook_points)) as advance:
        for hook_point in residuals.hook_points:
            parts = []
            for chunk in chunks:
                parts.append(_fit_chunk(residuals, hook_point, chunk))
                advance(len(chunk.concepts))
            layers[hook_point] = _LayerAtoms(
                atoms=torch.cat([part.atoms for part in parts]),
                quality=torch.cat([part.quality for part in parts]),
                n_turned=sum(part.n_turned for part in parts),
            )
    return layers


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Some concepts that follow one another, with the numbers of their own and of the other stimuli."""

    concepts: Sequence[ConceptStimuli]
    own: list[list[int]]
    others: list[Sequence[int]]


def _chunks(concepts: Sequence[ConceptStimuli], others: Sequence[Sequence[int]], d_model: int) -> Iterator[_Chunk]:
    """Concepts in order, as many at a time as their padded residuals fit the memory for them."""
    start, begin, longest = 0, 0, 0
    own: list[list[int]] = []
    for index, concept in enumerate(concepts):
        n_own = len(concept.stimuli)
        longest_now = max(longest, n_own + len(others[index]))
        if own and (len(own) + 1) * longest_now * d_model * 8 > _CHUNK_BYTES:
            yield _Chunk(concepts[begin:index], own, list(others[begin:index]))
            begin, own, longest_now = index, [], n_own + len(others[index])
        own.append(list(range(start, start + n_own)))
        start, longest = start + n_own, longest_now
    yield _Chunk(concepts[begin:], own, list(others[begin:]))


def _fit_chunk(residuals: ResidualStore, hook_point: str, chunk: _Chunk) -> _LayerAtoms:
    own, own_real = _padded(chunk.own)
    others, others_real = _padded(chunk.others)
    found = principal_atoms(
        residuals.select(own.flatten()).tensor(hook_point).unflatten(0, own.shape),
        residuals.select(others.flatten()).tensor(hook_point).unflatten(0, others.shape),
        own_real,
        others_real,
    )
    if found.flat.any():
        flat = [chunk.concepts[row].concept for row in found.flat.nonzero().flatten().tolist()]
        raise PaceError(
            f"the residuals of concept {flat[0]!r}{f' and {len(flat) - 1} more' if flat[1:] else ''} at {hook_point} "
            "are the same as those of the other concepts, so there is no direction; read at a later hook point (the "
            "first ones see only the prompt's last token), or give the concepts different stimuli."
        )
    return _LayerAtoms(found.directions.to(torch.float32), found.quality.to(torch.float32), int(found.turned.sum()))


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "concept row"], Bool[Tensor, "concept row"]]:
    """Lists of numbers as one tensor, and which of its entries are theirs."""
    longest = max(map(len, rows))
    numbers = torch.tensor([[*row, *[row[0]] * (longest - len(row))] for row in rows])
    return numbers, torch.arange(longest) < torch.tensor([[len(row)] for row in rows])


def _notes(
    concepts: Sequence[ConceptStimuli], residuals: ResidualStore, layers: dict[str, _LayerAtoms], found: Duplicates
) -> dict[str, Any]:
    """What the dictionary says about its making."""
    counts = [len(concept.stimuli) for concept in concepts]
    return {
        "method": "first principal direction of unit-length differences, not centred",
        "orientation": "own stimuli lie higher than the others in the mean",
        "turned": {name: layer.n_turned for name, layer in layers.items()},
        "n_concepts": len(concepts),
        "n_duplicates": len(found.dropped),
        "n_stimuli": sum(counts),
        "stimuli_per_concept": [min(counts), max(counts)],
        "repeated_stimuli": sum(concept.repeated for concept in concepts),
        "truncated": residuals.truncated,
        "text_sha256": residuals.text_hash,
    }
