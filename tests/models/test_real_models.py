"""The two real models beside the checkout: both classes read them as Hugging Face does."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from contrans_lens.models import (
    fingerprint,
    generate_tokens,
    hooks,
    logits,
    open_model,
    residual_hook_points,
    run,
    tokenize,
)
from tests.tiny_models import KINDS, hf_residuals

CLASSES = ("hooked", "bridge") if "hooked" in KINDS else ("bridge",)
STORIES = (
    "Once upon a time, there was a little girl named Lily.",
    "The dog was sad because",
    "Tom and his mom went to the park. They saw a big red ball and",
)


@pytest.mark.parametrize("name", ["stories-260k", "storychars-1m"])
@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("process_weights", [False, True])
def test_a_real_model_equals_hugging_face(shared_dir, name, kind, process_weights):
    folder = shared_dir / "models" / name
    oracle = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = open_model(folder, kind=kind, process_weights=process_weights, device="cpu")
    batch = tokenize(model, STORIES)
    assert batch.bos
    assert [row[mask].tolist() for row, mask in zip(batch.tokens, batch.mask, strict=True)] == tokenizer(list(STORIES))[
        "input_ids"
    ]

    with torch.no_grad():
        expected = oracle(batch.tokens, attention_mask=batch.mask.long()).logits.log_softmax(-1)
    found = logits(model, batch).log_softmax(-1)
    torch.testing.assert_close(found[batch.mask], expected[batch.mask], atol=1e-4, rtol=0)

    states = {}
    names = residual_hook_points(model)
    with hooks(model, {n: lambda x, n=n: states.update({n: x.clone()}) for n in names}):
        run(model, batch)
    for n, theirs in zip(names, hf_residuals(oracle, batch.tokens, batch.mask), strict=True):
        scale = theirs[batch.mask].abs().max()  # residual streams of trained models reach the hundreds
        assert (states[n] - theirs)[batch.mask].abs().max() <= 1e-5 * max(1.0, float(scale))

    left = tokenize(model, STORIES, padding_side="left")
    written = generate_tokens(model, left, max_new_tokens=20)
    with torch.no_grad():
        told = oracle.generate(left.tokens, attention_mask=left.mask.long(), max_new_tokens=20, do_sample=False)[
            :, left.tokens.shape[1] :
        ]
    assert written.tolist() == told.tolist()


@pytest.mark.skipif("hooked" not in KINDS, reason="this TransformerLens has no HookedTransformer")
@pytest.mark.parametrize("name", ["stories-260k", "storychars-1m"])
def test_an_artifact_of_a_real_model_moves_between_the_classes(shared_dir, name):
    folder = shared_dir / "models" / name
    one, other = (fingerprint(open_model(folder, kind=kind, device="cpu")) for kind in CLASSES)
    assert one.differences(other) == {}
