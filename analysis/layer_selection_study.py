"""Which layers, chosen how? Layer selection on the embedded family, on a real pair, and on pairs whose answer is known.

Parts, each a list of runs. A run that is finished is kept in ``--out`` and not made again; ``summary`` puts the
runs together into ``analysis/layers``. From the checkout:

    python analysis/layer_selection_study.py embedded --out out/layers     every pair of families, both directions
    python analysis/layer_selection_study.py real --out out/layers         two TinyStories models, both directions
    python analysis/layer_selection_study.py negative --out out/layers     nothing to be found, many seeds
    python analysis/layer_selection_study.py shuffled --out out/layers     the first gate alone, under shuffled labels
    python analysis/layer_selection_study.py planted --out out/layers      a rotated copy: everything to be found
    python analysis/layer_selection_study.py summary --out out/layers
"""

import argparse
import logging
import multiprocessing
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from contrans_lens.artifacts import read_json, write_json
from contrans_lens.errors import ContransLensError
from contrans_lens.evaluation import wilson_ci
from contrans_lens.layers import probe_layers
from contrans_lens.models import open_model, residual_hook_points
from contrans_lens.pipeline import LayerSettings, Settings, select_layers, split_concept
from contrans_lens.pipeline.demo import thinned
from contrans_lens.residuals import capture
from contrans_lens.selection import LayerReport
from contrans_lens.testbed import concept, map_texts, model_path, neutral_texts
from contrans_lens.testbed.variants import rotated, untrained
from contrans_lens.texts import ContrastSet

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
PARTS = ("embedded", "real", "negative", "planted")
FAMILIES = ("gpt2", "rotary")
N_MAP_TEXTS, N_NEUTRAL, N_ITEMS = 1000, 12, 24
NEGATIVE_SEEDS, PLANTED_SEEDS = 20, 2
CONCEPTS = ("honesty", "honesty-hard", "kindness", "happiness", "sadness", "fear")
CONCEPTS_BACK = ("honesty", "kindness", "happiness")
"""From the larger to the smaller models; honesty is asked of facts that the small ones do not know."""
NEGATIVE_CONCEPTS = ("honesty", "kindness")
REAL_BUDGET = 0.1

log = logging.getLogger("layers")


@dataclass(frozen=True)
class Task:
    """One selection."""

    part: str
    source: str
    target: str
    concept: str
    seed: int = 0
    kind: str = ""
    """Of a negative control: ``untrained target``, ``untrained source`` or ``shuffled labels``; of a real run: where
    the contrasts are read."""

    @property
    def name(self) -> str:
        """Good for a file name."""
        words = (self.part, self.kind, self.source, self.target, self.concept, str(self.seed))
        return "-".join(word.replace(" ", "_") for word in words if word)


def tasks(part: str) -> list[Task]:
    """The runs of a part."""
    if part == "embedded":
        pairs = [(f"{s}-source", f"{t}-target") for s in FAMILIES for t in FAMILIES]
        forth = [Task(part, s, t, name) for s, t in pairs for name in CONCEPTS]
        return forth + [Task(part, t, s, name) for s, t in pairs for name in CONCEPTS_BACK]
    if part == "real":
        models = ("stories-260k", "storychars-1m")
        return [Task(part, s, t, "happiness", kind=k) for s, t in (models, models[::-1]) for k in ("decision", "word")]
    if part == "planted":
        # The small model knows no fact that honesty is asked of, so its own vector does nothing there either.
        known = (("rotary-source", "kindness"), ("rotary-target", "kindness"), ("rotary-target", "honesty"))
        return [Task(part, m, f"{m} rotated", name, seed) for seed in range(PLANTED_SEEDS) for m, name in known]
    kinds = ("untrained target", "untrained source", "shuffled labels")
    concepts = [NEGATIVE_CONCEPTS[seed % len(NEGATIVE_CONCEPTS)] for seed in range(NEGATIVE_SEEDS)]
    every = [
        Task(part, "gpt2-source", "gpt2-target", name, seed, kind)
        for seed, name in enumerate(concepts)
        for kind in kinds
    ]
    return sorted(every, key=lambda task: task.kind == kinds[2])  # shuffled labels are also counted by `shuffled`


def run(task: Task, out: Path) -> str:
    """Make one selection and write what the summary needs; returns a line for the log."""
    torch.set_num_threads(1)
    report = {"embedded": _embedded, "real": _real, "negative": _negative, "planted": _planted}[task.part](task)
    write_json(out / f"{task.name}.json", _compact(task, report))
    return f"{task.name} ({report.seconds:.0f} s): {report.reason[:140]}"


def _settings(seed: int, **changes: Any) -> LayerSettings:
    return LayerSettings(transplant=Settings(seed=seed, max_neutral_texts=N_NEUTRAL), **changes)


def _contrasts(name: str, seed: int = 0) -> ContrastSet:
    return thinned(ContrastSet.from_dict(concept(name, seed=seed)), N_ITEMS)


def _embedded(task: Task) -> LayerReport:
    return select_layers(
        model_path(task.source),
        model_path(task.target),
        ContrastSet.from_dict(concept(task.concept, seed=0)),
        map_texts(N_MAP_TEXTS, seed=0),
        neutral=neutral_texts(N_NEUTRAL, seed=0),
        settings=_settings(task.seed, measure="survey"),
        names=(task.source, task.target),
    )


def _real(task: Task) -> LayerReport:
    sys.path.insert(0, str(HERE / "tinystories"))
    import stories

    told = stories.load_stories(SHARED / "data/tinystories/stories.jsonl")
    settings = _settings(task.seed, measure="survey")
    base = replace(settings.transplant, kl_budget=REAL_BUDGET, max_neutral_texts=48)
    return select_layers(
        SHARED / "models" / task.source,
        SHARED / "models" / task.target,
        stories.concept(told, read_at=task.kind),
        stories.map_texts(told, "both", seed=task.seed),
        neutral=stories.neutral_texts(told),
        settings=replace(settings, transplant=base),
    )


def _negative(task: Task) -> LayerReport:
    """One thing is broken, everything else is as in the embedded runs."""
    source, target = model_path(task.source), model_path(task.target)
    contrasts = _contrasts(task.concept)
    with tempfile.TemporaryDirectory() as folder:
        if task.kind == "untrained source":
            source = untrained(source, Path(folder) / "source", task.seed)
        elif task.kind == "untrained target":
            target = untrained(target, Path(folder) / "target", task.seed)
        else:
            contrasts = shuffled_labels(contrasts, task.seed)
        return _selected(source, target, contrasts, task)


def _planted(task: Task) -> LayerReport:
    """The target is the source with its residual stream turned."""
    source = model_path(task.source)
    with tempfile.TemporaryDirectory() as folder:
        target = rotated(source, Path(folder) / "target", task.seed)
        return _selected(source, target, _contrasts(task.concept), task)


def _selected(source: Path, target: Path, contrasts: ContrastSet, task: Task) -> LayerReport:
    opened = open_model(source), open_model(target)
    return select_layers(
        *opened,
        contrasts,
        map_texts(N_MAP_TEXTS, seed=0),
        neutral=neutral_texts(N_NEUTRAL, seed=0),
        settings=_settings(task.seed, response_prompts=0),
        names=(task.source, task.target),
    )


def shuffled_labels(contrasts: ContrastSet, seed: int) -> ContrastSet:
    """The same texts with a coin thrown for every pair: heads, and the two change sides.

    Pairs that share a text share their coin, so that no text comes to stand on both sides.
    """
    pairs = list(zip(contrasts.positives, contrasts.negatives, strict=True))
    first = {text: i for i, pair in reversed(list(enumerate(pairs))) for text in pair}
    owner = list(range(len(pairs)))
    for _ in pairs:
        owner = [min(owner[i], *(owner[first[text]] for text in pair)) for i, pair in enumerate(pairs)]
        for (p, n), own in zip(pairs, owner, strict=True):
            owner[first[p]] = min(owner[first[p]], own)
            owner[first[n]] = min(owner[first[n]], own)
    coin = random.Random(seed)
    heads = [coin.random() < 0.5 for _ in pairs]
    thrown = [(n, p) if heads[own] else (p, n) for (p, n), own in zip(pairs, owner, strict=True)]
    return replace(contrasts, positives=tuple(p for p, _ in thrown), negatives=tuple(n for _, n in thrown))


def _compact(task: Task, report: LayerReport) -> dict[str, Any]:
    """What the summary needs of a report, without the tables that the package can make again."""
    summary = report.summary()
    kept = ("works", "reason", "chosen", "best", "gates", "test", "test_native", "test_three_quarters", "shortlist")
    result = {"task": vars(task), **{name: summary[name] for name in kept}}
    result["cells"] = [{k: cell[k] for k in ("source", "target", "effect")} for cell in summary["cells"]]
    result["native"] = [{k: cell[k] for k in ("target", "effect")} for cell in summary["native"]]
    result["predictors"] = summary["predictors"]
    result["evidence"] = {each["name"]: each["values"] for each in summary["evidence"]}
    result["seconds"] = report.seconds
    for name in ("test", "test_native", "test_three_quarters"):
        if result[name] is not None:
            result[name].pop("controls")
    return result


def count_shuffled(out: Path, n_seeds: int = 150) -> None:
    """How often shuffled labels pass the first gate: the most that any shuffled concept can be said to work."""
    source = open_model(model_path("gpt2-source"))
    hook_points = residual_hook_points(source)
    found = {}
    for name in NEGATIVE_CONCEPTS:
        train = split_concept(_contrasts(name), Settings()).train
        states = capture(source, train.texts(), hook_points).tensor()
        place = {text: i for i, text in enumerate(train.texts())}
        passed = 0
        for seed in range(n_seeds):
            shuffled = shuffled_labels(train, seed)
            curve = probe_layers(
                states[torch.tensor([place[text] for text in shuffled.texts()])],
                torch.tensor(shuffled.labels()),
                hook_points,
                groups=shuffled.text_groups(),
                pairs=shuffled.text_pairs(),
                n_permutations=199,
                n_controls=0,
                n_resamples=100,
                seed=seed,
            )
            passed += curve.best_p is not None and curve.best_p <= LayerSettings().alpha
        found[name] = {"shuffles": n_seeds, "readable": passed, "ci": _wilson(passed, n_seeds)}
        log.info("shuffled labels of %s: %d of %d readable", name, passed, n_seeds)
    write_json(out / "shuffled.json", found)


def _wilson(successes: int, n: int) -> list[float]:
    interval = wilson_ci(successes, n)
    return [interval.low, interval.high]


def run_part(part: str, out: Path, jobs: int, only: Callable[[Task], bool] = lambda task: True) -> None:
    """Make the runs of a part that are not there yet, in separate processes."""
    open_tasks = [task for task in tasks(part) if only(task) and not (out / f"{task.name}.json").exists()]
    log.info("%s: %d runs to make", part, len(open_tasks))
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(run, task, out): task for task in open_tasks}
        for future in as_completed(waiting):
            try:
                log.info(future.result())
            except ContransLensError as error:  # the other runs are worth having
                log.error("%s failed: %s", waiting[future].name, error)


def finished(part: str, out: Path) -> Iterator[dict[str, Any]]:
    """Runs of a part that are there."""
    for task in tasks(part):
        path = out / f"{task.name}.json"
        if path.exists():
            yield read_json(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*PARTS, "shuffled", "summary"))
    parser.add_argument("--out", type=Path, default=Path("out/layers"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=None, help="only seeds below this")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.part == "shuffled":
        count_shuffled(arguments.out)
        return
    if arguments.part == "summary":
        sys.path.insert(0, str(HERE / "layers"))
        import layer_summary

        shuffled = arguments.out / "shuffled.json"
        parts = {part: list(finished(part, arguments.out)) for part in PARTS}
        layer_summary.write(parts, read_json(shuffled) if shuffled.exists() else {}, HERE / "layers")
        return
    run_part(
        arguments.part,
        arguments.out,
        arguments.jobs,
        lambda task: arguments.seeds is None or task.seed < arguments.seeds,
    )


if __name__ == "__main__":
    main()
