"""Does refining a concept vector on the source's dictionary, before it is transplanted, make its effect more specific?

Four pairs of embedded models. Hook points and solvers are chosen on validation items, everything is scored on test
items. Finished parts are kept under ``--out`` and picked up. From the checkout:

    python analysis/pace_refinement_study.py --out out/pace_refinement
    python analysis/pace_refinement_study.py --small --out out/pace_refinement_small      one pair, one concept

The whole study writes ``result.json`` and figures into ``analysis/pace/refinement``, the small one into ``--out``.
"""

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from contrans_lens.artifacts import read_json, write_json
from contrans_lens.evaluation.behaviours import PairedAnswers

HERE = Path(__file__).resolve().parent / "pace" / "refinement"
sys.path.insert(0, str(HERE))

from refinement_measure import (  # noqa: E402
    BUDGET,
    Effects,
    joined,
    kept_or,
    measure,
    measured_again,
    random_vectors,
    with_other_items,
)
from refinement_methods import (  # noqa: E402
    DRAWS,
    FEW_DRAWS,
    KEEP,
    MANNERS,
    SOLVERS,
    UNREFINED,
    alone_vectors,
    cosines_with_native,
    facts,
    few_vectors,
    full_vectors,
    mixed_vectors,
    validation_vectors,
)
from refinement_numbers import Scorer  # noqa: E402
from refinement_pairs import N_NEUTRAL, Pair, Place  # noqa: E402
from refinement_pictures import write_pictures  # noqa: E402
from refinement_summary import again, related_items, summary  # noqa: E402
from refinement_texts import CONCEPTS, MAIN, splits_of  # noqa: E402
from study_files import rounded, write_compact  # noqa: E402

log = logging.getLogger("refinement")

SOURCES, TARGETS = ("gpt2-source", "rotary-source"), ("gpt2-target", "rotary-target")
N_ITEMS = {"honesty": 24, "kindness": 24}
N_EMOTION_ITEMS = 16
LEAST_OWN = 0.9
"""A solver is chosen among those that leave this share of the unrefined own effect, on validation items."""
ALL_ITEMS = 1000
"""More than there are."""


class Study:
    """The parts of the study, measured or picked up."""

    def __init__(self, out: Path, small: bool) -> None:
        """Say what is to be done.

        Args:
            out: where finished parts are.
            small: one pair and one concept, few draws.
        """
        self.out, self.small = out, small
        self.names = [(source, target) for source in SOURCES for target in TARGETS][: 1 if small else None]
        self.main = MAIN[:1] if small else MAIN
        self.plain = () if small else tuple(name for name in CONCEPTS if name not in MAIN)
        self.draws = 4 if small else DRAWS
        self.splits = {name: splits_of(name, N_ITEMS.get(name, N_EMOTION_ITEMS)) for name in CONCEPTS}
        self._pair: Pair | None = None

    def setup(self) -> dict[str, Any]:
        """What the numbers rest on."""
        items = {
            part: {name: [len(each), len({item.group for item in each})] for name, each in asked.items()}
            for part in ("validation", "test")
            for asked in [{name: getattr(each, part).evaluation for name, each in self.splits.items()}]
        }
        pairs = {name: len(each.train.positives) for name, each in self.splits.items()}
        return {
            "items_and_groups": items,
            "training_pairs": pairs,
            "kl_budget": BUDGET,
            "neutral_texts": N_NEUTRAL,
            "draws": self.draws,
            "draws_of_few_pairs": FEW_DRAWS,
            "least_own": LEAST_OWN,
        }

    def pair(self, names: tuple[str, str]) -> Pair:
        """A pair of models, read when it is needed and kept until another one is."""
        if self._pair is None or self._pair.names != names:
            log.info("reading %s and %s", *names)
            self._pair = Pair(*names, self.splits)
        return self._pair

    def place(self, names: tuple[str, str], name: str) -> Place:
        """Where a concept is read and written, chosen on validation items; emotions follow sadness."""
        name = name if name in MAIN else "sadness"
        path = self.out / "places" / f"{'-'.join(names)}-{name}.json"
        if not path.exists():
            write_json(path, asdict(self.pair(names).chosen_place(name)))
        return Place(**read_json(path))

    def part(self, names: tuple[str, str], name: str, what: str, key: Mapping[str, Any]) -> Effects:
        """One measured part: ``validation``, ``plain``, ``test`` with every setting, ``alone`` without contrasts."""
        place = self.place(names, name)
        key = {**key, "place": asdict(place), "small": self.small}

        def make() -> Effects:
            pair, started = self.pair(names), time.process_time()
            if what == "validation":
                vectors, reference = validation_vectors(pair, name, place), f"full/{UNREFINED}"
                found = measure(pair, place.target, vectors, "validation", reference, {})
            elif what == "alone":
                vectors = alone_vectors(pair, name, place)
                told = {"cosine_with_native": cosines_with_native(pair, name, place, vectors)}
                found = measure(pair, place.target, vectors, "test", None, told)
            else:
                choice = key["choice"]
                vectors = full_vectors(pair, name, place, choice, self.draws if what == "test" else 0)
                if what == "test":
                    vectors |= mixed_vectors(pair, name, place, choice, self.draws)
                    vectors |= few_vectors(pair, name, place, choice)
                told = facts(pair, name, place, vectors, choice)
                found = measure(pair, place.target, vectors, "test", f"full/{UNREFINED}", told)
            log.info("%s -> %s, %s, %s: %.0f s", *names, name, what, time.process_time() - started)
            return found

        return kept_or(self.out / what / f"{'-'.join(names)}-{name}", key, make)

    def all_lands(self, names: tuple[str, str], name: str, found: Effects, key: Mapping[str, Any]) -> Effects:
        """A part's single vectors on every honesty item instead of some: four times as many lands."""
        place = self.place(names, name)
        asked = PairedAnswers(tuple(splits_of("honesty", ALL_ITEMS).test.evaluation), "honesty", "log_odds")

        def make() -> Effects:
            pair = self.pair(names)
            vectors = full_vectors(pair, name, place, key["choice"], 0)
            vectors |= mixed_vectors(pair, name, place, key["choice"], 0) | alone_vectors(pair, name, place)
            return measured_again(pair, place.target, vectors, asked, found.costs)

        folder = self.out / "all_lands" / f"{'-'.join(names)}-{name}"
        return with_other_items(found, kept_or(folder, {**key, "place": asdict(place), "small": self.small}, make))

    def random(self, names: tuple[str, str], place: str) -> Effects:
        """Random directions at one hook point of a target."""
        return kept_or(
            self.out / "random" / f"{names[1]}-{place}",
            {"draws": self.draws},
            lambda: measure(
                self.pair(names), place, random_vectors(self.pair(names), place, self.draws), "test", "unsteered", {}
            ),
        )


def chosen_solvers(scorers: Sequence[Scorer]) -> dict[str, Any]:
    """For all contrasts and for mixed ones, and each manner: the solver with the least leak for its own effect."""
    table: dict[str, Any] = {}
    choice: dict[str, dict[str, str]] = {"full": {}, "mixed": {}}
    for group, manners in choice.items():
        base = f"{group}/{UNREFINED}"
        own = sum(each.own(base).mean for each in scorers)
        table[base] = {"own": own / len(scorers), "ratio": sum(each.leak(base).mean for each in scorers) / own}
        for manner in MANNERS:
            ratios = {}
            for solver in SOLVERS:
                method = f"{group}/{manner}/{solver}"
                left = sum(each.own(method).mean for each in scorers)
                ratio = sum(each.leak(method).mean for each in scorers) / left
                table[method] = {"own": left / len(scorers), "ratio": ratio}
                ratios[solver] = (left < LEAST_OWN * own, ratio)
            manners[manner] = min(ratios, key=lambda solver: ratios[solver])
    return {"choice": choice, "validation": table}


def run(study: Study) -> dict[str, Any]:
    """Choose, measure, put together."""
    validation = [
        Scorer(name, study.part(names, name, "validation", {}), {}) for names in study.names for name in study.main
    ]
    chosen = chosen_solvers(validation)
    log.info("chosen: %s", chosen["choice"])
    key = {"choice": chosen["choice"]}
    related = related_items(study.splits)
    scorers: dict[tuple[str, str, str], Scorer] = {}
    lands: dict[tuple[str, str, str], Scorer] = {}
    random: dict[str, Effects] = {}
    for names in study.names:
        for name in (*study.main, *study.plain):
            what = "test" if name in study.main else "plain"
            found = joined(study.part(names, name, what, key), study.part(names, name, "alone", {}))
            if name in study.main:
                wide = study.all_lands(names, name, found, key)
                lands[(*names, name)] = Scorer(name, wide, related.get(name, {}))
            scorers[(*names, name)] = Scorer(name, found, related.get(name, {}))
        for place in sorted({study.place(names, name).target for name in study.main}):
            random[f"{names[1]} {place}"] = study.random(names, place)
    places = {f"{a} -> {b}, {name}": asdict(study.place((a, b), name)) for a, b in study.names for name in study.main}
    return {"setup": study.setup(), "places": places, **chosen, **summary(scorers, random), "all_lands": again(lands)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/pace_refinement"))
    parser.add_argument("--small", action="store_true", help="one pair, one concept, few draws")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    started = time.process_time()
    numbers = rounded(run(Study(options.out, options.small)))
    into = options.out if options.small else HERE
    write_compact(into / "result.json", numbers)
    write_pictures(numbers, into)
    log.info(
        "%s written, %.0f s of CPU; keep against transplanted, all contrasts: %s",
        into / "result.json",
        time.process_time() - started,
        numbers["pooled"]["main"]["full"][KEEP]["ratio_change"],
    )


if __name__ == "__main__":
    main()
