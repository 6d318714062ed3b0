"""Commands that show what there is: ``generate`` and ``show``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from contrans_lens.cli import console
from contrans_lens.cli.console import literal, print_json, print_text
from contrans_lens.cli.dictionaries import print_dictionary
from contrans_lens.cli.options import Json, Kind, Model, Seed
from contrans_lens.cli.preferring import print_rahf
from contrans_lens.cli.removing import print_pace
from contrans_lens.errors import InterventionError
from contrans_lens.tables import comparison_tables, layers_table, rows_table, runs_tables, tradeoff_table


def generate(
    model: Model,
    prompt: Annotated[list[str], typer.Option(help="may be given several times")],
    intervention: Annotated[
        Path | None, typer.Option(help="a saved intervention, or the folder of a transplant run; default: none")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="replaces the saved strength; negative is the opposite")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 40,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy")] = 0.0,
    seed: Seed = 0,
    kind: Kind = "auto",
    as_json: Json = False,
) -> None:
    """Generate with an intervention beside without; or, where none is given, with the model as it is."""
    from contrans_lens.interventions import generate as run
    from contrans_lens.models import open_model
    from contrans_lens.pace.archive import load_edits
    from contrans_lens.pipeline import inputs

    if intervention is None and strength is not None:
        raise InterventionError("--strength sets how strongly is written, but nothing would be; give --intervention.")
    opened = open_model(inputs.model_reference(model), kind=inputs.model_kind(kind))
    common: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    rows: list[dict[str, Any]]
    if intervention is None:
        texts = run(opened, prompt, (), **common).texts
        rows = [{"prompt": asked, "text": text} for asked, text in zip(prompt, texts, strict=True)]
        headings = ["prompt", "text"]
    else:
        folder = intervention / "intervention" if (intervention / "intervention").is_dir() else intervention
        loaded = load_edits(folder, opened)
        chosen = loaded if strength is None else tuple(each.with_strength(strength) for each in loaded)
        steered = chosen[0]
        plain = run(opened, prompt, (), **common)
        written = run(opened, prompt, chosen, **common)
        rows = [
            {"prompt": p, "unsteered": a, "steered": b, "strength": steered.strength}
            for p, a, b in zip(prompt, plain.texts, written.texts, strict=True)
        ]
        headings = ["prompt", "unsteered", f"steered ({steered.label}, strength {steered.strength:g})"]
    if as_json:
        print_json({"generations": rows})
        return
    table = Table(*headings, show_lines=True)
    for row in rows:
        table.add_row(*(literal(str(value)) for key, value in row.items() if key != "strength"))
    console.out.print(table)


def show(
    artifact: Annotated[Path, typer.Argument(help="an artifact folder, or the folder of a run")],
    as_json: Json = False,
) -> None:
    """Show what an artifact or a run is, on which models it was made, and its numbers."""
    from contrans_lens.artifacts import MANIFEST_NAME, load_artifact, read_json, read_manifest
    from contrans_lens.pace.saving import KIND as DICTIONARY
    from contrans_lens.rahf.training_run import MANIFEST as TRAINED

    if (artifact / "result.json").exists():
        summary = read_json(artifact / "result.json")
        if as_json:
            print_json(summary)
            return
        _printer(summary)(summary)
        return
    if (artifact / MANIFEST_NAME).exists() and read_json(artifact / MANIFEST_NAME).get("kind") == DICTIONARY:
        print_dictionary(artifact, as_json=as_json)  # its tensors lie in several files, and are read from there
        return
    if (artifact / TRAINED).exists():
        _show_training(artifact, as_json=as_json)
        return
    manifest = read_manifest(artifact)
    load_artifact(artifact)  # says so when the tensors are damaged
    if as_json:
        print_json(manifest)
        return
    console.out.print(f"{manifest['kind']} (schema {manifest['schema']}), tensors:")
    for name, tensor in manifest["tensors"].items():
        print_text(f"  {name}: {tensor['dtype']} {tensor['shape']}")
    print_text(json.dumps(manifest["body"], indent=2, ensure_ascii=False))


def _show_training(folder: Path, *, as_json: bool) -> None:
    """Print what a fine-tuned or fitted adapter is; its weights are compared with their checksums."""
    from contrans_lens.artifacts import read_json
    from contrans_lens.rahf.training_run import MANIFEST, read_manifest

    manifest = read_manifest(folder, str(read_json(folder / MANIFEST).get("kind")))
    if as_json:
        print_json(manifest)
        return
    print_text(f"{manifest['kind']}, for plain transformers and peft: {', '.join(manifest['files'])}")
    curves = ("curve", "validation_curve")  # hundreds of numbers; --json prints them
    body = {name: value for name, value in manifest["body"].items() if name not in curves}
    print_text(json.dumps(body, indent=2, ensure_ascii=False))


def _printer(summary: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """What prints a result of this kind."""
    by_kind = {"pace": print_pace, "rahf": print_rahf}
    if summary.get("kind") in by_kind:
        return by_kind[summary["kind"]]
    from contrans_lens.selection.report import LAYERS_SCHEMA
    from contrans_lens.tradeoff.analysis import ANALYSIS_SCHEMA
    from contrans_lens.tradeoff.comparison_result import COMPARISON_SCHEMA

    known = {LAYERS_SCHEMA: _print_layers, ANALYSIS_SCHEMA: _print_tradeoff, COMPARISON_SCHEMA: _print_comparison}
    return known.get(str(summary.get("schema")), _print_runs)


def _print_layers(summary: dict[str, Any]) -> None:
    console.out.print(layers_table(summary))
    print_text(summary["reason"])


def _print_runs(summary: dict[str, Any]) -> None:
    console.out.print(runs_tables(summary.get("runs", [summary])))
    console.out.print(rows_table(summary))


def _print_tradeoff(summary: dict[str, Any]) -> None:
    console.out.print(tradeoff_table(summary))
    for name, each in summary["directions"].items():
        print_text(f"{name}: {each['claim']}")
        if each["helpfulness"] is not None:
            print_text(f"  {each['helpfulness']['verdict']}")
        for flag in each["flags"]:
            if flag["fired"]:
                print_text(f"  flag {flag['name']}: {flag['text']}")


def _print_comparison(summary: dict[str, Any]) -> None:
    at = "the strengths given" if summary["budget"] is None else f"a {summary['measure']} of {summary['budget']:.3g}"
    print_text(f"{summary['model']['name']}, at {at}")
    console.out.print(comparison_tables(summary))
