"""Commands that measure what steering does and costs: ``sweep`` and ``evaluate``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contrans_lens.cli.console import Progress, print_json, print_text, typed_command
from contrans_lens.cli.options import (
    SPEC,
    Device,
    Draws,
    Estimator,
    HookPoints,
    Interventions,
    Json,
    Kind,
    Limit,
    Model,
    Neutral,
    NewTokens,
    NormTexts,
    Out,
    ProcessWeights,
    ReadConcept,
    Seed,
)
from contrans_lens.errors import TradeoffError

if TYPE_CHECKING:
    from contrans_lens.evaluation import Cell
    from contrans_lens.models import HookedModel
    from contrans_lens.tradeoff import Executor
    from contrans_lens.tradeoff.comparison_result import Signs

_NEUTRAL_TOKENS = 64  # of each neutral text, as in a transplant: damage of both can be compared
_PROMPT_TOKENS = 8  # of each neutral text, where concepts are removed from the end of a prompt on
_NOTHING = "nothing would be written: give --intervention FOLDER, or --concept NAME to read one here."


def sweep(
    model: Model,
    out: Out,
    intervention: Interventions = None,
    concept: ReadConcept = None,
    texts: NormTexts = None,
    hook_point: HookPoints = None,
    estimator: Estimator = "mean_difference",
    alignment: Annotated[
        str | None, typer.Option(help=f"what is steered: {SPEC}; default: answers:CONCEPT of --concept")
    ] = None,
    helpfulness: Annotated[str | None, typer.Option(help="what it may cost: KIND:PATH")] = None,
    helpfulness_column: Annotated[
        str | None, typer.Option(help="reading of helpfulness that is fitted, such as p_mean; default: its own")
    ] = None,
    also: Annotated[list[str] | None, typer.Option(help="further behaviours, KIND:PATH; several times")] = None,
    neutral: Neutral = None,
    largest: Annotated[float, typer.Option(help="largest strength, in mean residual norms or the saved unit")] = 1.0,
    points: Annotated[int, typer.Option(help="strengths on each side of zero, denser near it")] = 8,
    strengths: Annotated[
        str | None, typer.Option(help="the strengths themselves, symmetric with 0, such as -1,-0.5,0,0.5,1")
    ] = None,
    draws: Draws = 20,
    weight: Annotated[float, typer.Option(help="worth of a unit of helpfulness in units of behaviour")] = 1.0,
    epsilon: Annotated[float, typer.Option(help="share of helpfulness that may be lost")] = 0.05,
    limit: Limit = None,
    max_new_tokens: NewTokens = 40,
    work: Annotated[Path | None, typer.Option(help="folder of finished units; default: OUT/units")] = None,
    strengths_per_unit: Annotated[int | None, typer.Option(help="strengths computed in one go; default: all")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="compute units on the workers of a Ray cluster")] = False,
    ray_address: Annotated[str | None, typer.Option(help="of a running cluster; default: one is started here")] = None,
    cpus: Annotated[float, typer.Option(help="CPUs of a Ray worker")] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs of a Ray worker; a share lets workers use one together")] = 0.0,
    seed: Seed = 0,
    kind: Kind = "auto",
    process_weights: ProcessWeights = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Sweep the steering strength: behaviour, cost, their laws and the useful regime. Resumes where it was stopped."""
    from contrans_lens.models import open_model
    from contrans_lens.models.naming import model_name
    from contrans_lens.pipeline import inputs
    from contrans_lens.pipeline.behaviour_inputs import BehaviourOptions, as_helpfulness, read_behaviours
    from contrans_lens.pipeline.direction_inputs import at_strength, random_families
    from contrans_lens.tradeoff import AnalysisSettings, analyse, family, strength_grid, tradeoff_plan
    from contrans_lens.tradeoff import sweep as run

    steered = alignment or (None if concept is None else f"answers:{concept}")
    if steered is None:
        raise TradeoffError("give --alignment KIND:PATH, what is steered; with --concept it may be left out.")
    if not intervention and concept is None:
        raise TradeoffError(_NOTHING)
    grid = strength_grid(largest, points) if strengths is None else _strengths(strengths)
    specs = [steered, *([] if helpfulness is None else [helpfulness]), *(also or [])]
    behaviours = read_behaviours(specs, BehaviourOptions(limit, seed, max_new_tokens))
    useful = None if helpfulness is None else as_helpfulness(behaviours[1], helpfulness_column)
    opening: dict[str, Any] = {"kind": inputs.model_kind(kind), "process_weights": process_weights, "device": device}
    reference = inputs.model_reference(model)
    with Progress(as_json) as say:
        say(f"opening {model}")
        opened = open_model(reference, **opening)
        found = _directions(opened, intervention, concept, texts, hook_point, estimator, neutral, seed)
        directions = {name: at_strength(cell, 1.0) for name, cell in found.cells.items()}
        swept = dict(directions)
        for name, cells in random_families(directions, draws, seed).items():
            swept |= family(name, cells)
        plan = tradeoff_plan(
            swept,
            behaviours[0],
            grid,
            helpfulness=useful,
            neutral=found.neutral,
            others=behaviours[1 if useful is None else 2 :],
            max_neutral_tokens=_NEUTRAL_TOKENS,
            strengths_per_unit=strengths_per_unit,
        )
        distributed = ray or ray_address is not None
        with _executor(distributed, ray_address, cpus, gpus) as executor:
            result = run(
                reference if distributed else opened,
                plan,
                work=work or out / "units",
                executor=executor,
                opening=opening if distributed else None,
                name=model_name(reference),
                say=say,
            )
        say("fitting the laws")
        settings = AnalysisSettings(weight=weight, epsilon=epsilon, seed=seed)
        analysis = analyse(replace(result, command=typed_command()), settings)
        analysis.save(out)
    if as_json:
        print_json(analysis.summary())
        return
    print_text(str(analysis))
    print_text(f"report: {out / 'report.html'}   numbers: {out / 'result.json'}   curves: {out / 'curves.csv'}")


def evaluate(
    model: Model,
    behaviour: Annotated[list[str], typer.Option(help=f"what is measured, several times: {SPEC}")],
    out: Out,
    intervention: Interventions = None,
    concept: ReadConcept = None,
    texts: NormTexts = None,
    hook_point: HookPoints = None,
    estimator: Estimator = "mean_difference",
    strength: Annotated[float | None, typer.Option(help="replaces the saved strengths")] = None,
    kl_budget: Annotated[
        float | None, typer.Option(help="solve each strength for this damage, nats per token on neutral text")
    ] = None,
    neutral: Neutral = None,
    draws: Draws = 20,
    limit: Limit = None,
    max_new_tokens: NewTokens = 40,
    seed: Seed = 0,
    kind: Kind = "auto",
    process_weights: ProcessWeights = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure behaviours unsteered, steered with both signs, under random directions, and with words in the prompt.

    Without an intervention or a concept the model is measured unsteered, and with words where a concept has any.
    """
    from contrans_lens.evaluation.behaviours import NeutralText
    from contrans_lens.interventions import Intervention
    from contrans_lens.models import open_model
    from contrans_lens.pipeline import inputs
    from contrans_lens.pipeline.behaviour_inputs import BehaviourOptions, prompt_cue, read_behaviours
    from contrans_lens.pipeline.direction_inputs import RANDOM, at_strength, random_like
    from contrans_lens.tradeoff import Method, compare

    if strength is not None and kl_budget is not None:
        raise TradeoffError("--strength gives the strength and --kl-budget solves it; give one of them.")
    if not intervention and concept is None and (strength is not None or kl_budget is not None):
        raise TradeoffError(f"--strength and --kl-budget set how strongly is written, but {_NOTHING}")
    if concept is not None and strength is None and kl_budget is None:
        raise TradeoffError("a direction read by --concept has no strength yet; give --strength or --kl-budget.")
    behaviours = read_behaviours(behaviour, BehaviourOptions(limit, seed, max_new_tokens))
    cue = prompt_cue([*([] if concept is None else [f"answers:{concept}"]), *behaviour])
    opening: dict[str, Any] = {"kind": inputs.model_kind(kind), "process_weights": process_weights, "device": device}
    with Progress(as_json) as say:
        say(f"opening {model}")
        opened = open_model(inputs.model_reference(model), **opening)
        found = _directions(opened, intervention, concept, texts, hook_point, estimator, neutral, seed)
        cells = found.cells if strength is None else {n: at_strength(c, strength) for n, c in found.cells.items()}
        methods: dict[str, Method] = {**cells}
        # What removes concepts has no vector to draw random ones like, and no minus direction.
        writes = all(isinstance(edit, Intervention) for cell in cells.values() for edit in cell)
        if draws and cells and writes:
            methods[RANDOM] = random_like(next(iter(cells.values())), draws, seed)
        if cue is not None:
            methods["prompt"] = cue
        damage_on = NeutralText(found.neutral, _NEUTRAL_TOKENS, None if writes else _PROMPT_TOKENS)
        signs: Signs = "both" if writes else "plus"
        comparison = compare(opened, methods, behaviours, damage_on, budget=kl_budget, signs=signs, seed=seed, say=say)
        comparison = comparison.with_command(typed_command())
        comparison.save(out)
    if as_json:
        print_json(comparison.summary())
        return
    print_text(str(comparison))
    print_text(f"report: {out / 'report.html'}   rows: {out / 'comparison.csv'}")


@dataclass(frozen=True)
class _Found:
    """What is written into the model, and the texts that show the damage."""

    cells: "dict[str, Cell]"
    neutral: tuple[str, ...]


def _directions(
    model: "HookedModel",
    folders: list[Path] | None,
    concept: str | None,
    texts: str | None,
    hook_points: list[str] | None,
    estimator: str,
    neutral: str | None,
    seed: int,
) -> _Found:
    """Saved interventions, and the concept that is read here, at the strengths that they have; there may be none."""
    from contrans_lens.pipeline import inputs
    from contrans_lens.pipeline.corpus import build_corpus
    from contrans_lens.pipeline.direction_inputs import concept_direction, saved_cells
    from contrans_lens.pipeline.settings import Settings

    generic = None if texts is None else inputs.text_reference(texts)
    given = None if neutral is None else inputs.text_reference(neutral)
    cells = saved_cells(folders or [], model)
    if concept is not None:
        contrasts = inputs.concept_reference(concept, seed=seed)
        if contrasts.name in cells:
            raise TradeoffError(f"an intervention is labelled {contrasts.name!r} like the concept; leave one out.")
        cells[contrasts.name] = concept_direction(
            model, contrasts, generic, hook_points=hook_points or (), estimator=estimator, seed=seed
        )
    elif hook_points:
        raise TradeoffError("--hook-point says where a concept is written; saved interventions have their own.")
    return _Found(cells, build_corpus(generic, given, Settings(seed=seed)).neutral_texts)


def _strengths(given: str) -> tuple[float, ...]:
    """The strengths of an option, ascending."""
    try:
        return tuple(sorted(float(each) for each in given.split(",")))
    except ValueError as error:
        raise TradeoffError(f"--strengths is {given!r}; numbers with commas between were expected.") from error


@contextmanager
def _executor(ray: bool, address: str | None, cpus: float, gpus: float) -> "Iterator[Executor | None]":
    """A cluster where one was asked for; None computes here."""
    if not ray:
        yield None
        return
    from contrans_lens.tradeoff import RayExecutor

    with RayExecutor(address, cpus=cpus, gpus=gpus) as executor:
        yield executor
