"""The parts of a tradeoff sweep against doing each strength by itself.

    python analysis/benchmarks/tradeoff_speed.py [--clock cpu] [--only choices] [--out tradeoff_speed.json]

Every row runs both sides on the same work, in turn, and compares their numbers:

- ``choices``: 17 strengths of a direction on multiple-choice items of eight one-token answers. Restarting: one batched
  forward pass per strength, an additive hook, all logits, with a row a choice or (the most competent loop) a row a
  prompt. One at a time, as published code does: one forward pass per strength, item and choice (every so-manieth
  strength is timed and counted so many times).
- ``neutral``: NLL, KL and total variation on neutral text at 17 strengths, against one pass per strength and text batch
  with the unsteered log-probabilities kept.
- ``generations``: greedy generation at 9 strengths, against one batch per strength.
- ``fits``: every law of alignment and helpfulness on 2,000 resampled curves, against ``scipy.optimize.curve_fit`` once
  per law and resample (some resamples are timed and scaled).
- ``ray``: the same sweep here and on two workers of a local Ray cluster, wall clock, start of the cluster apart.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from contrans_lens.evaluation import Cell, scaled, written_vectors
from contrans_lens.evaluation.behaviours import Choices, NeutralText, PairedAnswers
from contrans_lens.evaluation.generating import generate_cells
from contrans_lens.evaluation.norms import mean_norms
from contrans_lens.interventions import generate
from contrans_lens.models import HookedModel, hooks, logits, open_model, resid_post, tokenize
from contrans_lens.testbed import concept, model_path, neutral_texts
from contrans_lens.testbed.world import ANSWERS
from contrans_lens.texts import ChoiceItem, ContrastSet, EvaluationItem
from contrans_lens.tradeoff import Curve, RayExecutor, direction, fit_alignment, fit_helpfulness, strength_grid, sweep
from contrans_lens.tradeoff.plan import SweepPlan
from contrans_lens.tradeoff.planning import tradeoff_plan

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
ROWS = ("choices", "neutral", "generations", "fits", "ray")
LAYER = 2
EVERY = 8  # one at a time: of so many strengths one is timed
RESAMPLES, FITTED = 2000, 20


class Work:
    """A model, a direction and the texts that are measured."""

    def __init__(self, name: str, n_items: int) -> None:
        self.folder = model_path(name)
        self.model: HookedModel = open_model(self.folder)
        self.hook_point = resid_post(LAYER)
        items: list[EvaluationItem] = list(ContrastSet.from_dict(concept("honesty")).evaluation)[:n_items]
        self.pairs = tuple(items)
        self.choices = tuple(_eight(item) for item in items)
        self.neutral = tuple(neutral_texts(24))
        norm = mean_norms(self.model, [tokenize(self.model, list(self.neutral))], [self.hook_point])[self.hook_point]
        vector = torch.randn(self.model.cfg.d_model, generator=torch.Generator().manual_seed(0))
        self.direction: Cell = direction(self.hook_point, vector, residual_norm=norm)
        self.strengths = strength_grid(0.6, 8)
        self.cells = [scaled(self.direction, r) if r else () for r in self.strengths]

    def added(self, cell: Cell) -> dict[str, Callable[[Tensor], Tensor]]:
        """The hook of a plain loop."""
        delta = written_vectors(cell)[0].delta().float() if cell else torch.zeros(self.model.cfg.d_model)
        return {self.hook_point: lambda activation: activation + delta}


def _eight(item: EvaluationItem) -> ChoiceItem:
    """A fact with all eight answers of its relation."""
    answers = next(each for each in ANSWERS.values() if item.positive.strip() in each)
    choices = tuple(f" {answer}" for answer in answers)
    return ChoiceItem(item.prompt, choices, (choices.index(item.positive),), group=item.group)


def choice_row(work: Work) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """Multiple choice: ours, restarting, one at a time."""
    behaviour = Choices(work.choices)
    texts = [item.prompt + choice for item in work.choices for choice in item.choices]
    batch = tokenize(work.model, texts)
    starts = [len(tokenize(work.model, [item.prompt]).tokens[0]) for item in work.choices for _ in item.choices]

    def summed(log_p: Tensor, tokens: Tensor, start: int, length: int) -> Tensor:
        return log_p[start - 1 : length - 1].gather(1, tokens[start:length, None]).sum()

    @torch.no_grad()
    def restarting() -> Tensor:
        found = []
        for cell in work.cells:
            with hooks(work.model, work.added(cell)):
                log_p = logits(work.model, batch).log_softmax(-1)
            rows = zip(log_p, batch.tokens, starts, batch.lengths.tolist(), strict=True)
            found.append(torch.stack([summed(*row) for row in rows]))
        return _restricted(torch.stack(found), work)

    prompts = tokenize(work.model, [item.prompt for item in work.choices])
    answers = torch.stack([batch.tokens[row, start] for row, start in enumerate(starts)]).unflatten(0, (-1, 8))
    ends = prompts.lengths - 1

    @torch.no_grad()
    def by_prompt() -> Tensor:
        found = []
        for cell in work.cells:
            with hooks(work.model, work.added(cell)):
                log_p = logits(work.model, prompts).log_softmax(-1)
            found.append(log_p[torch.arange(len(ends)), ends].gather(1, answers).flatten())
        return _restricted(torch.stack(found), work)

    @torch.no_grad()
    def one_at_a_time() -> Tensor:
        found = []
        for cell in work.cells[::EVERY]:
            with hooks(work.model, work.added(cell)):
                parts = []
                for text, start in zip(texts, starts, strict=True):
                    one = tokenize(work.model, [text])
                    log_p = logits(work.model, one)[0].log_softmax(-1)
                    parts.append(summed(log_p, one.tokens[0], start, one.tokens.shape[1]))
                found.append(torch.stack(parts))
        return _restricted(torch.stack(found), work)

    def ours() -> Tensor:
        return behaviour.measure(work.model, work.cells).column("p_restricted")

    sides: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "a row a choice": restarting,
        "a row a prompt": by_prompt,
        "one at a time": one_at_a_time,
    }
    return sides, {"one at a time": EVERY}


def _restricted(log_p: Tensor, work: Work) -> Tensor:
    n_choices = len(work.choices[0].choices)
    correct = torch.tensor([item.correct[0] for item in work.choices])
    shares = log_p.double().unflatten(1, (-1, n_choices)).softmax(2)
    return shares[:, torch.arange(len(correct)), correct]


def neutral_row(work: Work) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """Neutral text: ours against a pass per strength with the unsteered log-probabilities kept."""
    behaviour = NeutralText(work.neutral)
    batches = [tokenize(work.model, list(work.neutral[start : start + 8])) for start in range(0, len(work.neutral), 8)]

    @torch.no_grad()
    def restarting() -> Tensor:
        base = [logits(work.model, batch).log_softmax(-1) for batch in batches]
        found = []
        for cell in work.cells:
            parts = []
            for batch, p in zip(batches, base, strict=True):
                with hooks(work.model, work.added(cell)):
                    q = logits(work.model, batch).log_softmax(-1)
                real = batch.mask[:, 1:]
                kl = (p.exp() * (p - q)).sum(-1)[:, :-1] * real
                variation = (p.exp() - q.exp()).abs().sum(-1)[:, :-1] / 2 * real
                nll = -q[:, :-1].gather(2, batch.tokens[:, 1:, None])[..., 0] * real
                parts.append(torch.stack([each.sum(1) / real.sum(1) for each in (kl, nll, variation)]))
            found.append(torch.cat(parts, dim=1)[1])
        return torch.stack(found).double()

    return {"ours": lambda: behaviour.measure(work.model, work.cells).column("nll"), "restarting": restarting}, {}


def generation_row(work: Work) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """Greedy generation: strengths side by side against one batch per strength."""
    prompts = [item.prompt for item in work.pairs[:16]]
    cells = work.cells[::2]

    def ours() -> Any:
        return generate_cells(work.model, prompts, cells, max_new_tokens=24).tokens

    def restarting() -> Any:
        made = (generate(work.model, prompts, cell, max_new_tokens=24, batch_size=16) for cell in cells)
        return tuple(each.tokens for each in made)

    return {"ours": ours, "restarting": restarting}, {}


def fit_row() -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """Both fits with their intervals against one ``curve_fit`` per law and resample."""
    r = torch.linspace(-3, 3, 21, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    lean = (0.5 * r[:, None] - 0.3 + 0.5 * torch.randn(1, 100, generator=generator, dtype=torch.float64)).tanh()
    bell = 0.5 / (0.5 + 0.5 * (1 + 0.08 * r[:, None] ** 2)) + 0.1 * torch.randn(21, 100, generator=generator)
    good, cost = Curve(r, lean), Curve(r, bell.double())
    window = (-3.0, 3.0)

    def ours() -> Tensor:
        fit = fit_alignment(good, n_resamples=RESAMPLES)
        fit_helpfulness(cost, window=window, n_resamples=RESAMPLES)
        return torch.tensor([fit.a.value, fit.b0.value], dtype=torch.float64)

    laws: dict[str, tuple[Callable[..., Any], list[float]]] = {
        "line": (lambda x, c, s: c + s * x, [0.0, 0.5]),
        "tanh": (lambda x, a, b: np.tanh(a * x + b), [0.5, 0.0]),
        "plateaus": (lambda x, m, h, a, b: m + h * np.tanh(a * x + b), [0.0, 1.0, 0.5, 0.0]),
    }
    costs: dict[str, tuple[Callable[..., Any], list[float]]] = {
        "parabola": (lambda x, c, s, k: c + s * x - k * x**2, [0.5, 0.0, 0.05]),
        "bell": (lambda x, p, b: p / (p + (1 - p) * (1 + b**2 * x**2 / 2)), [0.5, 0.3]),
        "gaussian": (lambda x, p, m, b: p / (p + (1 - p) * np.exp(m * x + b**2 * x**2 / 2)), [0.5, 0.0, 0.3]),
    }

    def scipy_loop() -> Tensor:
        x = r.numpy()
        for curve, these in ((good, laws), (cost, costs)):
            for row in curve.resampled(RESAMPLES, 0)[:FITTED].numpy():
                for law, start in these.values():
                    scipy.optimize.curve_fit(law, x, row, start, maxfev=5000)
        law, start = laws["tanh"]
        return torch.from_numpy(scipy.optimize.curve_fit(law, x, good.mean.numpy(), start)[0])

    return {"ours": ours, "scipy": scipy_loop}, {"scipy": RESAMPLES // FITTED}


def ray_row(work: Work) -> dict[str, Any]:
    """Wall seconds of one sweep here and on two workers, once the cluster runs and its workers have the model."""
    plan = tradeoff_plan(
        {f"v/{number}": scaled(work.direction, 1 + number / 10) for number in range(8)},
        PairedAnswers(work.pairs, "honesty"),
        work.strengths,
        helpfulness=Choices(work.choices, name="facts"),
        neutral=work.neutral,
    )
    begin = time.perf_counter()
    here = sweep(work.folder, plan)
    local = time.perf_counter() - begin
    with RayExecutor(cpus=1) as cluster:
        small = SweepPlan(plan.directions, plan.behaviours[:1], (-0.1, 0.0, 0.1))
        begin = time.perf_counter()
        sweep(work.folder, small, executor=cluster)
        start = time.perf_counter() - begin
        begin = time.perf_counter()
        there = sweep(work.folder, plan, executor=cluster)
        remote = time.perf_counter() - begin
    pairs = [(found.column(), there.measured[key].column()) for key, found in here.measured.items()]
    worst = max(float((one - other).abs().max()) for one, other in pairs)
    seconds = {"ours": remote, "here": local, "start of the cluster": start}
    return {"row": "ray", "seconds": seconds, "ratios": {"here": local / remote}, "difference": worst}


def alternate(
    sides: dict[str, Callable[[], Any]], scale: dict[str, int], repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Run all sides in turn; the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    for repeat in range(repeats):
        for name in list(sides) if repeat % 2 == 0 else list(sides)[::-1]:
            begin = clock()
            sides[name]()
            times[name].append((clock() - begin) * scale.get(name, 1))
    return {name: statistics.median(found) for name, found in times.items()}


def largest_difference(sides: dict[str, Callable[[], Any]]) -> float:
    """Between our numbers and those of the other sides; for texts the share that differs."""
    found = {name: side() for name, side in sides.items()}
    ours = found.pop("ours")
    worst = 0.0
    for name, other in found.items():
        if isinstance(ours, Tensor):
            mine = ours[::EVERY] if name == "one at a time" else ours
            worst = max(worst, float((mine - other).abs().max()))
        else:
            written = [pair for cells in zip(ours, other, strict=True) for pair in zip(*cells, strict=True)]
            same = [one == two for one, two in written]
            worst = max(worst, 1 - sum(same) / len(same))
    return worst


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--model", default="gpt2-target")
    parser.add_argument("--items", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu where the machine is shared")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    work = Work(options.model, options.items)
    makers = {
        "choices": lambda: choice_row(work),
        "neutral": lambda: neutral_row(work),
        "generations": lambda: generation_row(work),
        "fits": fit_row,
    }
    rows: list[dict[str, Any]] = []
    for name in options.only:
        if name == "ray":
            rows.append(ray_row(work))
            continue
        sides, scale = makers[name]()
        difference = largest_difference(sides)
        seconds = alternate(sides, scale, options.repeats, CLOCKS[options.clock])
        ratios = {other: each / seconds["ours"] for other, each in seconds.items() if other != "ours"}
        rows.append({"row": name, "seconds": seconds, "ratios": ratios, "difference": difference})
    table = Table("row", "ours s", "others / ours", "largest difference", title=f"{options.clock} clock")
    for row in rows:
        shown = ", ".join(f"{name} {ratio:.1f}" for name, ratio in row["ratios"].items())
        table.add_row(row["row"], f"{row['seconds']['ours']:.2f}", shown, f"{row['difference']:.1e}")
    Console(width=110).print(table)
    if options.out:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        result = {"settings": settings, "torch": torch.__version__, "rows": rows}
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
