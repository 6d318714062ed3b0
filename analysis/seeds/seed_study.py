"""Does honesty cross into every training seed of the embedded targets, not only into the shipped ones?

Run after ``make testbed``, which leaves the seeds that are not shipped under ``out/testbed/runs``:

    python analysis/seeds/seed_study.py --family out/testbed --out out/seeds
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch

from contrans_lens.artifacts import write_json
from contrans_lens.models import open_model
from contrans_lens.pipeline import Settings, read_pair, transplant
from contrans_lens.testbed import concept, map_texts, model_path, neutral_texts
from contrans_lens.texts import ContrastSet

FAMILIES = ("gpt2", "rotary")
SEEDS = (0, 1, 2)

log = logging.getLogger("seeds")


def carry(source: str, target: Path, name: str, draws: int) -> dict[str, Any]:
    """Carry one concept into one training seed; the numbers that the table needs."""
    settings = Settings(max_neutral_texts=32, curve_draws=0, draws=draws)
    texts, neutral = map_texts(1000), neutral_texts(32)
    opened, model = open_model(model_path(source)), open_model(target)
    result = transplant(
        opened,
        model,
        ContrastSet.from_dict(concept(name)),
        texts,
        neutral=neutral,
        settings=settings,
        pair=read_pair(opened, model, texts, settings),
        names=(source, target.parent.name),
    )
    rows = {row.name: row.to_dict() for row in result.rows}
    summary = result.summary()
    return {key: summary[key] for key in ("concept", "hook_points", "recovered_share", "verdict", "reason")} | {
        "source": source,
        "target": target.parent.name,
        "rows": rows,
    }


def main() -> None:
    """Run every source against every seed of every target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", type=Path, default=Path("out/testbed"))
    parser.add_argument("--out", type=Path, default=Path("out/seeds"))
    parser.add_argument("--concept", default="honesty")
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    path = options.out / f"{options.concept}.json"
    runs: list[dict[str, Any]] = json.loads(path.read_text())["runs"] if path.exists() else []
    for family in FAMILIES:
        for seed in SEEDS:
            target = options.family / "runs" / f"{family}-target-{seed}" / "model"
            gates = json.loads((target.parent / "log.json").read_text())["gates"]["passed"]
            for source in (f"{name}-source" for name in FAMILIES):
                if any(run["source"] == source and run["target"] == target.parent.name for run in runs):
                    continue
                run = {**carry(source, target, options.concept, options.draws), "gates_passed": gates}
                runs.append(run)
                write_json(path, {"concept": options.concept, "draws": options.draws, "runs": runs})
                moved, native = run["rows"]["transplanted"], run["rows"]["native"]
                log.info(
                    "%s -> %s (gates %s): %+.3f of %+.3f, share %s, %s",
                    source,
                    run["target"],
                    gates,
                    moved["effect"],
                    native["effect"],
                    run["recovered_share"],
                    run["verdict"],
                )


if __name__ == "__main__":
    main()
