"""``select_layers``: where the concept is read, where it is written, and whether any pair of layers works."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from contrans_lens.ledger import Ledger
from contrans_lens.models import open_model
from contrans_lens.models.naming import Model, described, model_name
from contrans_lens.pipeline.corpus import build_corpus
from contrans_lens.pipeline.layers.evidence import state_evidence
from contrans_lens.pipeline.layers.response import own_response, response_prompts
from contrans_lens.pipeline.layers.selection import LayerChoice, Responding, Selection, TestScores
from contrans_lens.pipeline.layers.settings import LayerSettings
from contrans_lens.pipeline.reading import (
    PairReading,
    fit_pair,
    generic_part,
    read_model,
    split_concept,
    texts_hash,
)
from contrans_lens.selection import LayerReport, works
from contrans_lens.texts import ContrastSet, load_concept


def select_layers(
    source: Model,
    target: Model,
    concept: ContrastSet | str | Path,
    texts: Sequence[str] | None = None,
    *,
    neutral: Sequence[str] | None = None,
    settings: LayerSettings | None = None,
    opening: dict[str, Any] | None = None,
    pair: PairReading | None = None,
    names: tuple[str, str] | None = None,
    work: Path | None = None,
    say: Callable[[str], None] = lambda step: None,
) -> LayerReport:
    """Choose the source layer to read and the target layer to write by evidence, or say that no pair works.

    Vectors come from training contrasts. States of generic texts and of the contrasts give evidence about every pair
    of layers; a shortlist of pairs is written at the damage budget and scored on validation items, beside control
    draws that are given the same choice of pairs; the best pair is scored once more on test items. The rule is in
    :mod:`contrans_lens.selection.gates`.

    Args:
        source: the aligned model: hub name, local folder, or a live HookedTransformer or TransformerBridge.
        target: the base model, likewise. Models given by name are opened one after the other.
        concept: a contrast set, the name of a built-in concept, or a concept file.
        texts: generic texts that both models read; None takes the shipped plain-English corpus.
        neutral: texts on which damage is measured; None holds out some of ``texts``.
        settings: what is looked at, and how strictly.
        opening: keyword arguments of :func:`contrans_lens.models.open_model` for models given by name.
        pair: maps that were fitted before (:func:`contrans_lens.pipeline.read_pair`) on the same texts.
        names: how source and target are called in the report; None takes names or folder names.
        work: folder that keeps finished stages, so that a killed run goes on where it stopped; None keeps none.
        say: told about each step.

    Raises:
        TextError: the concept or the texts cannot be used.
        ModelError: a model cannot be opened.
        LayerError: too few contrasts for the folds of the probes, or states that cannot be compared.
        SelectionError: nothing of the concept arrives in the target, or it has one layer only.
    """
    started = time.perf_counter()
    settings = settings or LayerSettings()
    base = settings.transplant
    chosen_set = concept if isinstance(concept, ContrastSet) else load_concept(concept)
    splits = split_concept(chosen_set, base)
    corpus = build_corpus(texts, neutral, base)
    map_texts = generic_part(corpus.map_texts, base)
    hashes = {
        "concept": chosen_set.content_hash,
        "map": texts_hash(map_texts),
        "neutral": texts_hash(corpus.neutral_texts),
    }
    # What is read depends on the texts and their split alone, so it serves other settings too.
    read_ledger = Ledger(work, {"texts": hashes, "seed": base.seed})
    ledger = read_ledger.with_key(settings=settings.to_dict())
    called = names or (model_name(source), model_name(target))
    prompts, paired = response_prompts(splits.train, settings.response_prompts)

    say(f"reading {chosen_set.name} in {called[0]}")
    opened = open_model(source, **(opening or {}))
    read_source = read_model(opened, splits, map_texts, base, read_ledger, pair.source if pair else None)
    own = None
    if settings.response_prompts:
        own = own_response(opened, read_source, prompts, corpus.neutral_texts, base, ledger)
    del opened  # a source that was opened here is let go before the target comes
    say(f"reading {chosen_set.name} in {called[1]}")
    model = open_model(target, **(opening or {}))
    read_target = read_model(model, splits, map_texts, base, read_ledger, pair.target if pair else None)
    say("fitting maps, probing, comparing layers")
    pair = pair or fit_pair(read_source.states, read_target.states, map_texts, base)
    evidence = state_evidence(pair, read_source, read_target, splits.train, settings)
    responding = None if own is None else Responding.prepare(model, prompts, paired, own)
    selection = Selection(
        model, pair, read_source, read_target, evidence, settings, corpus.neutral_texts, ledger, responding
    )
    say("writing the shortlist, with controls, on validation items")
    choice = selection.choose(splits.validation)
    say(f"scoring {choice.best[0]} -> {choice.best[1]} on test items")
    scores = selection.score(choice, splits.test)
    described_models = tuple(
        described(reading.fingerprint, name) for reading, name in zip((pair.source, pair.target), called, strict=True)
    )
    report = layer_report(selection, choice, scores, described_models, chosen_set.name, hashes)
    return replace(report, seconds=time.perf_counter() - started)


def layer_report(
    selection: Selection,
    choice: LayerChoice,
    scores: TestScores | None,
    models: tuple[dict[str, Any], ...],
    concept: str,
    hashes: dict[str, str],
) -> LayerReport:
    """Put together what was found.

    Args:
        selection: the evidence.
        choice: what validation items say.
        scores: what test items say; None where somebody else scores the pair, and the last gate is theirs.
        models: source and target as results name them.
        concept: its name.
        hashes: of the texts.
    """
    gates = choice.gates if scores is None else (*choice.gates, scores.gate)
    passed, reason = works(gates)
    evidence, pair = selection.evidence, selection.pair
    return LayerReport(
        source=models[0],
        target=models[1],
        concept=concept,
        source_hook_points=pair.source.hook_points,
        target_hook_points=pair.target.hook_points,
        evidence=(*evidence.evidence, *choice.responses),
        source_probes=evidence.source_probes,
        target_probes=evidence.target_probes,
        similarity=evidence.similarity,
        cells=choice.cells,
        shortlist=choice.shortlist,
        prior=choice.prior,
        gates=gates,
        works=passed,
        reason=reason,
        best=choice.best,
        test=None if scores is None else scores.best,
        test_native=None if scores is None else scores.native,
        test_prior=None if scores is None else scores.prior,
        native=choice.native,
        predictors=choice.predictors,
        warnings=evidence.warnings,
        settings=selection.settings.to_dict(),
        hashes=hashes,
    )
