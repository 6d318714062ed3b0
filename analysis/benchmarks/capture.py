"""Speed and memory of residual capture, each claim against its baseline in the same process on the same texts.

    python analysis/benchmarks/capture.py [--size small|full] [--repeats 5] [--out capture.json]

Random models, made here, no network. (a) Capture at 8 x 64 tokens against Hugging Face ``output_hidden_states``;
(b) against capture of one text at a time; (c) peak memory of 500 and of 4,000 texts, each in a process of its own.
Both sides alternate, and what counts is the median of the ratios: another program on the machine slows both.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from contrans_lens.models import HookedModel, hooks, open_model, run, tokenize
from contrans_lens.residuals import capture, capture_moments

SIZES = {
    # d_model, layers, heads, vocabulary of GPT-2 and of Llama: about 17M and 20M parameters, or 1M each.
    "full": {"d_model": 256, "n_layers": 6, "n_heads": 4, "gpt2": 50257, "llama": 32000},
    "small": {"d_model": 128, "n_layers": 4, "n_heads": 4, "gpt2": 2000, "llama": 2000},
}
N_WORDS = 1900


def make_tokenizer() -> Any:
    """One token a word, so that texts have exactly as many tokens as they are given words."""
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
            vocab_size=shape["gpt2"], n_embd=shape["d_model"], n_layer=shape["n_layers"], n_head=shape["n_heads"],
            n_positions=128, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    else:
        config = transformers.LlamaConfig(
            vocab_size=shape["llama"], hidden_size=shape["d_model"], num_hidden_layers=shape["n_layers"],
            num_attention_heads=shape["n_heads"], intermediate_size=shape["d_model"] * 8 // 3,
            max_position_embeddings=128, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def make_texts(n: int, shortest: int, longest: int) -> list[str]:
    """Texts of random words, of ``shortest`` to ``longest`` tokens."""
    draw = random.Random(0)
    return [" ".join(f"w{draw.randrange(N_WORDS)}" for _ in range(draw.randint(shortest, longest))) for _ in range(n)]


def hugging_face_capture(model: Any, tokenizer: Any, texts: list[str], batch_size: int) -> Tensor:
    """Last-token residuals ``[example, layer, d_model]`` the usual way: all hidden states, then the last token."""
    rows = []
    with torch.no_grad():
        for begin in range(0, len(texts), batch_size):
            encoded = tokenizer(texts[begin : begin + batch_size], return_tensors="pt", padding=True)
            output = model(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                output_hidden_states=True,
                use_cache=False,
            )
            last = encoded["attention_mask"].sum(dim=1) - 1
            row = torch.arange(len(last))
            rows.append(torch.stack([states[row, last] for states in output.hidden_states[1:]], dim=1))
    return torch.cat(rows)


def one_at_a_time(model: HookedModel, texts: list[str]) -> Tensor:
    """The same with one text in each forward pass of the same model class, all hook points in one pass."""
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor], None]:
        def hook(residual: Tensor) -> None:
            kept[name] = residual[0, -1].clone()

        return hook

    rows = []
    for text in texts:
        with hooks(model, {name: keep(name) for name in names}):
            run(model, tokenize(model, [text], prepend_bos=False))
        rows.append(torch.stack([kept[name] for name in names]))
    return torch.stack(rows)


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_clock = CLOCKS["wall"]


def alternate(first: Callable[[], Any], second: Callable[[], Any], repeats: int, *, share: int = 1) -> dict[str, float]:
    """Run both in turn; median seconds of each and median of ``first / second``.

    ``second`` does one part in ``share`` of the work, and its time counts so many times.
    """
    first(), second()
    times: list[tuple[float, float]] = []
    for repeat in range(repeats):
        pair = [0.0, 0.0]
        for side in (0, 1) if repeat % 2 == 0 else (1, 0):
            begin = _clock()
            (first, second)[side]()
            pair[side] = _clock() - begin
        times.append((pair[0], pair[1] * share))
    return {
        "seconds": statistics.median(own for own, _ in times),
        "baseline_seconds": statistics.median(other for _, other in times),
        "ratio": statistics.median(own / other for own, other in times),
    }


def open_kinds(architecture: str, size: str) -> tuple[Any, Any, dict[str, HookedModel]]:
    """The Hugging Face model and the same weights opened by every class that is installed."""
    tokenizer, model = make_tokenizer(), make_model(architecture, size)
    opened: dict[str, HookedModel] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        opened["bridge"] = open_model(folder, kind="bridge", tokenizer=tokenizer)
        try:
            from transformer_lens import HookedTransformer  # absent from 4.x
        except ImportError:
            return model, tokenizer, opened
        if HookedTransformer is not None:
            opened["hooked"] = open_model(folder, kind="hooked", tokenizer=tokenizer)
    return model, tokenizer, opened


def against_hugging_face(size: str, repeats: int, n_batches: int) -> list[dict[str, Any]]:
    """(a) Texts of 64 tokens, eight at a time."""
    texts = make_texts(8 * n_batches, 64, 64)
    rows: list[dict[str, Any]] = []
    for architecture in ("gpt2", "llama"):
        model, tokenizer, opened = open_kinds(architecture, size)
        for kind, hooked in opened.items():

            def ours(hooked: HookedModel = hooked) -> Tensor:
                return capture(hooked, texts, batch_size=8, prepend_bos=False).tensor()

            for baseline, theirs in (("causal LM", model), ("without unembedding", model.base_model)):

                def usual(theirs: Any = theirs, tokenizer: Any = tokenizer) -> Tensor:
                    return hugging_face_capture(theirs, tokenizer, texts, 8)

                # The last entry of hidden_states is after the final norm; all others must be what was captured.
                difference = float((ours() - usual())[:, :-1].abs().max())
                rows.append(
                    {"model": architecture, "kind": kind, "baseline": baseline, "difference": difference}
                    | alternate(ours, usual, repeats)
                )
    return rows


def against_one_at_a_time(size: str, repeats: int, n_texts: int, share: int) -> list[dict[str, Any]]:
    """(b) Many short texts, 4 to 20 tokens; the baseline runs every ``share``-th of them."""
    texts = make_texts(n_texts, 4, 20)
    rows: list[dict[str, Any]] = []
    for architecture in ("gpt2", "llama"):
        model, tokenizer, opened = open_kinds(architecture, size)
        for kind, hooked in opened.items():

            def ours(hooked: HookedModel = hooked) -> Tensor:
                return capture(hooked, texts, prepend_bos=False).tensor()

            def same_class(hooked: HookedModel = hooked) -> Tensor:
                return one_at_a_time(hooked, texts[::share])

            difference = float((ours()[::share] - same_class()).abs().max())
            timed = alternate(ours, same_class, repeats, share=share)
            rows.append(
                {"model": architecture, "kind": kind, "baseline": "same class", "difference": difference}
                | timed
                | {"speedup": 1 / timed["ratio"]}
            )
            if kind == "bridge":

                def public(theirs: Any = model, tokenizer: Any = tokenizer) -> Tensor:
                    return hugging_face_capture(theirs, tokenizer, texts[::share], 1)

                timed = alternate(ours, public, repeats, share=share)
                rows.append(
                    {"model": architecture, "kind": kind, "baseline": "output_hidden_states"}
                    | timed
                    | {"speedup": 1 / timed["ratio"]}
                )
    return rows


def memory_child(what: str, n_texts: int, size: str) -> None:
    """Capture in this process and print the growth of its peak memory in MiB."""
    tokenizer = make_tokenizer()
    model = make_model("gpt2", size)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        hooked = open_model(folder, kind="bridge", tokenizer=tokenizer)
        texts = make_texts(n_texts, 4, 20)
        capture_moments(hooked, make_texts(50, 64, 64), prepend_bos=False)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if what == "moments":
            capture_moments(hooked, texts, prepend_bos=False)
        else:
            capture(hooked, texts, prepend_bos=False, store=Path(folder) / "store")
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(json.dumps({"peak_mib": after / 1024, "growth_mib": (after - before) / 1024}))


def memory(size: str, counts: tuple[int, int]) -> list[dict[str, Any]]:
    """(c) Peak memory for few and for many texts."""
    rows = []
    for what in ("moments", "store"):
        found = [
            json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--memory-child", what, str(count), "--size", size],
                    check=True, capture_output=True, text=True,
                ).stdout
            )
            for count in counts
        ]  # fmt: skip
        rows.append(
            {
                "what": what,
                "texts": list(counts),
                "peak_mib": [one["peak_mib"] for one in found],
                "ratio": found[1]["peak_mib"] / found[0]["peak_mib"],
            }
        )
    return rows


def show(title: str, rows: list[dict[str, Any]], console: Console) -> None:
    """One table of results."""
    table = Table(title=title)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name)
    for row in rows:
        table.add_row(*(f"{row[n]:.3g}" if isinstance(row.get(n), float) else str(row.get(n, "")) for n in names))
    console.print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=16, help="batches of 8 x 64 tokens in each repeat of (a)")
    parser.add_argument("--texts", type=int, default=2000, help="texts of (b)")
    parser.add_argument("--share", type=int, default=1, help="the baseline of (b) runs every so-manieth text only")
    parser.add_argument("--only", choices=("a", "b", "c"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu where the machine is shared")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-child", nargs=2, metavar=("WHAT", "TEXTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    global _clock
    _clock = CLOCKS[options.clock]
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    if options.memory_child:
        memory_child(options.memory_child[0], int(options.memory_child[1]), options.size)
        return
    console = Console(width=140)
    results: dict[str, Any] = {
        "size": options.size,
        "threads": options.threads,
        "clock": options.clock,
        "torch": torch.__version__,
    }
    if options.only in (None, "a"):
        results["a"] = against_hugging_face(options.size, options.repeats, options.batches)
        show("(a) 8 x 64 tokens against output_hidden_states: aim ratio <= 1.05", results["a"], console)
    if options.only in (None, "b"):
        results["b"] = against_one_at_a_time(options.size, max(1, options.repeats // 2), options.texts, options.share)
        show(f"(b) {options.texts} short texts against one at a time: aim speedup >= 8", results["b"], console)
    if options.only in (None, "c"):
        results["c"] = memory(options.size, (500, 4000))
        show("(c) peak memory, few and many texts: aim ratio 1", results["c"], console)
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
