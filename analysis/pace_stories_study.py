"""Does PaCE work on two TinyStories models that others trained? Sadness, unkindness and lying are taken out.

Parts: ``quality`` (do atoms know their topics), ``background`` (what do they leave out), ``gate`` (does the unedited
model show the behaviour), ``search`` (validation), ``score`` (test, controls), ``elastic`` (controls of the elastic
net), ``local`` (drift where the methods act), ``grounded`` (OMP with the mean state as an atom), ``prompted``
(continuations not edited), ``writing`` (texts written), and a summary, which puts the finished parts into
``analysis/pace/stories``. A part that is finished is kept under ``--out`` and not made again. From the checkout:

    python analysis/pace_stories_study.py --out out/pace_stories             everything
    python analysis/pace_stories_study.py --out out/pace_stories --only 260k one model
    python analysis/pace_stories_study.py --out out/tiny --small             few draws and recipes, nothing committed
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from contrans_lens.artifacts import read_json, write_json

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / folder) for folder in ("pace/stories", "tinystories", "tradeoff")]

from tale_background import background  # noqa: E402
from tale_grounded import grounded  # noqa: E402
from tale_lab import MODELS, SHARED, Lab, Sizes  # noqa: E402
from tale_local import local  # noqa: E402
from tale_methods import MODES  # noqa: E402
from tale_prompted import prompted  # noqa: E402
from tale_quality import quality  # noqa: E402
from tale_score import elastic, score  # noqa: E402
from tale_search import gate, search  # noqa: E402
from tale_stimuli import UNWANTED  # noqa: E402
from tale_summary import summarise  # noqa: E402
from tale_writing import writing  # noqa: E402

log = logging.getLogger("pace_stories")


def kept(out: Path, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part of the study: read where it is finished, else made and kept with its CPU time."""
    path = out / f"{name.replace(' ', '-')}.json"
    if not path.exists():
        started = time.process_time()
        made = make()
        write_json(path, {**made, "cpu_s": time.process_time() - started})
        log.info("%s: %.0f s of CPU", name, time.process_time() - started)
    return read_json(path)


def run(lab: Lab, out: Path, topics: Sequence[str]) -> None:
    """All parts of one model and the topics."""
    kept(out, f"{lab.name} quality", partial(quality, lab, out))
    kept(out, f"{lab.name} background", partial(background, lab))
    for topic in topics:
        shown = kept(out, f"{lab.name} {topic} gate", partial(gate, lab, topic))
        log.info("%s, %s: context effect %s, shown: %s", lab.name, topic, shown["context_effect"], shown["shown"])
        for mode in MODES if shown["shown"] else ():
            name, endings = f"{lab.name} {topic} {mode}", shown["endings"]
            found = kept(out, f"{name} search", partial(search, lab, topic, mode, endings))
            scored = kept(out, f"{name} score", partial(score, lab, topic, mode, endings, found))
            kept(out, f"{name} local", partial(local, lab, topic, mode, endings, scored))
            kept(out, f"{name} grounded", partial(grounded, lab, topic, mode, endings, scored))
            if lab.name == MODELS[0]:  # on the longer texts of the other one it would take too long
                kept(out, f"{name} elastic", partial(elastic, lab, topic, mode, endings, found))
            if mode == "per_token":
                kept(out, f"{name} prompted", partial(prompted, lab, topic, endings, scored))
            if topic == "sadness":
                kept(out, f"{name} writing", partial(writing, lab, mode, scored))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/pace_stories"))
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--topic", default="", help="topics whose name has this in it")
    parser.add_argument("--small", action="store_true", help="few draws and recipes, to see that it runs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    if not (SHARED / "models").exists():
        log.info("skipped: %s is not there; it holds the models and stories of this study", SHARED)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(draws=3, repeats=1, small=True) if options.small else Sizes()
    for name in MODELS:
        if options.only in name:
            run(Lab.open(name, sizes), options.out, [topic for topic in UNWANTED if options.topic in topic])
    summarise(options.out, options.out / "summary" if options.small else HERE / "pace" / "stories")


if __name__ == "__main__":
    main()
