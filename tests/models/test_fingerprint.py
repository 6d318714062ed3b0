"""Fingerprints: the same over back ends and paddings, another for any other model."""

import copy
import json

import pytest
import torch

from contrans_lens.errors import FingerprintMismatchError, ModelError
from contrans_lens.models import Fingerprint, fingerprint, open_model
from tests.tiny_models import (
    ARCHITECTURES,
    D_MODEL,
    KINDS,
    N_LAYERS,
    PARITY_ARCHITECTURES,
    RAW_KINDS,
    open_tiny,
    tiny_folder,
)

PROCESSED = tuple(kind for kind in KINDS if kind in ("hooked_processed", "bridge_compat"))


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_the_model_is(kind):
    model = open_tiny("llama", kind)
    found = fingerprint(model)
    assert (found.n_layers, found.d_model, found.d_vocab) == (N_LAYERS, D_MODEL, model.cfg.d_vocab)
    assert found.dtype == "float32"
    assert {"torch", "transformers", "transformer-lens", "contrans-lens"} <= found.versions.keys()
    if kind != "native":
        assert found.architecture == "LlamaForCausalLM"


@pytest.mark.parametrize("kind", KINDS)
def test_it_survives_json_and_is_the_same_twice(kind):
    model = open_tiny("gpt2", kind)
    found = fingerprint(model)
    back = Fingerprint.from_dict(json.loads(json.dumps(found.to_dict())))
    assert back == found == fingerprint(model)
    assert back.versions == found.versions
    assert back.differences(found) == {}
    with pytest.raises(FingerprintMismatchError, match="cannot be read"):
        Fingerprint.from_dict({"name": "only"})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_raw_kinds_of_one_model_agree(architecture):
    prints = [fingerprint(open_tiny(architecture, kind)) for kind in RAW_KINDS]
    for one in prints:
        assert one.processing == "raw"
        for other in prints:
            assert one.differences(other) == {}
            one.require(other, "an artifact")


@pytest.mark.parametrize("architecture", PARITY_ARCHITECTURES)
@pytest.mark.parametrize("kind", PROCESSED)
def test_processing_is_the_one_difference_and_refused_where_it_changes_the_basis(architecture, kind):
    raw, processed = (
        fingerprint(open_tiny(architecture, "bridge")),
        fingerprint(open_tiny(architecture, kind)),
    )
    assert raw.differences(processed).keys() == {"processing"}
    if architecture in ("gpt2", "neox"):
        assert processed.processing == "folded+centred"
        with pytest.raises(FingerprintMismatchError, match=r"the vector.*open with process_weights=False"):
            raw.require(processed, "the vector")
        with pytest.raises(FingerprintMismatchError, match=r"open with process_weights=True"):
            processed.require(raw, "the vector")
    else:  # RMSNorm: folding leaves the residual stream as it is
        assert processed.processing == "folded"
        raw.require(processed, "the vector")


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_another_seed_of_the_same_shape_is_another_model(kind):
    one, other = fingerprint(open_tiny("llama", kind)), fingerprint(open_tiny("llama", kind, seed=1))
    assert one.differences(other).keys() == {"weights"}
    with pytest.raises(FingerprintMismatchError, match="the map belongs to another model"):
        one.require(other, "the map")


def test_other_shapes_and_tokenizers_are_named():
    one, other = fingerprint(open_tiny("llama", "bridge")), fingerprint(open_tiny("gemma", "bridge"))
    assert {"architecture", "d_vocab", "weights", "tokenizer"} <= one.differences(other).keys()
    with pytest.raises(FingerprintMismatchError, match="architecture: LlamaForCausalLM there, Gemma"):
        one.require(other, "the map")


@pytest.mark.parametrize("name", ["q_proj", "o_proj", "up_proj", "input_layernorm"])
@pytest.mark.parametrize("layer", [0, N_LAYERS - 1])
def test_a_small_change_of_any_weight_shows(name, layer):
    from transformers import AutoModelForCausalLM

    folder = tiny_folder("llama")
    model = open_model(folder, kind="bridge", device="cpu")
    before = fingerprint(model)
    hf = AutoModelForCausalLM.from_pretrained(folder)
    weight = next(p for n, p in hf.named_parameters() if f"layers.{layer}." in n and name in n)
    changed = copy.deepcopy(hf)
    with torch.no_grad():
        target = dict(changed.named_parameters())[next(n for n, p in hf.named_parameters() if p is weight)]
        # a rank-one change of one percent of the weight's norm, as a light fine-tuning makes
        noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
        target.add_(0.01 * noise / noise.norm() * target.norm())
    after = fingerprint(_opened_from(changed, folder))
    assert before.differences(after).keys() == {"weights"}


def _opened_from(hf, folder):
    """Through a folder, as a user would."""
    import shutil
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as root:
        copied = Path(root) / "changed"
        shutil.copytree(folder, copied)
        hf.save_pretrained(copied)
        return open_model(copied, kind="bridge", device="cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_same_weights_in_another_dtype_differ_in_dtype_only(dtype):
    one = fingerprint(open_tiny("llama", "bridge"))
    other = fingerprint(open_model(tiny_folder("llama"), kind="bridge", dtype=dtype, device="cpu"))
    assert one.differences(other).keys() == {"dtype"}
    one.require(other, "the vector")


@pytest.mark.skipif("hooked" not in KINDS, reason="this TransformerLens has no HookedTransformer")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_live_model_made_by_hand_has_one_too():
    from transformer_lens import HookedTransformer

    settings = {"n_layers": 2, "d_model": 16, "n_ctx": 32, "d_head": 8, "d_vocab": 50, "act_fn": "gelu"}
    found = fingerprint(HookedTransformer({**settings, "seed": 0, "normalization_type": "LN"}))
    assert (found.n_layers, found.d_model, found.tokenizer, found.processing) == (2, 16, "none", "raw")
    centred = HookedTransformer({**settings, "seed": 0, "normalization_type": "LN"})
    centred.load_and_process_state_dict(centred.state_dict(), fold_ln=False)
    assert found.differences(fingerprint(centred)).keys() == {"processing"}


def test_versions_and_names_never_matter():
    one = fingerprint(open_tiny("gpt2", "bridge"))
    other = Fingerprint.from_dict(one.to_dict() | {"name": "elsewhere", "versions": {"torch": "0.1"}})
    assert one.differences(other) == {}
    assert one.identity() == other.identity()
    one.require(other, "the vector")


def test_damaged_weights_are_refused():
    model = open_tiny("gpt2", "bridge", fresh=True)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN or infinity"):
        fingerprint(model)
