"""``transplant``: the whole path in one call, from two models and a concept to rows, controls and a verdict."""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from contrans_lens.concepts import ConceptVectors
from contrans_lens.evaluation import ratio_ci
from contrans_lens.models import HookedModel, open_model
from contrans_lens.models.naming import Model, described, model_name
from contrans_lens.pipeline.bench import Bench, Scores
from contrans_lens.pipeline.choice import Choice, choose, choose_by_evidence
from contrans_lens.pipeline.controls import control_rows
from contrans_lens.pipeline.corpus import build_corpus
from contrans_lens.pipeline.directions import random_units, unit
from contrans_lens.pipeline.reading import (
    ConceptReading,
    PairReading,
    fit_pair,
    generic_part,
    read_model,
    read_states,
    reading_diagnostics,
    split_concept,
    texts_hash,
)
from contrans_lens.pipeline.result import CurvePoint, Row, Share, TransplantResult
from contrans_lens.pipeline.settings import AUTO, Settings
from contrans_lens.pipeline.verdict import judge
from contrans_lens.selection import three_quarters
from contrans_lens.texts import ContrastSet, load_concept

Say = Callable[[str], None]

CURVE_FACTORS = (0.25, 0.5, 1.0, 1.5, 2.0)


def transplant(
    source: Model,
    target: Model,
    concept: ContrastSet | str | Path,
    texts: Sequence[str] | None = None,
    *,
    neutral: Sequence[str] | None = None,
    settings: Settings | None = None,
    opening: dict[str, Any] | None = None,
    pair: PairReading | None = None,
    names: tuple[str, str] | None = None,
    say: Say = lambda step: None,
) -> TransplantResult:
    """Read a concept in ``source``, carry it across an affine map, write it into ``target``, and measure it.

    The concept vector of the source, ``v = mean h(positive) - mean h(negative)``, crosses by the linear part of the
    map ``Y ~ X A^T + b`` fitted on generic texts, ``v' = A v``, and is added to the target's residual stream at every
    position, ``R += alpha v'`` (ConTrans, section 3). Layers and strength are chosen on validation items; every row
    is scored on test items.

    Args:
        source: the aligned model: hub name, local folder, or a live HookedTransformer or TransformerBridge.
        target: the base model, likewise. Models given by name are opened one after the other, the source first, and
            the source is let go before the target is opened.
        concept: a contrast set, the name of a built-in concept, or a concept file.
        texts: generic texts that both models read to fit the map; None takes the shipped plain-English corpus.
        neutral: texts on which damage is measured; None holds out some of ``texts``.
        settings: what may be chosen, and how it is measured.
        opening: keyword arguments of :func:`contrans_lens.models.open_model` for models given by name.
        pair: maps that were fitted before (:func:`read_pair`), so that several concepts share them.
        names: how source and target are called in the result; None takes names or folder names.
        say: told about each step.

    Raises:
        TextError: the concept or the texts cannot be used.
        ModelError: a model cannot be opened.
        SelectionError: the settings name hook points that cannot be used.
    """
    started = time.perf_counter()
    settings = settings or Settings()
    chosen_set = concept if isinstance(concept, ContrastSet) else load_concept(concept)
    splits = split_concept(chosen_set, settings)
    corpus = build_corpus(texts, neutral, settings)
    map_texts = generic_part(corpus.map_texts, settings)
    called = names or (model_name(source), model_name(target))

    say(f"reading {chosen_set.name} in {called[0]}")
    opened = open_model(source, **(opening or {}))
    read_source = read_model(opened, splits, map_texts, settings, states=pair.source if pair else None)
    del opened  # a source that was opened here is let go before the target comes
    say(f"reading {chosen_set.name} in {called[1]}")
    model = open_model(target, **(opening or {}))
    read_target = read_model(model, splits, map_texts, settings, states=pair.target if pair else None)
    say("fitting maps")
    pair = pair or fit_pair(read_source.states, read_target.states, map_texts, settings)
    reading = ConceptReading(splits, read_source.vectors, read_target.vectors)

    norms = dict(zip(pair.target.hook_points, pair.target.residual_norms.tolist(), strict=True))
    say("choosing layers")
    validation = Bench(model, splits.validation.evaluation, corpus.neutral_texts, norms, settings)
    models = (described(pair.source.fingerprint, called[0]), described(pair.target.fingerprint, called[1]))
    if settings.layers == AUTO:
        choice = choose_by_evidence(validation, pair, read_source, read_target, splits, models, settings)
    else:
        choice = choose(validation, pair, reading, settings)
    say(f"measuring at {choice.target}, with controls")
    bench = Bench(model, splits.test.evaluation, corpus.neutral_texts, norms, settings)
    run = _Measured.measure(bench, pair, reading, choice, settings, chosen_set)
    verdict, reason = judge(run.rows, run.share, choice.report)
    return TransplantResult(
        source=models[0],
        target=models[1],
        concept=chosen_set.name,
        hook_points={"source": choice.source, "target": choice.target, "native": choice.native},
        rows=run.rows,
        recovered_share=run.share,
        verdict=verdict,
        reason=reason,
        curves=run.curves,
        layer_table=tuple(cell.to_dict() for cell in choice.table),
        diagnostics=_diagnostics(pair, reading, choice, chosen_set, corpus.neutral_texts),
        items=run.items,
        settings=settings.to_dict(),
        seconds=time.perf_counter() - started,
        peak_memory_mb=peak_memory_mb(),
        command=None,
        layer_report=choice.report,
        vectors=run.vectors,
        map=pair.maps.map(choice.source, choice.target, held_out=pair.held_out_states(choice.source, choice.target)),
    )


def read_pair(source: HookedModel, target: HookedModel, texts: Sequence[str], settings: Settings) -> PairReading:
    """Fit the maps between two opened models once, for any number of concepts.

    Raises:
        TextError: too few texts.
    """
    corpus = build_corpus(texts, [], settings)
    chosen = generic_part(corpus.map_texts, settings)
    return fit_pair(read_states(source, chosen), read_states(target, chosen), chosen, settings)


@dataclass(frozen=True)
class _Measured:
    """What the test items say."""

    rows: tuple[Row, ...]
    share: Share
    curves: tuple[CurvePoint, ...]
    items: tuple[dict[str, Any], ...]
    vectors: dict[str, ConceptVectors]

    @classmethod
    def measure(
        cls,
        bench: Bench,
        pair: PairReading,
        reading: ConceptReading,
        choice: Choice,
        settings: Settings,
        concept: ContrastSet,
    ) -> "_Measured":
        """Measure every row: the two vectors, then the controls against them."""
        own = reading.target.at(choice.native)
        moved = pair.maps.concept(reading.source.at(choice.source), choice.source, choice.target)
        unit_own, unit_moved = unit(own[None]), unit(moved[None])
        at_own, at_moved = bench.solve(choice.native, unit_own), bench.solve(choice.target, unit_moved)
        native, native_scores = bench.row("native", choice.native, unit_own, at_own)
        transplanted, scores = bench.row("transplanted", choice.target, unit_moved, at_moved)
        controls = control_rows(bench, pair, reading, choice, at_moved[0], moved, transplanted.effect)
        rows = [bench.unsteered_row()]
        if concept.prompt is not None:
            rows.append(bench.prompt_row(concept.prompt))
        rows += [*controls, native, transplanted]
        share = ratio_ci(
            scores.effect[0], native_scores.effect[0], bench.groups, level=settings.level, seed=settings.seed
        )
        points = [factor * at_moved[0] for factor in CURVE_FACTORS]
        curves = [
            *bench.curve("transplanted", choice.target, unit_moved, points),
            *bench.curve("native", choice.native, unit_own, [factor * at_own[0] for factor in CURVE_FACTORS]),
        ]
        if settings.curve_draws:
            randoms = random_units(bench, settings.curve_draws, settings.seed)
            curves += bench.curve("random", choice.target, randoms, points)
        vectors = {
            "source": reading.source.select([choice.source]),
            "native": reading.target.select([choice.native]),
            "transplanted": _moved_vectors(reading, pair, choice, moved),
        }
        items = _item_records(bench, {"native": native_scores, "transplanted": scores})
        return cls(tuple(rows), Share(share.value, (share.low, share.high)), tuple(curves), items, vectors)


def _moved_vectors(
    reading: ConceptReading, pair: PairReading, choice: Choice, moved: Float[Tensor, "d_target"]
) -> ConceptVectors:
    norms = pair.target.residual_norms
    place = pair.target.hook_points.index(choice.target)
    return ConceptVectors(
        name=reading.source.name,
        vectors=moved[None].float(),
        hook_points=(choice.target,),
        method=f"transplanted {reading.source.method}",
        fingerprint=pair.target.fingerprint,
        residual_norms=norms[place : place + 1],
    )


def _item_records(bench: Bench, scores: dict[str, Scores]) -> tuple[dict[str, Any], ...]:
    records = []
    for i, item in enumerate(bench.items):
        record: dict[str, Any] = {"prompt": item.prompt, "positive": item.positive, "negative": item.negative}
        record |= {"group": item.group, "unsteered": float(bench.unsteered[i])}
        for name, both in scores.items():
            record |= {f"{name}_plus": float(both.plus[0, i]), f"{name}_minus": float(both.minus[0, i])}
        records.append(record)
    return tuple(records)


def _diagnostics(
    pair: PairReading, reading: ConceptReading, choice: Choice, concept: ContrastSet, neutral: Sequence[str]
) -> dict[str, Any]:
    values = reading_diagnostics(pair, reading, choice.source, choice.target)
    for name, vectors, hook_point in (
        ("source", reading.source, choice.source),
        ("target", reading.target, choice.target),
    ):
        if vectors.quality:
            quality = vectors.quality[vectors.index(hook_point)]
            values[f"{name}_auroc"] = quality.auroc
    values["three_quarters"] = {
        "source": three_quarters(pair.source.hook_points),
        "target": three_quarters(pair.target.hook_points),
    }
    values["text_hashes"] = {
        "concept": concept.content_hash,
        "map": pair.text_hash,
        "neutral": texts_hash(neutral),
    }
    return values


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in megabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
