"""Does representation alignment (RAHF) align, at what cost, and how does it stand beside a transplanted vector?

``measure`` trains and measures; ``summary`` puts what is finished into ``analysis/preferences``. What is finished is
kept under ``--out`` and picked up. From the checkout:

    python analysis/preference_study.py measure summary --jobs 2      --seeds 1: in about half the time
    python analysis/preference_study.py measure --scope quick --out out/preferences-quick      does all run? two minutes
"""

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "preferences"))

from preference_choice import Chosen  # noqa: E402
from preference_costs import once  # noqa: E402
from preference_setups import SMALL, Setup, Sizes, setups  # noqa: E402
from preference_units import Unit  # noqa: E402

log = logging.getLogger("preferences")
QUICK = "gpt2-target kindness"


def choose(setup: Setup) -> None:
    """The settings of a setup."""
    _timed(setup.folder / "chosen.json", lambda: Chosen(setup).all())


def measure(setup: Setup, seed: int) -> None:
    """Everything of a setup and a seed."""

    def work() -> dict[str, Any]:
        Unit(setup, seed).run()
        return {}

    _timed(setup.folder / f"seed{seed}.json", work)


def _timed(path: Path, work: Callable[[], dict[str, Any]]) -> None:
    """Do a unit of work once, and keep with what it gives how long it took (of the last run, if there were several)."""

    def timed() -> dict[str, Any]:
        begun = time.perf_counter(), time.process_time()
        found = work()
        return {**found, "seconds": time.perf_counter() - begun[0], "cpu_seconds": time.process_time() - begun[1]}

    once(path, timed)


def prepare() -> None:
    """What every process does first."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)


def run(chosen: list[Setup], jobs: int) -> None:
    """All units, settings first."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), prepare) as pool:
        waiting = {pool.submit(choose, setup): setup for setup in chosen}
        for done, setup in waiting.items():
            done.result()
            log.info("chosen: %s", setup.name)
        units = [(setup, seed) for seed in chosen[0].sizes.seeds for setup in chosen]
        for unit, done in [(unit, pool.submit(measure, *unit)) for unit in units]:
            done.result()
            log.info("measured: %s, seed %d", unit[0].name, unit[1])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=("measure", "summary"))
    parser.add_argument("--out", type=Path, default=Path("out/preferences"))
    parser.add_argument("--scope", choices=("full", "quick"), default="full")
    parser.add_argument("--only", default="", help="setups whose name has this in it, e.g. rotary, or honesty")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds are trained")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args()
    quick = options.scope == "quick"
    if quick and "summary" in options.stages:
        parser.error("the summary is that of the whole study; leave --scope quick out")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    prepare()
    sizes = SMALL if quick else replace(Sizes(), seeds=tuple(range(options.seeds)))
    chosen = setups(options.out.resolve(), sizes, QUICK if quick else options.only)
    begun = time.perf_counter()
    if "measure" in options.stages:
        run(chosen, options.jobs)
        log.info("%.0f s", time.perf_counter() - begun)
    if "summary" in options.stages:
        from preference_summary import summarise

        summarise(setups(options.out.resolve(), sizes), HERE / "preferences")


if __name__ == "__main__":
    main()
