"""Small random models of every supported architecture, with small tokenizers of their own, for the tests of
all rooms.

``hf_tiny(architecture)`` is the Hugging Face oracle, ``tiny_folder(architecture)`` the same model saved to
disk, ``open_tiny(architecture, kind)`` the same model opened by this package. All three are made once per
process and shared: a test that changes a model asks for ``fresh=True``.

The tokenizers are byte-level BPE and differ as the real ones do: with or without BOS, with a pad token of
their own, or (GPT-2) with one token that is BOS, EOS and padding at once.
"""

import atexit
import collections
import functools
import itertools
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from contrans_lens.models import HookedModel, open_model

ARCHITECTURES = ("gpt2", "neox", "llama", "mistral", "qwen2", "qwen3", "gemma")
"""Every architecture that HookedTransformer must open."""
PARITY_ARCHITECTURES = ("gpt2", "neox", "llama", "qwen3", "gemma")
"""Those of the parity matrix."""
N_LAYERS, D_MODEL, N_CTX = 4, 32, 128

TEXTS = (
    "The little fox ran home.",
    "Once upon a time there was a girl who liked to sing in the garden all day.",
    "No!",
    "He said: the answer is 42, and nobody asked why.",
)
"""Four texts of different lengths."""

_CORPUS = [
    "Once upon a time there was a little girl who liked to sing in the garden all day.",
    "The little fox ran home because the night was cold, and nobody asked him why.",
    "He said that the answer is 42. She said: no, the answer is 7!",
    "Question: Is the sky green? Answer: no. Question: Is the grass green? Answer: yes.",
    "Every day the old man walked to the river, looked at the water and felt happy or sad.",
]


def _installed_kinds() -> tuple[str, ...]:
    try:
        from transformer_lens import HookedTransformer  # in 4.x the name raises ImportError
    except ImportError:
        return ("bridge", "bridge_compat", "native")
    return ("hooked", "hooked_processed", "bridge", "bridge_compat", "native") if HookedTransformer else ()


KINDS = _installed_kinds()
"""Kinds of model that the installed TransformerLens can make."""
RAW_KINDS = tuple(kind for kind in KINDS if kind in ("hooked", "bridge"))
"""Kinds whose residual stream is that of Hugging Face."""
HF_KINDS = tuple(kind for kind in KINDS if kind != "native")
"""Kinds that stand on the same weights as ``hf_tiny`` (``native`` has no Hugging Face counterpart)."""

_SPECIAL = {
    # architecture: (special tokens, bos, eos, pad, does the tokenizer add BOS)
    "gpt2": (["<|endoftext|>"], "<|endoftext|>", "<|endoftext|>", None, False),
    "neox": (["<|endoftext|>", "<|padding|>"], "<|endoftext|>", "<|endoftext|>", "<|padding|>", False),
    "llama": (["<unk>", "<s>", "</s>"], "<s>", "</s>", None, True),
    "mistral": (["<unk>", "<s>", "</s>"], "<s>", "</s>", "</s>", True),
    "qwen2": (["<|endoftext|>", "<|im_end|>"], None, "<|im_end|>", "<|endoftext|>", False),
    "qwen3": (["<|endoftext|>", "<|im_end|>"], None, "<|im_end|>", "<|endoftext|>", False),
    "gemma": (["<pad>", "<eos>", "<bos>", "<unk>"], "<bos>", "<eos>", "<pad>", True),
}


@functools.cache
def _train_merges(n_merges: int = 80) -> tuple[tuple[str, str], ...]:
    """Byte-pair merges of the corpus, ties broken by the alphabet.

    (The trainer of ``tokenizers`` breaks them by chance, so that no two runs would test the same ids.)
    """
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [list(word) for line in _CORPUS for word, _ in split.pre_tokenize_str(line)]
    merges: list[tuple[str, str]] = []
    for _ in range(n_merges):
        counts = collections.Counter(pair for word in words for pair in itertools.pairwise(word))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word in words:
            for at in range(len(word) - 1, 0, -1):
                if at < len(word) and (word[at - 1], word[at]) == best:
                    word[at - 1 : at + 1] = ["".join(best)]
    return tuple(merges)


@functools.cache
def tiny_tokenizer(architecture: str = "gpt2") -> Any:
    """A byte-level BPE tokenizer with the special tokens and habits of the architecture."""
    special, bos, eos, pad, adds_bos = _SPECIAL[architecture]
    merges = _train_merges()
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        padding_side="left" if architecture == "gemma" else "right",
        model_max_length=N_CTX,
        clean_up_tokenization_spaces=False,
    )


def tiny_config(architecture: str) -> Any:
    """The Hugging Face configuration of a tiny model."""
    tokenizer = tiny_tokenizer(architecture)
    shared = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.15,
    }
    if architecture == "gpt2":
        return transformers.GPT2Config(
            n_layer=N_LAYERS,
            n_embd=D_MODEL,
            n_head=4,
            n_positions=N_CTX,
            attn_implementation="eager",
            **shared,
        )
    shared |= {
        "num_hidden_layers": N_LAYERS,
        "hidden_size": D_MODEL,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": N_CTX,
        "attn_implementation": "eager",
    }
    if architecture == "neox":
        return transformers.GPTNeoXConfig(**shared)
    grouped = shared | {"num_key_value_heads": 2}
    if architecture == "llama":
        return transformers.LlamaConfig(**grouped)
    if architecture == "mistral":
        return transformers.MistralConfig(sliding_window=None, **grouped)
    if architecture == "qwen2":
        return transformers.Qwen2Config(tie_word_embeddings=True, **grouped)
    if architecture == "qwen3":
        return transformers.Qwen3Config(head_dim=16, **grouped)
    return transformers.GemmaConfig(**(shared | {"num_key_value_heads": 1, "head_dim": 8}))


def make_hf(architecture: str, seed: int = 0) -> Any:
    """A new random Hugging Face model. Norm weights and biases are random too, so that folding them is
    tested."""
    config = tiny_config(architecture)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    # Greedy generation is the oracle; nothing of a sampling preset may leak in.
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model.eval()


@functools.cache
def hf_tiny(architecture: str, seed: int = 0) -> tuple[Any, Any]:
    """The Hugging Face model and tokenizer that every kind of ``architecture`` is opened from (shared: do not
    change)."""
    # Read back from the folder: Hugging Face picks the tokenizer's class by architecture; Qwen2's splits digits.
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder(architecture, seed))
    return make_hf(architecture, seed), tokenizer


@functools.cache
def tiny_folder(architecture: str, seed: int = 0, dtype: torch.dtype = torch.float32, name: str = "tiny") -> Path:
    """A folder that holds the model and its tokenizer, removed when the process ends."""
    root = Path(tempfile.mkdtemp(prefix="contrans-tiny-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    folder = root / f"{name}-{architecture}"
    make_hf(architecture, seed).to(dtype).save_pretrained(folder)
    tiny_tokenizer(architecture).save_pretrained(folder)
    return folder


def _open_native(architecture: str, seed: int) -> HookedModel:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder(architecture, seed))
    tokenizer.init_kwargs["add_bos_token"] = True  # else TransformerLens loads it again, from the hub if need be
    layer_norm = architecture in ("gpt2", "neox")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_native(
            TransformerBridgeConfig(
                n_layers=N_LAYERS,
                d_model=D_MODEL,
                n_ctx=N_CTX,
                d_head=8,
                n_heads=4,
                d_vocab=len(tokenizer),
                d_mlp=64,
                act_fn="gelu" if layer_norm else "silu",
                normalization_type="LN" if layer_norm else "RMS",
                gated_mlp=not layer_norm,
                positional_embedding_type="standard" if architecture == "gpt2" else "rotary",
                n_key_value_heads=None if layer_norm else 2,
                seed=seed,
                device="cpu",
            ),
            tokenizer=tokenizer,
        )


def _open(architecture: str, kind: str, seed: int) -> HookedModel:
    if kind == "native":
        return _open_native(architecture, seed)
    return open_model(
        tiny_folder(architecture, seed),
        kind="hooked" if kind.startswith("hooked") else "bridge",
        process_weights=kind in ("hooked_processed", "bridge_compat"),
        device="cpu",
    )


_open_once = functools.cache(_open)


def blocks_of(hf_model: Any) -> Any:
    """The transformer blocks of a Hugging Face model, to hook them there."""
    inner = hf_model.base_model
    return inner.h if hasattr(inner, "h") else inner.layers


def hf_residuals(hf_model: Any, tokens: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """The oracle: what comes out of every block of a Hugging Face model, ``[batch, pos, d_model]`` each."""
    found: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(
            lambda module, inputs, output: found.append(output[0] if isinstance(output, tuple) else output)
        )
        for block in blocks_of(hf_model)
    ]
    with torch.no_grad():
        hf_model(tokens, attention_mask=mask.long())
    for handle in handles:
        handle.remove()
    return found


def open_tiny(architecture: str = "gpt2", kind: str = "bridge", *, seed: int = 0, fresh: bool = False) -> HookedModel:
    """The tiny model opened as one of ``KINDS``: shared between tests unless ``fresh``."""
    return (_open if fresh else _open_once)(architecture, kind, seed)
