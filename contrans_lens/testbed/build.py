"""The whole family from nothing: tokenizers, sources, targets, the choice of a seed, alignment, cards.

Every training run is one process with one thread, so that its result does not depend on how many run side by
side. Everything is written under one folder; a step whose result is there is not done again, so a killed
build goes on where it was.
"""

import json
import logging
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from contrans_lens.errors import TestbedError
from contrans_lens.testbed.architecture import new_model
from contrans_lens.testbed.card import file_hash, prose, versions
from contrans_lens.testbed.documents import FULL, WEAK
from contrans_lens.testbed.family import FAMILIES, WEIGHTS
from contrans_lens.testbed.gates import measurements, report
from contrans_lens.testbed.recipe import GATES, SHAPES, SOURCE_SEED, TARGET_SEEDS, recipe
from contrans_lens.testbed.scoring import Scorer
from contrans_lens.testbed.tokenizer import CONTEXT, load_tokenizer, train_tokenizer
from contrans_lens.testbed.training import Trainer
from contrans_lens.testbed.transplant import transplant_effects

logger = logging.getLogger(__name__)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write Hugging Face files with fp16 weights; the config asks for float32 on opening."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    model.float()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = "float32"
    if config["model_type"] == "gpt2":
        config |= {"n_ctx": CONTEXT, "activation_function": "gelu_new"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "generation_config.json").unlink(missing_ok=True)
    # safetensors writes files that only their owner may read; a wheel keeps the mode.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)


def open_model(folder: Path) -> PreTrainedModel:
    """Open a model folder in float32, for scoring or for more training."""
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
    assert isinstance(model, PreTrainedModel)  # narrows the type for the checker
    return model.eval()


def open_scorer(folder: Path) -> Scorer:
    """Open a model folder for scoring."""
    return Scorer(open_model(folder), load_tokenizer(folder))


def run_folder(out: Path, name: str, seed: int) -> Path:
    """Where one training run keeps its checkpoints, its log and its model."""
    return out / "runs" / f"{name}-{seed}"


def train_one(out: Path, name: str, seed: int) -> None:
    """Train one model in this process with one thread; do nothing if its log is there.

    Args:
        out: Folder of the build.
        name: `<family>-<role>`. For `aligned` the shipped target must be there.
        seed: Seed of weights and data.
    """
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = run_folder(out, name, seed)
    if (folder / "log.json").is_file():
        return
    family, role = name.split("-")
    tokenizer = load_tokenizer(out / "runs" / f"{family}-tokenizer")
    model = open_model(out / f"{family}-target") if role == "aligned" else new_model(SHAPES[name], seed)
    trainer = Trainer(name, seed, recipe(name), model, tokenizer, folder / "checkpoint", gated=role == "target")
    log = trainer.run()
    save_model(model, tokenizer, folder / "model")
    (folder / "log.json").write_text(json.dumps(log, indent=1))


def choose(out: Path, family: str) -> int:
    """The shipped seed of a family's target: the lowest that passes all gates.

    Raises:
        TestbedError: If no seed passes.
    """
    for seed in TARGET_SEEDS:
        log = json.loads((run_folder(out, f"{family}-target", seed) / "log.json").read_text())
        if log["gates"]["passed"]:
            return seed
    raise TestbedError(
        f"no seed of {family}-target passes its gates; see the log.json of each run under {out / 'runs'}"
    )


def ship(out: Path, name: str, seed: int) -> None:
    """Copy the model of a run to the folder of its name."""
    shutil.copytree(run_folder(out, name, seed) / "model", out / name, dirs_exist_ok=True)


def write_card(out: Path, name: str, seed: int, transplants: list[dict[str, Any]]) -> None:
    """Measure a shipped model and write `card.json` and `card.md` beside its weights."""
    role = name.split("-")[1]
    folder = out / name
    scorer = open_scorer(folder)
    weights = folder / "model.safetensors"
    seeds = []
    if role == "target":
        logs = [run_folder(out, name, one) / "log.json" for one in TARGET_SEEDS]
        seeds = [json.loads(log.read_text()) for log in logs]
    card = {
        "name": name,
        "role": role,
        "parameters": sum(parameter.numel() for parameter in scorer.model.parameters()),
        "bytes": weights.stat().st_size,
        "sha256": file_hash(weights),
        "training": json.loads((run_folder(out, name, seed) / "log.json").read_text()) | {"gates": None},
        "versions": versions(),
        "seeds": seeds,
        "measured": report(scorer, GATES)
        if role == "target"
        else measurements(scorer, WEAK if role == "source" else FULL),
        "transplants": transplants,
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (folder / "card.md").write_text(prose(card))


def transplants_into(out: Path, family: str) -> list[dict[str, Any]]:
    """Native and transplanted effects from both sources into every seed of a target, for its card."""
    rows = []
    for seed in TARGET_SEEDS:
        target = open_scorer(run_folder(out, f"{family}-target", seed) / "model")
        for source in FAMILIES:
            effects = transplant_effects(open_scorer(out / f"{source}-source"), target, GATES.strength)
            rows += [
                {"source": f"{source}-source", "seed": seed, "concept": name, **row} for name, row in effects.items()
            ]
    return rows


def finish_one(out: Path, name: str, seed: int) -> None:
    """Write the card of one shipped model in this process with one thread."""
    torch.set_num_threads(1)
    family, role = name.split("-")
    write_card(out, name, seed, transplants_into(out, family) if role == "target" else [])


def build(out: Path, jobs: int = 2) -> None:
    """Train the family into a folder.

    Args:
        out: Folder; the six models end up directly in it, everything else in `runs/`.
        jobs: Training processes at a time, one thread each.

    Raises:
        TestbedError: If no seed of a target passes its gates.
    """
    out.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        folder = out / "runs" / f"{family}-tokenizer"
        if not folder.is_dir():
            train_tokenizer(family, SHAPES[f"{family}-target"].vocab).save_pretrained(folder)
    # Spawned, not forked: a forked child inherits the thread pool of torch in a broken state.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        # Sources and first seeds come first: a family to look at is there early.
        first, *others = TARGET_SEEDS
        tasks = [(f"{family}-target", first) for family in FAMILIES]
        tasks += [(f"{family}-source", SOURCE_SEED) for family in FAMILIES]
        tasks += [(f"{family}-target", seed) for seed in others for family in FAMILIES]
        for future in [pool.submit(train_one, out, name, seed) for name, seed in tasks]:
            future.result()
        chosen: dict[str, int] = {}
        for family in FAMILIES:
            chosen |= {f"{family}-source": SOURCE_SEED, f"{family}-target": choose(out, family)}
            chosen[f"{family}-aligned"] = chosen[f"{family}-target"]
            for role in ("source", "target"):
                ship(out, f"{family}-{role}", chosen[f"{family}-{role}"])
        aligned = [(f"{family}-aligned", chosen[f"{family}-aligned"]) for family in FAMILIES]
        for future in [pool.submit(train_one, out, name, seed) for name, seed in aligned]:
            future.result()
        for name, seed in aligned:
            ship(out, name, seed)
        for future in [pool.submit(finish_one, out, name, seed) for name, seed in chosen.items()]:
            future.result()
    logger.info("the family is in %s", out)


def install(out: Path, weights: Path = WEIGHTS) -> None:
    """Copy the six models of a finished build into the package."""
    for family in FAMILIES:
        for role in ("source", "target", "aligned"):
            shutil.copytree(out / f"{family}-{role}", weights / f"{family}-{role}", dirs_exist_ok=True)
