"""What does steering cost, and do the tanh law of behaviour and the bell of helpfulness hold?

Stages. ``embedded`` and ``real`` measure and analyse; what is measured is kept under ``--out``, so that a run that was
stopped goes on where it was. ``summary`` puts the finished setups together into ``analysis/tradeoff``. From the
checkout:

    python analysis/tradeoff_study.py embedded --out out/tradeoff      two targets, four concepts
    python analysis/tradeoff_study.py real --out out/tradeoff          stories-260k to storychars-1m
    python analysis/tradeoff_study.py summary --out out/tradeoff
"""

import argparse
import logging
import sys
from pathlib import Path

import torch

from contrans_lens.artifacts import read_json, write_json
from contrans_lens.tradeoff import SweepResult, sweep

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "tradeoff"))

from study_files import rounded, write_compact  # noqa: E402
from tradeoff_compact import compact  # noqa: E402
from tradeoff_numbers import setup_numbers  # noqa: E402
from tradeoff_pictures import write_pictures  # noqa: E402
from tradeoff_setups import REAL, Setup, embedded_setup, real_setup, setup_names  # noqa: E402

log = logging.getLogger("tradeoff")

FLOORS = {"capability": 3 / 4 * 1 / 4 + 1 / 4 * 1 / 2, "knowledge": 1 / 8, "cloze": 1 / 4}
"""What guessing earns: three kinds of capability items have four choices and one has two."""


def measure(setup: Setup, out: Path) -> SweepResult:
    """The sweeps of a setup put together: directions with everything, control draws with what was measured of them."""
    work = out / "work" / setup.name.replace(" ", "-")
    parts = [sweep(setup.model, plan, work=work, name=setup.name.split(" ")[0], say=log.info) for plan in setup.plans()]
    plan = dict(parts[0].plan)
    plan["directions"] = {name: cell for part in parts for name, cell in part.plan["directions"].items()}
    return SweepResult(parts[0].model, plan, {key: each for part in parts for key, each in part.measured.items()})


def run(name: str, out: Path) -> None:
    """Measure and analyse one setup; its numbers go to ``<out>/<name>.json``."""
    setup = real_setup(out) if name == REAL else embedded_setup(name, out)
    result = measure(setup, out)
    numbers = setup_numbers(result, setup.chosen, FLOORS, setup.chosen["kl_budget"])
    write_json(numbers_path(name, out), rounded(numbers))
    for direction, found in numbers["directions"].items():
        log.info("%s, %s: %s", name, direction, found["claim"])


def numbers_path(name: str, out: Path) -> Path:
    """Where the numbers of a setup are kept."""
    return out / f"{name.replace(' ', '-')}.json"


def summarise(out: Path) -> None:
    """The finished setups as ``result.json`` and figures."""
    names = [name for name in [*setup_names(), REAL] if numbers_path(name, out).exists()]
    setups = {name: read_json(numbers_path(name, out)) for name in names}
    log.info("%d setups: %s", len(setups), ", ".join(setups))
    write_compact(HERE / "tradeoff" / "result.json", {name: compact(each) for name, each in setups.items()})
    write_pictures(setups, HERE / "tradeoff")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("embedded", "real", "summary"))
    parser.add_argument("--out", type=Path, default=Path("out/tradeoff"))
    parser.add_argument("--only", default="", help="setups whose name has this in it, e.g. honesty")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.stage == "summary":
        summarise(options.out)
        return
    names = [REAL] if options.stage == "real" else [name for name in setup_names() if options.only in name]
    for name in names:
        if not numbers_path(name, options.out).exists():
            run(name, options.out)


if __name__ == "__main__":
    main()
