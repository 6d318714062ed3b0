"""What a step of RAHF's fit costs: only the blocks that matter against all of them.

    python analysis/benchmarks/activity_fit.py [--blocks 32] [--last 18] [--repeats 7] [--out activity_fit.json]

A random GPT-2, made here, no network, with a LoRA of rank 8 on its attention. One training step (forward, backward,
AdamW) is timed in four ways, on the same rows and towards the same targets:

* ``all blocks``: as the published code spends its time. The whole model, unembedding included, is run with
  ``output_hidden_states=True``, once with the adapter switched off for ``A_base`` and once with it on.
* ``base as well, blocks that matter``: blocks above the last layer that is fitted, and the unembedding, are not run.
* ``base known, all blocks``: ``A_base`` was read beforehand.
* ``base known, blocks that matter``: both, which is what ``fit_adapter`` does where the rows fit in memory.

Each is timed in turn with ``all blocks`` in this process, in alternating order; what counts is the median of the
ratios. Losses and gradients of all four are compared first. "Kept" is what the forward passes leave in memory for the
backward pass, weights apart. Reading ``A_base`` beforehand, one forward pass over every row, is not counted.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from steering import CLOCKS, alternate, make_tokenizer
from torch import Tensor

from contrans_lens.models import Fingerprint, resid_post
from contrans_lens.models.plain import open_plain, truncate
from contrans_lens.rahf.adapters import add_adapter
from contrans_lens.rahf.losses import activity_loss
from contrans_lens.rahf.targets import FitBatch, FitTargets
from contrans_lens.rahf.tokens import AnswerRow, Where
from contrans_lens.rahf.training import RAHF_LORA

D_MODEL, N_HEADS, VOCABULARY = 256, 4, 8000
ALPHA = 5.0
PUBLISHED = "all blocks"
TOLERANCE = 1e-4  # relative; gradients of sums in another order


@dataclass(frozen=True, eq=False)
class RandomDifferences:
    """Made-up differences at the answers' own tokens."""

    hook_points: tuple[str, ...]
    rows: tuple[AnswerRow, ...]
    values: tuple[Tensor, ...]
    where: Where = "answer"
    d_model: int = D_MODEL
    fingerprint: Fingerprint | None = None

    def of(self, rows: Sequence[int]) -> Tensor:
        """Of some rows, one after the other."""
        return torch.cat([self.values[row] for row in rows])


@dataclass(frozen=True, eq=False)
class Way:
    """A model with an adapter, its optimiser, and how its loss comes about."""

    model: Any
    loss: Callable[[Any], Tensor]

    def gradients(self) -> Tensor:
        """Loss and gradients of the adapter's second matrices; those of the first are zero as long as B is."""
        self.model.zero_grad()
        loss = self.loss(self.model)
        loss.backward()
        found = [weight.grad for name, weight in self.model.named_parameters() if "lora_B" in name]
        return torch.cat([loss.detach()[None], *(gradient.flatten() for gradient in found if gradient is not None)])

    def stepping(self) -> Callable[[], None]:
        """One update after the other."""
        optimiser = torch.optim.AdamW([weight for weight in self.model.parameters() if weight.requires_grad], lr=1e-6)

        def step() -> None:
            optimiser.zero_grad()
            self.loss(self.model).backward()
            optimiser.step()

        return step


def save_model(folder: Path, n_blocks: int, n_ctx: int) -> None:
    """A random GPT-2 of many narrow blocks, without dropout, and a tokenizer that nobody asks anything."""
    torch.manual_seed(0)
    config: Any = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=D_MODEL,
        n_layer=n_blocks,
        n_head=N_HEADS,
        n_positions=n_ctx,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def make_differences(options: argparse.Namespace) -> RandomDifferences:
    """Rows of one length, half prompt and half answer, at five layers up to the last one, as in RAHF's SCIT."""
    layers = [options.last - 2 * back for back in (4, 3, 2, 1, 0)]
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (options.batch, options.tokens), generator=generator)
    start = options.tokens // 2
    rows = tuple(AnswerRow(tuple(row.tolist()), start) for row in ids)
    values = torch.randn(options.batch, options.tokens - start, len(layers), D_MODEL, generator=generator)
    # hidden_states[l] is what comes out of block l - 1.
    return RandomDifferences(tuple(resid_post(layer - 1) for layer in layers), rows, tuple(values))


def published(model: Any, layers: Sequence[int], batch: FitBatch, known: Tensor | None) -> Tensor:
    """The loss from ``hidden_states`` of whole passes, of the answers' own tokens."""

    def states() -> Tensor:
        rows = batch.rows
        found = model(rows.ids, attention_mask=rows.mask.long(), output_hidden_states=True, use_cache=False)
        return torch.stack([found.hidden_states[layer] for layer in layers])[:, rows.answer].transpose(0, 1)

    if known is None:
        with torch.no_grad(), model.disable_adapter():
            known = states()
    return activity_loss(states(), known + batch.moved)


def make_ways(folder: Path, differences: RandomDifferences, last: int) -> dict[str, Way]:
    """The four ways, each with a model of its own."""
    numbers = range(len(differences.rows))
    layers = [int(name.split(".")[1]) + 1 for name in differences.hook_points]

    def student(whole: bool) -> Any:
        plain = open_plain(folder, device="cpu")
        if not whole:
            truncate(plain.model, last)
        return add_adapter(plain.model, RAHF_LORA, 0, last).eval()  # without dropout the ways can be compared

    each_time = FitTargets(differences, ALPHA, "norm", 0)
    whole, known_whole, lower, known_lower = student(True), student(True), student(False), student(False)
    once = each_time.with_base(known_lower, len(numbers))
    plain_batch, known_batch = each_time.batch(numbers), once.batch(numbers)
    return {
        PUBLISHED: Way(whole, lambda model: published(model, layers, plain_batch, None)),
        "base as well, blocks that matter": Way(lower, lambda model: each_time.step(model, plain_batch).loss),
        "base known, all blocks": Way(
            known_whole, lambda model: published(model, layers, plain_batch, known_batch.base)
        ),
        "base known, blocks that matter": Way(known_lower, lambda model: once.step(model, known_batch).loss),
    }


def kept_bytes(way: Way) -> int:
    """Bytes of the tensors, weights apart, that the forward passes leave for the backward pass."""
    weights = {weight.untyped_storage().data_ptr() for weight in way.model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        way.loss(way.model).backward()
    return sum(found.values())


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every row."""
    differences = make_differences(options)
    with tempfile.TemporaryDirectory(prefix="contrans-benchmark-") as name:
        folder = Path(name)
        save_model(folder, options.blocks, options.tokens)
        ways = make_ways(folder, differences, options.last)
    wanted = ways[PUBLISHED].gradients()
    steps = {name: way.stepping() for name, way in ways.items()}
    rows = []
    for name, way in ways.items():
        off = float((way.gradients() - wanted).norm() / wanted.norm())
        if off > TOLERANCE:
            raise SystemExit(f"{name}: loss and gradients are off by {off:.2g} of the published way's.")
        timed = alternate(steps[name], steps[PUBLISHED], options.repeats, CLOCKS[options.clock])
        rows.append({"way": name, "gradients_off": off, "kept_bytes": kept_bytes(way)} | timed)
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--last", type=int, default=18, help="last layer that is fitted, as an index of hidden_states")
    parser.add_argument("--batch", type=int, default=8, help="rows in a step")
    parser.add_argument("--tokens", type=int, default=64, help="tokens in a row; half of them are the answer")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="cpu", help="cpu where the machine is shared")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    rows = measure(options)
    table = Table(
        title=f"a step on {options.batch} x {options.tokens} tokens, layers to {options.last} of {options.blocks}"
    )
    for name in ("step", "ms", "all blocks ms", "ratio", "quartiles", "kept MiB"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for row in rows:
        table.add_row(
            row["way"],
            f"{1000 * row['seconds']:.0f}",
            f"{1000 * row['baseline_seconds']:.0f}",
            f"{row['ratio']:.3f}",
            f"{row['ratio_q1']:.3f} - {row['ratio_q3']:.3f}",
            f"{row['kept_bytes'] / 2**20:.0f}",
        )
    Console(width=110).print(table)
    if options.out is not None:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        options.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
