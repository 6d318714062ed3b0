"""Directions, as a user has them: saved interventions, a concept that is read here, and random ones beside them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from contrans_lens.errors import HookPointError, TradeoffError
from contrans_lens.evaluation import Cell, random_directions, scaled, written_vectors
from contrans_lens.models import HookedModel, check_hook_points, residual_hook_points
from contrans_lens.pace.archive import load_edits
from contrans_lens.pipeline.corpus import build_corpus
from contrans_lens.pipeline.reading import read_concept, read_states, split_concept
from contrans_lens.pipeline.settings import Settings
from contrans_lens.selection import three_quarters
from contrans_lens.texts import ContrastSet
from contrans_lens.tradeoff import direction
from contrans_lens.tradeoff.plan import FAMILY_MARK

RANDOM = "random"
"""What families of random directions are called."""

_NORM_TEXTS = 256  # texts behind the mean residual norm, the unit of strength
_NEXT_DRAW = 100_003  # seeds of the hook points of one cell lie so far apart


def saved_cells(folders: Sequence[Path], model: HookedModel | None = None) -> dict[str, Cell]:
    """Saved interventions by their labels; those of one folder act together.

    Args:
        folders: artifact folders, or folders of transplant runs.
        model: where given, every intervention must have been made for it.

    Raises:
        ArtifactError: a folder holds no interventions, or damaged ones.
        FingerprintMismatchError: they were made for another model.
    """
    found: dict[str, Cell] = {}
    for folder in folders:
        place = folder / "intervention" if (folder / "intervention").is_dir() else folder
        cell = load_edits(place, model)
        # A label that looks like a control draw of a family would be taken for one.
        name = (cell[0].label or folder.name).replace(FAMILY_MARK, "-")
        number, called = 2, name
        while called in found:
            number, called = number + 1, f"{name} {number}"
        found[called] = cell
    return found


def at_strength(cell: Cell, strength: float) -> Cell:
    """The cell with its strongest intervention at ``strength``, the others in proportion.

    Raises:
        TradeoffError: every intervention of the cell has strength 0.
    """
    largest = max(abs(each.strength) for each in cell)
    if largest == 0:
        raise TradeoffError(f"{cell[0]} has strength 0, so it does nothing; save it at another strength.")
    return scaled(cell, strength / largest)


def random_like(cell: Cell, draws: int, seed: int = 0) -> list[Cell]:
    """Control draws: the same hook points, norms and strengths, in random directions.

    Raises:
        InterventionError: the cell holds an edit that writes no vector.
    """
    written = written_vectors(cell)
    vectors = [
        random_directions(each.d_model, draws, float(each.vector.double().norm()), seed + place * _NEXT_DRAW)
        for place, each in enumerate(written)
    ]
    return [
        tuple(replace(each, vector=own[draw], label=RANDOM) for each, own in zip(written, vectors, strict=True))
        for draw in range(draws)
    ]


def random_families(directions: dict[str, Cell], draws: int, seed: int = 0) -> dict[str, list[Cell]]:
    """Random draws for every set of hook points and norms among the directions; one family where they share it."""
    places: dict[tuple[object, ...], str] = {}
    for name, cell in directions.items():
        key = tuple(
            (each.hook_point, each.op, each.unit, each.residual_norm, each.strength) for each in written_vectors(cell)
        )
        places.setdefault(key, name)
    if draws < 1:
        return {}
    return {
        (RANDOM if len(places) == 1 else f"{RANDOM} as {name}"): random_like(directions[name], draws, seed)
        for name in places.values()
    }


def concept_direction(
    model: HookedModel,
    concept: ContrastSet,
    texts: Sequence[str] | None = None,
    *,
    hook_points: Sequence[str] = (),
    estimator: str = "mean_difference",
    seed: int = 0,
) -> Cell:
    """Read a concept from its training contrasts, as a direction for the same model.

    At strength 1 it is one mean residual norm long at every hook point.

    Args:
        model: the model that is read, and later written into.
        concept: its contrasts; the split is that of a transplant with the same seed.
        texts: generic texts behind the residual norm; None takes the shipped plain-English corpus.
        hook_points: written together; none: the paper's prior, three quarters of the way up.
        estimator: see :func:`contrans_lens.concepts.estimate_concept`.
        seed: of the split.

    Raises:
        TextError: the concept or the texts cannot be used.
        HookPointError: a hook point does not exist, or is no end of a block.
        ConceptError: the estimator is unknown, or cannot be used.
    """
    settings = Settings(estimator=estimator, seed=seed)
    known = residual_hook_points(model)
    chosen = list(hook_points) or [three_quarters(known)]
    check_hook_points(model, chosen)
    unread = [name for name in chosen if name not in known]
    if unread:
        raise HookPointError(
            f"concepts are read at the end of a block, not at {unread[0]}; choose from {', '.join(known)}."
        )
    splits = split_concept(concept, settings)
    corpus = build_corpus(texts, None, settings)
    states = read_states(model, list(corpus.map_texts[:_NORM_TEXTS]))
    vectors = read_concept(model, splits, settings, states)
    norms = dict(zip(states.hook_points, states.residual_norms.tolist(), strict=True))
    return tuple(
        each
        for name in chosen
        for each in direction(
            name, vectors.at(name), residual_norm=norms[name], label=concept.name, fingerprint=states.fingerprint
        )
    )
