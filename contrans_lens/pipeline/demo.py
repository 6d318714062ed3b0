"""The demo: every concept of the embedded world, inside and across the two families, from weak to strong."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from contrans_lens.artifacts import write_json
from contrans_lens.models import open_model
from contrans_lens.pipeline.result import TransplantResult
from contrans_lens.pipeline.settings import Settings
from contrans_lens.pipeline.transplant import peak_memory_mb, read_pair, transplant
from contrans_lens.testbed import concept, concept_names, map_texts, model_path, neutral_texts
from contrans_lens.texts import ContrastSet

DEMO_SCHEMA = "contrans-lens/demo/1"
FAMILIES = ("gpt2", "rotary")
PAIRS = tuple((f"{source}-source", f"{target}-target") for source in FAMILIES for target in FAMILIES)
HEADLINE = PAIRS[0]
SCOPES = ("quick", "default", "full")
N_MAP_TEXTS = 1000
N_NEUTRAL_TEXTS = 12
N_ITEMS = 24
"""Validation and test items of the concepts beside honesty, which is scored on all of its facts."""
DAMAGE_DRAWS = 4
WORKERS = 2

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoTask:
    """One pair of embedded models with the concepts that are carried between them."""

    source: str
    target: str
    concepts: tuple[str, ...]
    seed: int
    out: Path
    command: str | None


def concepts_of(pair: tuple[str, str], scope: str) -> tuple[str, ...]:
    """Which concepts a scope carries across a pair.

    ``quick``: honesty across the headline pair. ``default``: honesty and kindness across every pair, the emotions
    across the headline pair. ``full``: every concept across every pair.
    """
    if scope == "full" or (scope == "default" and pair == HEADLINE):
        return tuple(name for name in concept_names() if scope == "full" or name != "honesty-hard")
    if scope == "default":
        return ("honesty", "kindness")
    return ("honesty",) if pair == HEADLINE else ()


def run_demo(
    out: Path, *, seed: int = 0, scope: str = "default", command: str | None = None, say: Say = lambda step: None
) -> dict[str, Any]:
    """Run the demo and write ``result.json``, ``index.html`` and a folder for each run into ``out``.

    Args:
        out: folder for the results.
        seed: of texts, splits, draws and bootstraps.
        scope: ``quick``, ``default`` or ``full``; see :func:`concepts_of`.
        command: the command that is being run, for the record.
        say: told about each finished run.

    Returns:
        The content of ``result.json``: the headline run at the top level, every run under ``runs``.

    Raises:
        TestbedError: the embedded weights are missing.
        ArtifactError: the folder cannot be written.
    """
    started = time.perf_counter()
    tasks = [
        DemoTask(*pair, part, seed, out, command) for pair in PAIRS for part in _parts(concepts_of(pair, scope)) if part
    ]
    for task in tasks:
        model_path(task.source), model_path(task.target)  # says at once when weights are missing
    results = _run_tasks(tasks, say)
    runs = [(f"{r.source['name']}-to-{r.target['name']}/{r.concept}", r) for r in results]
    from contrans_lens.reports import runs_report

    runs_report(runs, out / "index.html", title="Concepts carried between the embedded models")
    summary: dict[str, Any] = {
        **results[0].summary(),
        "schema": DEMO_SCHEMA,
        "runs": [result.summary() for result in results],
        "seconds": time.perf_counter() - started,
        "peak_memory_mb": max([peak_memory_mb(), *(result.peak_memory_mb for result in results)]),
        "command": command,
    }
    write_json(out / "result.json", summary)
    return summary


def run_pair(task: DemoTask) -> list[TransplantResult]:
    """Carry every concept of a task across its pair; the maps are fitted once."""
    # One thread a process: two processes on two cores do more than two threads on small matrices, and the sums are
    # added in the same order on every machine.
    torch.set_num_threads(1)
    base = Settings(seed=task.seed, max_neutral_texts=N_NEUTRAL_TEXTS, damage_draws=DAMAGE_DRAWS, curve_draws=3)
    source, target = (open_model(model_path(name)) for name in (task.source, task.target))
    texts, neutral = map_texts(N_MAP_TEXTS, seed=task.seed), neutral_texts(N_NEUTRAL_TEXTS, seed=task.seed)
    pair = read_pair(source, target, texts, base)
    results = []
    for name in task.concepts:
        contrasts = ContrastSet.from_dict(concept(name, seed=task.seed))
        is_headline = name == "honesty"
        settings = base if is_headline else replace(base, curve_draws=0)
        result = transplant(
            source,
            target,
            contrasts if is_headline else thinned(contrasts, N_ITEMS),
            texts,
            neutral=neutral,
            settings=settings,
            pair=pair,
            names=(task.source, task.target),
        ).with_command(task.command)
        result.save(task.out / f"{task.source}-to-{task.target}" / name)
        results.append(result)
    return results


def thinned(contrasts: ContrastSet, n: int) -> ContrastSet:
    """The same set with at most ``n`` validation and ``n`` test items, taken evenly over the list."""
    kept = []
    for part in ("validation", "test"):
        items = [item for item in contrasts.evaluation if item.split == part]
        places = {int(i * len(items) / n) for i in range(n)} if len(items) > n else range(len(items))
        kept += [items[i] for i in sorted(places)]
    return replace(contrasts, evaluation=tuple(kept))


def _parts(concepts: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Honesty and kindness, and the rest: two tasks of a pair that may run side by side."""
    return concepts[:2], concepts[2:]


def _run_tasks(tasks: Sequence[DemoTask], say: Say) -> list[TransplantResult]:
    """Run tasks in separate processes; the results come back in the order of the tasks."""
    found: dict[int, list[TransplantResult]] = {}
    context = multiprocessing.get_context("spawn")
    longest_first = sorted(range(len(tasks)), key=lambda number: -len(tasks[number].concepts))
    with ProcessPoolExecutor(min(WORKERS, len(tasks)), mp_context=context) as pool:
        waiting = {pool.submit(run_pair, tasks[number]): number for number in longest_first}
        for future in as_completed(waiting):
            number = waiting[future]
            found[number] = future.result()
            say(f"{len(found)} of {len(tasks)} parts done: {tasks[number].source} -> {tasks[number].target}")
    return [result for number in range(len(tasks)) for result in found[number]]
