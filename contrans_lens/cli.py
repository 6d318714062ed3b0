"""The command line: ``contrans-lens demo | transplant | layers | generate | show``.

Exit codes: 0 the command did its work (whatever the verdict), 2 the input cannot be used, 130 interrupted.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from contrans_lens.errors import ContransLensError
from contrans_lens.tables import layers_table, rows_table, runs_tables

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Read a concept in one language model, carry it across an affine map, write it into another.",
)
# Everything meant for people goes to standard error under --json, so that standard output stays machine-readable.
_out = Console()
_err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="print the result as JSON on standard output")]
Out = Annotated[Path, typer.Option("--out", help="folder for results; made if absent")]
Seed = Annotated[int, typer.Option(help="seed of splits, draws and bootstraps")]
Model = Annotated[str, typer.Option(help="hub name, local folder, or embedded:NAME")]
Concept = Annotated[str, typer.Option(help="built-in concept, concept file, or embedded:NAME")]
Texts = Annotated[str | None, typer.Option(help="texts to fit the map on: one a line, or jsonl with 'text'")]
Neutral = Annotated[str | None, typer.Option(help="texts to measure damage on; default: held out of --texts")]
Estimator = Annotated[str, typer.Option(help="how the concept is read")]
Budget = Annotated[float, typer.Option(help="damage allowed, nats per token on neutral text")]
Draws = Annotated[int, typer.Option(help="draws of each control")]
ProcessWeights = Annotated[bool, typer.Option(help="fold norms and centre weights on opening")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: TransformerLens' choice")]
Kind = Annotated[str, typer.Option(help="how models are opened: auto, hooked or bridge")]


@app.command()
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

    with _progress(as_json) as say:
        summary = run_demo(out, seed=seed, scope=scope, command=_command(), say=say)
    if as_json:
        _print_json(summary)
        return
    _out.print(runs_tables(summary["runs"]))
    _out.print(f"report: {out / 'index.html'}   numbers: {out / 'result.json'}")


@app.command()
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
    with _progress(as_json) as say:
        result = run(
            source=inputs.model_reference(source),
            target=inputs.model_reference(target),
            concept=inputs.concept_reference(concept),
            texts=None if texts is None else inputs.text_reference(texts),
            neutral=None if neutral is None else inputs.text_reference(neutral),
            settings=settings,
            opening=opening,
            say=say,
        ).with_command(_command())
        result.save(out)
    if as_json:
        _print_json(result.summary())
        return
    _out.print(str(result), highlight=False, markup=False)
    _out.print(f"report: {out / 'report.html'}   numbers: {out / 'result.json'}")


@app.command()
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
    with _progress(as_json) as say:
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
        ).with_command(_command())
        report.save(out)
    if as_json:
        _print_json(report.summary())
        return
    _out.print(str(report), highlight=False, markup=False)
    _out.print(f"report: {out / 'report.html'}   numbers: {out / 'result.json'}   pairs: {out / 'pairs.csv'}")


@app.command()
def generate(
    model: Model,
    intervention: Annotated[Path, typer.Option(help="a saved intervention, or the folder of a transplant run")],
    prompt: Annotated[list[str], typer.Option(help="may be given several times")],
    strength: Annotated[
        float | None, typer.Option(help="replaces the saved strength; negative is the opposite")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 40,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy")] = 0.0,
    seed: Seed = 0,
    kind: Kind = "auto",
    as_json: Json = False,
) -> None:
    """Generate with an intervention beside without."""
    from dataclasses import replace

    from contrans_lens.interventions import Intervention
    from contrans_lens.interventions import generate as run
    from contrans_lens.models import open_model
    from contrans_lens.pipeline import inputs

    opened = open_model(inputs.model_reference(model), kind=inputs.model_kind(kind))
    folder = intervention / "intervention" if (intervention / "intervention").is_dir() else intervention
    loaded = Intervention.load(folder, opened)
    steered = loaded if strength is None else replace(loaded, strength=strength)
    common: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    plain = run(opened, prompt, (), **common)
    written = run(opened, prompt, (steered,), **common)
    rows = [
        {"prompt": p, "unsteered": a, "steered": b, "strength": steered.strength}
        for p, a, b in zip(prompt, plain.texts, written.texts, strict=True)
    ]
    if as_json:
        _print_json({"generations": rows})
        return
    table = Table("prompt", "unsteered", f"steered ({steered.label}, strength {steered.strength:g})", show_lines=True)
    for row in rows:
        table.add_row(*(_literal(str(row[key])) for key in ("prompt", "unsteered", "steered")))
    _out.print(table)


@app.command()
def show(
    artifact: Annotated[Path, typer.Argument(help="an artifact folder, or the folder of a run")],
    as_json: Json = False,
) -> None:
    """Show what an artifact or a run is, on which models it was made, and its numbers."""
    from contrans_lens.artifacts import load_artifact, read_json, read_manifest
    from contrans_lens.selection.report import LAYERS_SCHEMA

    if (artifact / "result.json").exists():
        summary = read_json(artifact / "result.json")
        if as_json:
            _print_json(summary)
            return
        if summary.get("schema") == LAYERS_SCHEMA:
            _out.print(layers_table(summary))
            _out.print(summary["reason"], highlight=False, markup=False)
            return
        _out.print(runs_tables(summary.get("runs", [summary])))
        _out.print(rows_table(summary))
        return
    manifest = read_manifest(artifact)
    load_artifact(artifact)  # says so when the tensors are damaged
    if as_json:
        _print_json(manifest)
        return
    _out.print(f"{manifest['kind']} (schema {manifest['schema']}), tensors:")
    for name, tensor in manifest["tensors"].items():
        _out.print(f"  {name}: {tensor['dtype']} {tensor['shape']}", highlight=False, markup=False)
    _out.print(json.dumps(manifest["body"], indent=2, ensure_ascii=False), highlight=False, markup=False)


def main() -> None:
    """Entry point: runs a command and turns our own errors into one line and an exit code."""
    try:
        app()
    except ContransLensError as error:
        _err.print(f"contrans-lens: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        _err.print("contrans-lens: interrupted; nothing was half-written")
        sys.exit(EXIT_INTERRUPTED)


def _literal(text: str) -> str:
    """Text with rich's markup switched off."""
    from rich.markup import escape

    return escape(text)


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _command() -> str:
    """The command as it was typed, with the program's public name."""
    return shlex.join(["contrans-lens", *sys.argv[1:]])


class _progress:
    """A status line on standard error that says which step runs; silent where nobody looks."""

    def __init__(self, quiet: bool) -> None:
        self._status = None if quiet or not _err.is_terminal else _err.status("starting")

    def __enter__(self) -> "_progress":
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, step: str) -> None:
        if self._status is not None:
            self._status.update(step)
