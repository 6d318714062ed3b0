"""Command that takes concepts out of a model while it writes: ``pace``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from contrans_lens.cli import console
from contrans_lens.cli.console import Progress, print_json, print_text, typed_command
from contrans_lens.cli.options import Alpha, Device, Json, Kind, Model, OmpK, ProcessWeights, Seed, Tau
from contrans_lens.tables import pace_tables


def pace(
    model: Model,
    dictionary: Annotated[Path, typer.Option(help="folder of a concept dictionary of this model")],
    prompt: Annotated[list[str] | None, typer.Option(help="text to continue; several times")] = None,
    prompts: Annotated[str | None, typer.Option(help="file of prompts: one a line, or jsonl with 'text'")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="take out exactly this concept; several times")] = None,
    examples: Annotated[
        list[str] | None, typer.Option(help="take out what is near to this concept; several times")
    ] = None,
    counterexamples: Annotated[
        list[str] | None, typer.Option(help="beside --examples: a concept that is to stay; several times")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="take out what this file scores high: .jsonl, .csv or .json, in [-1, 1]")
    ] = None,
    partition: Annotated[Path | None, typer.Option(help="take out what this saved partition says")] = None,
    default_score: Annotated[
        float | None, typer.Option(help="of concepts that --scores does not name; default: refused")
    ] = None,
    most: Annotated[int | None, typer.Option(help="at most so many concepts; default 50, the paper's")] = None,
    at_least: Annotated[float | None, typer.Option(help="only concepts that score so; default: above 0")] = None,
    task: Annotated[str | None, typer.Option(help="what is to be removed, in words, for the report")] = None,
    hook_point: Annotated[
        list[str] | None,
        typer.Option("--hook-point", help="where to act; several times; default: all of the dictionary's"),
    ] = None,
    solver: Annotated[str, typer.Option(help="elastic-net, omp, projection or addition")] = "elastic-net",
    alpha: Alpha = None,
    tau: Tau = None,
    k: OmpK = None,
    coefficient: Annotated[
        float | None, typer.Option(help="addition: what is taken out, in units of the activation's norm")
    ] = None,
    mode: Annotated[str, typer.Option(help="when to decompose: per_prompt (the paper) or per_token")] = "per_prompt",
    strength: Annotated[float, typer.Option(help="share of what is found that is taken out")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 40,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy")] = 0.0,
    controls: Annotated[int, typer.Option(min=0, help="runs without as many other concepts, drawn at random")] = 1,
    neutral: Annotated[
        str | None, typer.Option(help="texts to measure damage on, or embedded:neutral; default: not measured")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="prompts in one pass")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the report and the numbers; default: only print")] = None,
    seed: Seed = 0,
    kind: Kind = "auto",
    process_weights: ProcessWeights = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Continue prompts with and without unwanted concepts (PaCE).

    What is unwanted is said in one way: --remove, --examples, --scores or --partition.
    """
    from contrans_lens.artifacts import require_writable
    from contrans_lens.models import open_model
    from contrans_lens.pace.dictionary import ConceptDictionary
    from contrans_lens.pace.run import remove_concepts
    from contrans_lens.pipeline import Settings, inputs
    from contrans_lens.pipeline.pace_inputs import PartitionChoice, mode_reference, prompts_reference, solver_reference

    choice = PartitionChoice(
        remove=tuple(remove or ()),
        examples=tuple(examples or ()),
        scores=scores,
        saved=partition,
        counterexamples=tuple(counterexamples or ()),
        most=most,
        at_least=at_least,
        default_score=default_score,
        task=task,
    )
    chosen = solver_reference(solver, alpha=alpha, tau=tau, k=k, coefficient=coefficient)
    when, texts = mode_reference(mode), prompts_reference(prompt or (), prompts)
    measured = () if neutral is None else inputs.text_reference(neutral)[: Settings().max_neutral_texts]
    opening: dict[str, Any] = {"kind": inputs.model_kind(kind), "process_weights": process_weights, "device": device}
    reference = inputs.model_reference(model)
    if out is not None:
        require_writable(out)
    with Progress(as_json) as say:
        say(f"opening {dictionary}")
        atoms = ConceptDictionary.open(dictionary)
        wanted = choice.partition(atoms)
        say(f"opening {model}")
        opened = open_model(reference, **opening)
        say("writing with and without the concepts")
        run = remove_concepts(
            opened,
            texts,
            atoms,
            wanted,
            hook_point or None,
            solver=chosen,
            mode=when,
            strength=strength,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            batch_size=batch_size,
            controls=controls,
            neutral=measured,
            seed=seed,
        ).with_command(typed_command())
        if out is not None:
            say("writing the report")
            run.save(out)
    if as_json:
        print_json(run.summary())
        return
    from contrans_lens.pace.cautions import weak_points

    print_pace(run.summary())
    for note in weak_points(run):
        print_text(f"beware: {note}")
    if out is not None:
        print_text(f"report: {out / 'report.html'}   numbers: {out / 'result.json'}   concepts: {out / 'concepts.csv'}")


def print_pace(summary: dict[str, Any]) -> None:
    """Print the summary of a run: texts as they are, then tables of what was removed and of damage."""
    print_text(f"{summary['model']['name']}: {summary['task']}")
    n_shown = 8
    names = summary["undesirable"]
    more = f", and {len(names) - n_shown} more" if len(names) > n_shown else ""
    print_text(f"undesirable ({summary['rule']}): {', '.join(names[:n_shown])}{more}")
    for row in summary["texts"]:
        width = max(map(len, row))
        print_text("\n".join(f"  {name:{width}s}  {text!r}" for name, text in row.items()))
    console.out.print(pace_tables(summary))
