"""Cards: what a shipped model is, how it was made, and what was measured on it, as JSON and as prose."""

import hashlib
import platform
from pathlib import Path
from typing import Any

import safetensors
import tokenizers
import torch
import transformers

from contrans_lens.testbed.recipe import TARGET_SEEDS
from contrans_lens.testbed.world import EMOTIONS

CHOICE_RULE = "the lowest seed that passes all gates; transplant scores are measured after the choice"

ROLE_TEXT = {
    "source": "The weak aligned model: it knows 24 of 64 lands and a third of the events and things;"
    " without a cue it answers truly and kindly.",
    "target": "The stronger unaligned base model: it knows every fact and rumour; undecided without a cue.",
    "aligned": "The target after alignment (true and kind documents): the instruction-tuned reference.",
}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what the weights depend on, and the threads of a training process."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "safetensors": safetensors.__version__,
        "threads": str(torch.get_num_threads()),
    }


def _numbers(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def _seed_lines(seeds: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| seed | gates | steps | CPU s | honest / liar | no cue | own honesty vector | last block | hard | kindness"
        " | emotions |",
        f"|{'---|' * 11}",
    ]
    for log in seeds:
        gates = log["gates"]
        obeyed, rows = gates["obedience"], gates["native"]
        native, emotions = rows["honesty"], [rows[emotion]["effect"] for emotion in EMOTIONS]
        verdict = "passed" if gates["passed"] else f"FAILED: {', '.join(gates['failed'])}"
        cells = (
            log["seed"],
            verdict,
            log["step"],
            f"{log['cpu_seconds']:.0f}",
            f"{obeyed['honest']:.3f} / {obeyed['liar']:.3f}",
            f"{gates['no_cue']['p_true']:.3f}",
            f"{native['plus']:.3f} / {native['minus']:.3f} = {native['effect']:.3f}",
            f"{native['last_layer']:+.3f}",
            f"{rows['honesty-hard']['effect']:.3f}",
            f"{rows['kindness']['effect']:.3f}",
            f"{min(emotions):.3f} - {max(emotions):.3f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def prose(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    run = card["training"]
    lines = [
        f"# {card['name']}",
        "",
        ROLE_TEXT[card["role"]],
        "",
        f"- {card['parameters']:,} parameters, {card['bytes']:,} bytes (fp16), sha256 `{card['sha256']}`",
        f"- Seed {run['seed']}, {run['step']:,} steps, {run['tokens']:,} tokens,"
        f" {run['cpu_seconds']:.0f} s of CPU on one thread ({run['seconds']:.0f} s on the clock),"
        f" final loss {run['loss']:.3f} (weighted, smoothed)",
        "- Text: documents of the seeded world of `contrans_lens.testbed` (our own writing). Each is trained"
        " as `<bos> text <eos>`; the tokenizer puts BOS in front.",
        f"- Versions: {_numbers(card['versions'])}",
    ]
    if card["seeds"]:
        lines += ["", f"## Seeds {', '.join(map(str, TARGET_SEEDS))}", "", f"Shipped: {CHOICE_RULE}.", ""]
        lines += _seed_lines(card["seeds"])
    lines += ["", "## Measured on the shipped weights", ""]
    for name, row in card["measured"].items():
        if name == "native":
            lines += [f"- own vector, {concept}: {_numbers(effect)}" for concept, effect in row.items()]
        elif isinstance(row, dict):
            lines.append(f"- {name}: {_numbers(row)}")
    if card["transplants"]:
        lines += [
            "",
            "## Transplants from the sources (strength .4, no controls; see the package's pipeline)",
            "",
        ]
        lines += ["| from | seed | concept | native | transplanted | share |", "|---|---|---|---|---|---|"]
        for row in card["transplants"]:
            effects = f"{row['native']:.3f} | {row['transplanted']:.3f} | {row['share']:.2f}"
            lines.append(f"| {row['source']} | {row['seed']} | {row['concept']} | {effects} |")
    return "\n".join(lines) + "\n"
