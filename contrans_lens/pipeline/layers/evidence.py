"""The evidence that is had without writing: probes on either side, similarities, maps, and the carried concept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.concepts.quality import auroc
from contrans_lens.layers import (
    METRICS,
    ConceptCarriage,
    ProbeCurve,
    SimilarityGrid,
    affine_r2_grid,
    concept_carriage,
    probe_layers,
    similarity_grid,
)
from contrans_lens.layers.similarity.carried import carried_concepts
from contrans_lens.pipeline.layers.measure import MeasuredCell
from contrans_lens.pipeline.layers.settings import LayerSettings
from contrans_lens.pipeline.reading import ModelReading, PairReading
from contrans_lens.selection import Evidence
from contrans_lens.texts import ContrastSet

_CARRIED = {
    "concept_cosine": "cosine of the carried concept with the target's own vector",
    "carried_r2": "held-out R2 of the map along the carried concept",
    "carried_gain": "how much the target varies along the carried concept, over its mean dimension",
    "carried_length": "length of the carried concept over the mean distance of the target's states from their mean",
}


@dataclass(frozen=True, eq=False)
class StateEvidence:
    """What the states of two models say about every pair of layers."""

    source_probes: ProbeCurve
    target_probes: ProbeCurve
    similarity: Mapping[str, SimilarityGrid]
    """State similarities, ``affine_r2``, and the carriage of the concept, by name."""
    evidence: tuple[Evidence, ...]
    warnings: tuple[str, ...]


def state_evidence(
    pair: PairReading, source: ModelReading, target: ModelReading, train: ContrastSet, settings: LayerSettings
) -> StateEvidence:
    """Everything that the states say, with its nulls.

    Raises:
        LayerError: too few contrast texts for the folds, or states that cannot be compared.
    """
    probes = [probe_concept(reading, train, settings) for reading in (source, target)]
    grids, carriage = compare_states(pair, source, target, settings)
    shape = (len(pair.source.hook_points), len(pair.target.hook_points))
    evidence = [
        *_probe_evidence(probes[0], probes[1], shape),
        *(_grid_evidence(name, grid) for name, grid in grids.items()),
        Evidence("carried_gain", carriage.gain, True, False, meaning=_CARRIED["carried_gain"]),
        Evidence("carried_length", carriage.relative_length, True, False, meaning=_CARRIED["carried_length"]),
        Evidence(
            "carried_auroc",
            _carried_auroc(pair, source, target),
            higher_is_better=True,
            needs_target_labels=True,
            meaning="AUROC of the target's validation contrasts along the carried concept",
        ),
    ]
    notes = _reading_notes(pair)
    notes += [f"{name}: {note}" for name, grid in grids.items() for note in grid.warnings]
    notes += [
        f"probe in the {side}: {n}" for side, p in zip(("source", "target"), probes, strict=True) for n in p.warnings
    ]
    return StateEvidence(probes[0], probes[1], grids, tuple(evidence), tuple(dict.fromkeys(notes)))


def probe_concept(reading: ModelReading, train: ContrastSet, settings: LayerSettings) -> ProbeCurve:
    """Probe the concept at every layer of one model, on the training contrasts.

    Raises:
        LayerError: too few groups for the folds.
    """
    return probe_layers(
        reading.contrasts.states,
        torch.tensor(train.labels()),
        reading.states.hook_points,
        groups=train.text_groups(),
        pairs=train.text_pairs(),
        method=settings.probe,
        n_folds=settings.n_folds,
        n_permutations=settings.n_permutations,
        level=settings.transplant.level,
        seed=settings.transplant.seed,
    )


def compare_states(
    pair: PairReading, source: ModelReading, target: ModelReading, settings: LayerSettings
) -> tuple[dict[str, SimilarityGrid], ConceptCarriage]:
    """State similarities on generic texts, and on held-out texts the map's R2 and the carriage of the concept.

    Raises:
        LayerError: states that cannot be compared.
    """
    n = min(len(pair.source.states), settings.max_similarity_texts)
    level, seed = settings.transplant.level, settings.transplant.seed
    grids = similarity_grid(
        pair.source.states[:n],
        pair.target.states[:n],
        pair.source.hook_points,
        pair.target.hook_points,
        metrics=settings.metrics,
        n_permutations=settings.n_permutations,
        level=level,
        seed=seed,
    )
    x, y = pair.source.states[pair.held_out], pair.target.states[pair.held_out]
    grids["affine_r2"] = affine_r2_grid(pair.maps, x, y, n_permutations=settings.n_permutations, level=level, seed=seed)
    carriage = concept_carriage(
        pair.maps,
        source.vectors.vectors,
        target.vectors.vectors,
        x,
        y,
        n_permutations=settings.n_permutations,
        level=level,
        seed=seed,
    )
    return grids | carriage.grids, carriage


def response_evidence(
    measured: Sequence[MeasuredCell], source_hook_points: Sequence[str], target_hook_points: Sequence[str]
) -> list[Evidence]:
    """Reach, agreement and echo of the pairs that were written; NaN where a pair was not.

    They cost as much as the effect itself, but need no evaluation items; reach and echo need no labels in the target.
    """
    meanings = {
        "reach": ("how far the concept's prompts are moved at the damage budget", False),
        "echo": ("likeness of the moved next-token probabilities with what the concept does in the source", False),
        "agreement": ("likeness of the moved next-token probabilities with what the contrast's words do", True),
    }
    found = []
    for name, (meaning, needs_labels) in meanings.items():
        values = torch.full((len(source_hook_points), len(target_hook_points)), float("nan"), dtype=torch.float64)
        for each in measured:
            value = getattr(each, name)
            if value is not None:
                place = source_hook_points.index(each.cell.source), target_hook_points.index(each.cell.target)
                values[place] = value
        if bool(values.isfinite().any()):
            found.append(Evidence(name, values, True, needs_labels, meaning=meaning, measured_only=True))
    return found


def _reading_notes(pair: PairReading) -> list[str]:
    return [
        f"{reading.truncated} of {pair.n_texts} generic texts did not fit the {side}'s context and lost their "
        "beginning, so the two models did not read the same words there; give shorter texts."
        for side, reading in (("source", pair.source), ("target", pair.target))
        if reading.truncated
    ]


def _probe_evidence(source: ProbeCurve, target: ProbeCurve, shape: tuple[int, int]) -> list[Evidence]:
    found = []
    for side, curve in (("source", source), ("target", target)):
        columns: dict[str, list[float]] = {"auroc": [layer.auroc.value for layer in curve.layers]}
        selectivity = [layer.selectivity.value for layer in curve.layers if layer.selectivity is not None]
        if len(selectivity) == len(curve.layers):
            columns["selectivity"] = selectivity
        for name, values in columns.items():
            column = torch.tensor(values, dtype=torch.float64)
            grid = (column[:, None] if side == "source" else column[None]).expand(shape).contiguous()
            meaning = f"{name} of the probe in the {side}"
            found.append(Evidence(f"{side}_{name}", grid, True, side == "target", meaning=meaning))
    return found


def _grid_evidence(name: str, grid: SimilarityGrid) -> Evidence:
    metric = METRICS[name]
    return Evidence(
        name,
        grid.values,
        metric.higher_is_closer,
        needs_target_labels=name == "concept_cosine",
        p_corrected=grid.p_corrected,
        meaning=_CARRIED.get(name, f"{name} of the states on generic texts"),
    )


def _carried_auroc(
    pair: PairReading, source: ModelReading, target: ModelReading
) -> Float[Tensor, "source_layer target_layer"]:
    carried = carried_concepts(pair.maps, source.vectors.vectors.double())
    positives, negatives = (
        torch.einsum("ntd,std->nst", states.double(), carried).flatten(1) for states in target.contrasts.validation
    )
    return auroc(positives, negatives).reshape(carried.shape[:2])
