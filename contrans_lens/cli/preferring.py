"""Command that aligns a model with preferences: ``rahf``."""

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from contrans_lens.cli import console
from contrans_lens.cli.console import Progress, print_json, print_text, typed_command
from contrans_lens.cli.options import Device, Json, Out, Seed
from contrans_lens.errors import RahfError
from contrans_lens.tables import rahf_tables

_DUAL_TOKENS = 64  # of an answer, as in the paper's Dual


def rahf(
    base: Annotated[str, typer.Option(help="model to align: hub name, local folder, or embedded:NAME")],
    preferences: Annotated[
        str, typer.Option(help="file (hh-rlhf, UltraFeedback, triples), or embedded:kindness, :honesty or :both")
    ],
    out: Out,
    method: Annotated[
        str, typer.Option(help="scit, dual, or cues: the base under p+ and p- is read itself, without step 1")
    ] = "scit",
    positive: Annotated[str | None, typer.Option(help="p+: asks for answers like the chosen ones; \\n breaks")] = None,
    negative: Annotated[str | None, typer.Option(help="p-: asks for answers like the rejected ones")] = None,
    instructions: Annotated[
        Path | None, typer.Option(help="JSON with positive and negative, or such by topic; default: general ones")
    ] = None,
    alpha: Annotated[
        str, typer.Option(help="how many times the differences to move, 5 in the paper; auto: chosen on validation")
    ] = "auto",
    loss: Annotated[str, typer.Option(help="of the fit: norm or mse")] = "norm",
    where: Annotated[
        str, typer.Option(help="tokens to move at: predicting (those before an answer's), or answer (the paper)")
    ] = "predicting",
    answers: Annotated[str, typer.Option(help="answers to read: chosen, rejected or both")] = "chosen",
    hook_point: Annotated[
        list[str] | None,
        typer.Option("--hook-point", help="where to read and move; several times; default: the paper's layers, scaled"),
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="of the adapters; their scale is twice the rank")] = 8,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="updates of step 1 and of the fit; default 450, SCIT's (embedded models: 100)"),
    ] = None,
    fit_steps: Annotated[int | None, typer.Option(min=1, help="updates of the fit, where others than --steps")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="of step 1 and of the fit; default 3e-4, SCIT's (embedded models: 1e-3)")
    ] = None,
    fit_learning_rate: Annotated[
        float | None, typer.Option(help="of the fit, where another than --learning-rate")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="pairs in one pass of a process; default 16")] = None,
    accumulation: Annotated[
        int | None,
        typer.Option(min=1, help="batches of one update; default 4, SCIT's (embedded models: 1)"),
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, help="most tokens of an answer; default 512, of dual's differences 64")
    ] = None,
    neutral: Annotated[
        str | None,
        typer.Option(help="texts to measure damage on; default: not measured (embedded models: embedded:neutral)"),
    ] = None,
    controls: Annotated[int, typer.Option(min=0, help="runs of each control: shuffled labels, random directions")] = 1,
    keep: Annotated[
        str,
        typer.Option(
            help="how differences are kept on disk: float32, float16, bfloat16; or nothing: computed when needed"
        ),
    ] = "float32",
    dtype: Annotated[
        str, typer.Option(help="of the models' weights: float32 or bfloat16; adapters are float32 all the same")
    ] = "float32",
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many pairs; embedded: training pairs")] = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Align a model with preferences by matching the activity that they call up (RAHF).

    The result is an adapter in OUT/adapter, which the other commands take for a model. The same command goes on where
    it was broken off.
    """
    from contrans_lens.artifacts import require_writable
    from contrans_lens.pipeline import Settings, inputs
    from contrans_lens.pipeline.inputs import EMBEDDED
    from contrans_lens.pipeline.preference_inputs import (
        alpha_reference,
        instructions_reference,
        names_reference,
        preferences_reference,
        training_reference,
    )
    from contrans_lens.rahf.align import align
    from contrans_lens.rahf.processes import Processes
    from contrans_lens.rahf.training import LoraSettings

    require_writable(out)
    tuning: dict[str, Any] = {
        "steps": steps,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "accumulation": accumulation,
        "max_answer_tokens": answer_tokens,
    }
    own = {"steps": fit_steps, "learning_rate": fit_learning_rate}
    fitting = tuning | {name: value for name, value in own.items() if value is not None}
    if method == "dual" and answer_tokens is None:
        fitting["max_answer_tokens"] = _DUAL_TOKENS
    settings: dict[str, Any] = {
        **names_reference(method, loss, where, answers),
        "instructions": instructions_reference(preferences, positive, negative, instructions),
        "alpha": alpha_reference(alpha),
        "hook_points": hook_point or None,
        "lora": LoraSettings(rank=rank, alpha=2 * rank),
        "tuning": training_reference(base, **tuning),
        "fitting": training_reference(base, **fitting),
        "controls": controls,
        **_precision(keep, dtype),
        "seed": seed,
        "device": device,
    }
    corpus = f"{EMBEDDED}neutral" if neutral is None and base.startswith(EMBEDDED) else neutral
    texts = () if corpus is None else inputs.text_reference(corpus)[: Settings().max_neutral_texts]
    given = preferences_reference(preferences, limit=limit, seed=seed)
    speaks = Processes.in_environment().is_main
    if speaks and given.report is not None:
        console.err.print(str(given.report), highlight=False, markup=False, soft_wrap=True)
    with Progress(as_json or not speaks) as say:
        result = align(inputs.model_reference(base), given, out, neutral=texts, say=say, **settings)
        if speaks:
            say("writing the report")
            result = result if result.command else result.with_command(typed_command())
            result.save()
    if not speaks:
        return
    if as_json:
        print_json(result.summary())
        return
    print_rahf(result.summary())
    print_text(f"report: {out / 'report.html'}   adapter: {result.adapter}")


def _precision(keep: str, dtype: str) -> dict[str, Any]:
    """How differences are kept and models are opened, as :func:`~contrans_lens.rahf.align.align` takes it."""
    from contrans_lens.rahf.settings import Keep
    from contrans_lens.rahf.training import DTYPES

    for option, given, known in (("keep", keep, get_args(Keep)), ("dtype", dtype, tuple(DTYPES))):
        if given not in known:
            raise RahfError(f"--{option} is {given!r}; choose one of {', '.join(known)}.")
    return {"keep": keep, "dtype": DTYPES[dtype]}


def print_rahf(summary: dict[str, Any]) -> None:
    """Print the summary of a run: scores, cost, the verdict and what to beware of."""
    console.out.print(rahf_tables(summary))
    print_text(f"{summary['verdict']}: {summary['reason']}")
    for note in summary["cautions"]:
        print_text(f"beware: {note}")
