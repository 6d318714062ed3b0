"""Does PaCE do what it says? Concepts are removed from the embedded targets, at equal damage and with controls.

Stages. ``removal`` measures one setup after another, ``quality`` the decompositions themselves, ``lying`` why lying is
harder to remove; what is finished is kept under ``--out`` and picked up. ``summary`` puts everything together into
``analysis/pace/embedded``. From the checkout:

    python analysis/pace_study.py removal quality lying summary
    python analysis/pace_study.py removal --small --out out/pace-small        a quick look at whether all runs
"""

import argparse
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from contrans_lens.artifacts import read_json, write_json

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "pace"))

from removal_explained import explain  # noqa: E402
from removal_measure import parts  # noqa: E402
from removal_methods import Methods  # noqa: E402
from removal_pictures import write_pictures  # noqa: E402
from removal_quality import measure_quality  # noqa: E402
from removal_setups import SMALL, TARGETS, UNWANTED, Setup, Sizes, Target, open_target  # noqa: E402
from removal_tables import tables  # noqa: E402
from study_files import fill, rounded, write_compact  # noqa: E402

log = logging.getLogger("pace")
STAGES = ("removal", "quality", "lying", "summary")


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a finished part found, measured now if it is not there yet."""
    if not path.exists():
        log.info("measuring %s", path.stem)
        write_json(path, make())
    return read_json(path)


def removal(target: Target, sizes: Sizes, out: Path, only: str) -> None:
    """All parts of the setups of a target that are asked for."""
    for name in [name for name in UNWANTED if only in f"{target.name} {name}"]:
        methods = Methods(Setup(target, UNWANTED[name], sizes))
        done: dict[str, Any] = {}
        for part, measure in parts().items():
            path = out / f"{target.name}-{name}-{part}.json"
            done[part] = kept(path, partial(measure, methods, done))


def lying(target: Target, sizes: Sizes, out: Path) -> None:
    """Why lying is removed less: what is left of each concept, and what flagging its opposite does."""
    made = {name: Setup(target, unwanted, sizes) for name, unwanted in UNWANTED.items()}
    kept(
        out / f"{target.name}-explained.json", partial(explain, {name: Methods(setup) for name, setup in made.items()})
    )


def summarise(out: Path) -> None:
    """Everything that is finished, as ``result.json``, figures and the tables of the README."""
    setups = {
        f"{target} {name}": {
            part: read_json(out / f"{target}-{name}-{part}.json")
            for part in parts()
            if (out / f"{target}-{name}-{part}.json").exists()
        }
        for target in TARGETS
        for name in UNWANTED
    }
    result: dict[str, Any] = {"setups": {name: each for name, each in setups.items() if each}}
    for part in ("quality", "explained"):
        result[part] = {t: read_json(p) for t in TARGETS if (p := out / f"{t}-{part}.json").exists()}
    folder = HERE / "pace" / "embedded"
    kept_numbers = rounded(result)
    write_compact(folder / "result.json", kept_numbers)
    write_pictures(kept_numbers, folder)
    readme = folder / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8"), tables(kept_numbers)), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=STAGES)
    parser.add_argument("--out", type=Path, default=Path("out/pace"))
    parser.add_argument("--only", default="", help="setups whose name has this in it, e.g. gpt2, or lying")
    parser.add_argument("--small", action="store_true", help="few items, texts and draws")
    options = parser.parse_args()
    if options.small and "summary" in options.stages:
        parser.error("the summary is that of the whole study; leave --small out")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = SMALL if options.small else Sizes()
    for name in [name for name in TARGETS if any(options.only in f"{name} {each}" for each in UNWANTED)]:
        if set(options.stages) == {"summary"}:
            break
        target = open_target(name, options.out)
        if "removal" in options.stages:
            removal(target, sizes, options.out, options.only)
        if "quality" in options.stages:
            path = options.out / f"{name}-quality.json"
            kept(path, partial(measure_quality, target, options.out, sizes))
        if "lying" in options.stages:
            lying(target, sizes, options.out)
    if "summary" in options.stages:
        summarise(options.out)


if __name__ == "__main__":
    main()
