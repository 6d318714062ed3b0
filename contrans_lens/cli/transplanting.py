"""Commands that carry concepts: ``demo``, ``transplant`` and ``layers``."""

from pathlib import Path
from typing import Annotated

import typer

from contrans_lens.cli import console
from contrans_lens.cli.console import Progress, print_json, print_text, typed_command
from contrans_lens.cli.options import (
    Budget,
    Concept,
    Device,
    Draws,
    Estimator,
    Json,
    Kind,
    Model,
    Neutral,
    Out,
    ProcessWeights,
    Seed,
    Texts,
)
from contrans_lens.tables import runs_tables


def demo(
    out: Out = Path("out/demo"),
    seed: Seed = 0,
    scope: Annotated[
        str, typer.Option(help="quick: honesty on one pair; default; full: every concept on every pair, minutes")
    ] = "default",
    as_json: Json = False,
) -> None:
    """Transplant concepts between the embedded models: no network, no other files."""
    from contrans_lens.pipeline.demo import run_demo

    with Progress(as_json) as say:
        summary = run_demo(out, seed=seed, scope=scope, command=typed_command(), say=say)
    if as_json:
        print_json(summary)
        return
    console.out.print(runs_tables(summary["runs"]))
    console.out.print(f"report: {out / 'index.html'}   numbers: {out / 'result.json'}")


def transplant(
    source: Model,
    target: Model,
    concept: Concept,
    out: Out,
    texts: Texts = None,
    neutral: Neutral = None,
    layers: Annotated[
        str, typer.Option(help="sweep, auto, three-quarters, or SOURCE_HOOK_POINT,TARGET_HOOK_POINT")
    ] = "sweep",
    estimator: Estimator = "mean_difference",
    map_method: Annotated[str, typer.Option("--map", help="ols, ridge, reduced_rank or procrustes")] = "ridge",
    strength: Annotated[
        float | None,
        typer.Option(help="norm of the vector over the residual norm; default: solved for --kl-budget"),
    ] = None,
    kl_budget: Budget = 0.05,
    draws: Draws = 20,
    seed: Seed = 0,
    kind: Kind = "auto",
    process_weights: ProcessWeights = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Carry a concept from SOURCE to TARGET and measure it against its controls."""
    from contrans_lens.pipeline import Settings, inputs
    from contrans_lens.pipeline import transplant as run

    settings = Settings(
        layers=layers,
        estimator=estimator,
        map_method=map_method,
        strength=strength,
        kl_budget=kl_budget,
        draws=draws,
        seed=seed,
    )
    opening = {"kind": kind, "process_weights": process_weights, "device": device}
    with Progress(as_json) as say:
        result = run(
            source=inputs.model_reference(source),
            target=inputs.model_reference(target),
            concept=inputs.concept_reference(concept),
            texts=None if texts is None else inputs.text_reference(texts),
            neutral=None if neutral is None else inputs.text_reference(neutral),
            settings=settings,
            opening=opening,
            say=say,
        ).with_command(typed_command())
        result.save(out)
    if as_json:
        print_json(result.summary())
        return
    print_text(str(result))
    console.out.print(f"report: {out / 'report.html'}   numbers: {out / 'result.json'}")


def layers(
    source: Model,
    target: Model,
    concept: Concept,
    out: Out,
    texts: Texts = None,
    neutral: Neutral = None,
    measure: Annotated[str, typer.Option(help="pairs that are written: shortlist, survey or all")] = "shortlist",
    shortlist: Annotated[int, typer.Option(help="most pairs that are written with controls")] = 6,
    estimator: Estimator = "mean_difference",
    probe: Annotated[str, typer.Option(help="ridge, logistic, mean_difference or lda")] = "ridge",
    kl_budget: Budget = 0.05,
    draws: Draws = 20,
    alpha: Annotated[float, typer.Option(help="level of every gate")] = 0.05,
    seed: Seed = 0,
    kind: Kind = "auto",
    process_weights: ProcessWeights = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Choose the layers to read and to write by evidence, or find that no pair works. Resumes where it was stopped."""
    from contrans_lens.pipeline import LayerSettings, Settings, inputs, select_layers

    settings = LayerSettings(
        transplant=Settings(estimator=estimator, kl_budget=kl_budget, seed=seed),
        measure=measure,
        shortlist=shortlist,
        draws=draws,
        alpha=alpha,
        probe=probe,
    )
    with Progress(as_json) as say:
        report = select_layers(
            inputs.model_reference(source),
            inputs.model_reference(target),
            inputs.concept_reference(concept),
            None if texts is None else inputs.text_reference(texts),
            neutral=None if neutral is None else inputs.text_reference(neutral),
            settings=settings,
            opening={"kind": kind, "process_weights": process_weights, "device": device},
            work=out / "stages",
            say=say,
        ).with_command(typed_command())
        report.save(out)
    if as_json:
        print_json(report.summary())
        return
    print_text(str(report))
    console.out.print(f"report: {out / 'report.html'}   numbers: {out / 'result.json'}   pairs: {out / 'pairs.csv'}")
