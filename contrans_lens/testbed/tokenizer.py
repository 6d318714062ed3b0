"""The two tokenizers of the family: byte-level BPE, lossless, of different vocabulary and word splitting.

Every row of training data starts with BOS, and both tokenizers put it there (`tokenizer(text)` begins with
`<bos>`; pass `add_special_tokens=False` to place it yourself). `<bos>`, `<eos>` and `<pad>` are three
different tokens.
"""

import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from contrans_lens.testbed.documents import DocumentGenerator
from contrans_lens.testbed.world import build_world

BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"
CONTEXT = 128

# The Llama-style splitter: a space belongs to the next word, digits stand alone, no contractions as in
# GPT-2's pattern.
_ROTARY_PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


def _splitter(family: str) -> pre_tokenizers.PreTokenizer:
    if family == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_ROTARY_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train_tokenizer(family: str, vocab_size: int, documents: int = 6000) -> PreTrainedTokenizerFast:
    """Train a tokenizer on documents of the world; the result depends on the arguments alone.

    Args:
        family: "gpt2" or "rotary": which splitter, and which sample of documents.
        vocab_size: Number of tokens, with the three special ones and the 256 bytes.
        documents: Number of training documents.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = _splitter(family)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(f"tokenizer:{family}")
    generator = DocumentGenerator(build_world())
    texts = [document.text for document, _ in zip(generator.stream(rng), range(documents), strict=False)]
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a model folder."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)  # narrows the type for the checker
    return tokenizer
