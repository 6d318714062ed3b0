"""What the tests of the exports share: lm-evaluation-harness' own model as the oracle, requests, tasks on disk."""

import contextlib
import copy
import json

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import processors

from contrans_lens.interventions import Intervention
from tests.tiny_models import D_MODEL, N_CTX, blocks_of, hf_tiny, make_hf

LAYER = 1
HOOK_POINT = f"blocks.{LAYER}.hook_resid_post"
LONG = "girl river day " * N_CTX
PAIRS = (
    ("The sky is", " green"),
    ("The sky is", " grass"),
    ("Is the sky green? Answer:", "!"),
    ("Is the sky green? Answer:", "?"),
    ("Is the sky green? Answer:", "?!"),  # goes on from the one before
    ("The sky is", " green"),  # asked twice
    ("He said: the answer is 42 ", "and nobody asked why"),  # the space moves over
    ("", "Once upon a time"),
    ("Every day the old man felt hap", "py or sad."),  # tokens merge over the seam
    (LONG, "and sad"),  # keeps its end
    ("No!", " Once upon a time there was a girl who liked to sing in the garden all day."),
)
CONTEXTS = ("The sky is", "Once upon a time there was", "No!", "The sky is", "He said: the answer is", LONG)


def vector(seed=0, scale=4.0):
    return scale * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))


def addition(scale=4.0, **options):
    return Intervention(HOOK_POINT, vector(scale=scale), unit="absolute", **options)


def oracle(architecture, *, writes_bos=False, **options):
    """lm-evaluation-harness' model for Hugging Face; its tokenizer can be made to write BOS."""
    tokenizer = copy.deepcopy(hf_tiny(architecture)[1])
    if writes_bos:
        bos = tokenizer.bos_token
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
        )
    return HFLM(pretrained=make_hf(architecture), tokenizer=tokenizer, batch_size=3, **options)


@contextlib.contextmanager
def hooked(hf_model, added, layer=LAYER):
    """Add a vector to what a block of a Hugging Face model gives out, at every position."""

    def add(module, inputs, output):
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    handle = blocks_of(hf_model)[layer].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def likelihood_requests(pairs=PAIRS):
    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def rolling_requests(texts):
    return [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]


def generation_requests(contexts=CONTEXTS, **arguments):
    return [Instance("generate_until", {}, (text, dict(arguments)), number) for number, text in enumerate(contexts)]


DOCUMENTS = [
    {"question": "The sky is", "choices": ["green", "grass", "old"], "gold": 0},
    {"question": "Once upon a time there was", "choices": ["a girl", "river", "no"], "gold": 0},
    {"question": "He said: the answer is", "choices": ["42", "7", "happy or sad"], "gold": 1},
    {"question": "Every day the old man", "choices": ["walked to the river", "asked", "was cold"], "gold": 2},
    {"question": "She said:", "choices": ["no", "yes", "the grass is green"], "gold": 0},
    {"question": "Is the grass green? Answer:", "choices": ["yes", "no", "42"], "gold": 0},
]
_TASKS = {
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "mcc"}],
    },
    "tiny_writing": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[gold]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 5},
        "metric_list": [{"metric": "exact_match"}],
    },
    "tiny_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "tiny_cloze": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[gold]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
}


def write_tasks(folder):
    """Tasks on documents of their own, which need no network, and a group of two of them."""
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)))
    data = {"data_files": {"test": str(folder / "documents.jsonl")}, "cache_dir": str(folder / "cache")}
    shared = {"dataset_path": "json", "dataset_kwargs": data, "test_split": "test"}
    for name, body in _TASKS.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **shared, **body}))  # JSON is YAML
    group = {"group": "tiny_group", "task": ["tiny_choice", "tiny_cloze"]}
    group["aggregate_metric_list"] = [{"metric": "acc", "weight_by_size": True}]
    (folder / "tiny_group.yaml").write_text(json.dumps(group))
    return folder


def ask(lm, pairs=PAIRS):
    return lm.loglikelihood(likelihood_requests(pairs), disable_tqdm=True)


def write(lm, contexts=CONTEXTS, **arguments):
    return lm.generate_until(generation_requests(contexts, **arguments), disable_tqdm=True)
