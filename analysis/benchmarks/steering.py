"""What steering costs: steered against unsteered greedy generation on the same back end.

    python analysis/benchmarks/steering.py [--size small|full] [--repeats 15] [--out steering.json]

Random models, made here, no network. Every pair runs in turn in this process, in alternating order, and what counts
is the median of the ratios: another program on the machine slows both sides. ``unsteered`` against itself shows what
the machine's noise is. Hugging Face's own generate with and without a forward hook stands beside for reference, and
the back ends themselves against it.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from contrans_lens.interventions import GENERATED, PROMPT, FromMarker, Intervention, steer
from contrans_lens.models import HookedModel, TokenBatch, generate_tokens, open_model, resid_post, tokenize

SIZES = {
    # About 17M and 20M parameters, or 1M each.
    "full": {"d_model": 256, "n_layers": 6, "n_heads": 4, "gpt2": 50257, "llama": 32000},
    "small": {"d_model": 128, "n_layers": 4, "n_heads": 4, "gpt2": 2000, "llama": 2000},
}
N_WORDS = 1900
N_CTX = 256
AIM = 1.03
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def make_tokenizer() -> Any:
    """One token a word."""
    vocabulary = {"<eos>": 0, **{f"w{number}": number + 1 for number in range(N_WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<eos>", eos_token="<eos>", pad_token="<eos>"
    )


def make_model(architecture: str, size: str) -> Any:
    """A random Hugging Face model of the architecture."""
    shape = SIZES[size]
    torch.manual_seed(0)
    config: Any
    if architecture == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=shape["gpt2"],
            n_embd=shape["d_model"],
            n_layer=shape["n_layers"],
            n_head=shape["n_heads"],
            n_positions=N_CTX,
            bos_token_id=0,
            eos_token_id=0,
        )
    else:
        config = transformers.LlamaConfig(
            vocab_size=shape["llama"],
            hidden_size=shape["d_model"],
            num_hidden_layers=shape["n_layers"],
            num_attention_heads=shape["n_heads"],
            intermediate_size=shape["d_model"] * 8 // 3,
            max_position_embeddings=N_CTX,
            bos_token_id=0,
            eos_token_id=0,
        )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def open_kinds(architecture: str, size: str) -> tuple[Any, dict[str, HookedModel]]:
    """The Hugging Face model, and the same weights opened by every class that is installed."""
    tokenizer, model = make_tokenizer(), make_model(architecture, size)
    opened: dict[str, HookedModel] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        opened["bridge"] = open_model(folder, kind="bridge", tokenizer=tokenizer)
        try:
            from transformer_lens import HookedTransformer  # absent from 4.x
        except ImportError:
            return model, opened
        if HookedTransformer is not None:
            opened["hooked"] = open_model(folder, kind="hooked", tokenizer=tokenizer)
    return model, opened


def ways_to_steer(model: HookedModel) -> dict[str, list[Intervention]]:
    """What is timed: one addition is the claim, the others say what more costs."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(model.cfg.n_layers, model.cfg.d_model, generator=generator)
    middle = model.cfg.n_layers // 2

    def make(layer: int, **options: Any) -> Intervention:
        return Intervention(resid_post(layer), vectors[layer], strength=0.1, residual_norm=1.0, **options)

    return {
        "unsteered": [],
        "add": [make(middle)],
        "add, every layer": [make(layer) for layer in range(model.cfg.n_layers)],
        "project out": [make(middle, op="project_out")],
        "add, prompt only": [make(middle, positions=PROMPT)],
        "add, generated only": [make(middle, positions=GENERATED)],
        "add, from a marker": [make(middle, positions=FromMarker("w7"))],
    }


def alternate(
    first: Callable[[], Any], second: Callable[[], Any], repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Run both in turn: median seconds of each, and quartiles of ``first / second``."""
    first(), second()
    times: list[tuple[float, float]] = []
    gc.collect()
    gc.disable()
    for repeat in range(repeats):
        pair = [0.0, 0.0]
        for side in (0, 1) if repeat % 2 == 0 else (1, 0):
            begin = clock()
            (first, second)[side]()
            pair[side] = clock() - begin
        times.append((pair[0], pair[1]))
    gc.enable()
    ratios = [own / other for own, other in times]
    low, middle, high = statistics.quantiles(ratios, n=4) if repeats > 1 else ratios * 3
    return {
        "seconds": statistics.median(own for own, _ in times),
        "baseline_seconds": statistics.median(other for _, other in times),
        "ratio": middle,
        "ratio_q1": low,
        "ratio_q3": high,
    }


def hugging_face(model: Any, batch: TokenBatch, n_new: int, delta: Tensor | None) -> Tensor:
    """Hugging Face's generate, with a plain forward hook on the middle block where there is a vector."""
    blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        return (output[0] + delta, *output[1:]) if isinstance(output, tuple) else output + delta

    handle = None if delta is None else blocks[len(blocks) // 2].register_forward_hook(hook)
    try:
        with torch.no_grad():
            generated = model.generate(
                batch.tokens,
                attention_mask=batch.mask.long(),
                max_new_tokens=n_new,
                min_new_tokens=n_new,
                do_sample=False,
                pad_token_id=0,
            )
    finally:
        if handle is not None:
            handle.remove()
    return generated[:, batch.tokens.shape[1] :]


def measure(architecture: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every row of one architecture."""
    clock = CLOCKS[options.clock]
    reference, opened = open_kinds(architecture, options.size)
    prompt = " ".join(f"w{number % N_WORDS}" for number in range(options.prompt_tokens))
    rows: list[dict[str, Any]] = []
    for kind, model in opened.items():
        batch = tokenize(model, [prompt] * options.batch, padding_side="left")

        def generate(chosen: list[Intervention], model: HookedModel = model, batch: TokenBatch = batch) -> Tensor:
            with steer(model, chosen) if chosen else nullcontext():
                return generate_tokens(model, batch, max_new_tokens=options.new_tokens, stop_at_eos=False)

        for name, chosen in ways_to_steer(model).items():
            if options.only and name not in options.only:
                continue

            def steered(chosen: list[Intervention] = chosen) -> Tensor:
                return generate(chosen)

            timed = alternate(steered, lambda: generate([]), options.repeats, clock)
            rows.append({"model": architecture, "back end": kind, "steering": name, "against": "unsteered"} | timed)

        def theirs(batch: TokenBatch = batch) -> Tensor:
            return hugging_face(reference, batch, options.new_tokens, None)

        timed = alternate(lambda: generate([]), theirs, options.repeats, clock)
        rows.append(
            {"model": architecture, "back end": kind, "steering": "unsteered", "against": "Hugging Face"} | timed
        )
    delta = ways_to_steer(model)["add"][0].delta().float()
    timed = alternate(
        lambda: hugging_face(reference, batch, options.new_tokens, delta),
        theirs,
        options.repeats,
        clock,
    )
    rows.append({"model": architecture, "back end": "Hugging Face", "steering": "add", "against": "unsteered"} | timed)
    return rows


def show(rows: list[dict[str, Any]], title: str, console: Console) -> None:
    """Print the rows as a table."""
    table = Table(title=title)
    for name in ("model", "back end", "steering", "against", "ms", "ratio", "quartiles"):
        table.add_column(name, justify="left" if name in ("model", "back end", "steering", "against") else "right")
    for row in rows:
        table.add_row(
            row["model"],
            row["back end"],
            row["steering"],
            row["against"],
            f"{1000 * row['seconds']:.1f}",
            f"{row['ratio']:.3f}",
            f"{row['ratio_q1']:.3f} - {row['ratio_q3']:.3f}",
        )
    console.print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--architectures", nargs="+", choices=("gpt2", "llama"), default=["gpt2", "llama"])
    parser.add_argument("--batch", type=int, default=4, help="rows generated at once")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs="+", metavar="STEERING", help="'add' and the like, as in the table")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu where the machine is shared")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    console = Console(width=130)
    rows = [row for architecture in options.architectures for row in measure(architecture, options)]
    title = (
        f"greedy generation, {options.batch} x {options.prompt_tokens} + {options.new_tokens} tokens, "
        f"{options.size} models: aim for 'add' <= {AIM}"
    )
    show(rows, title, console)
    if options.out is not None:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        result = {"settings": settings, "aim": AIM, "torch": torch.__version__, "rows": rows}
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
