"""open_model: what opens, in which class and dtype, and what is refused with what advice."""

import json
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from contrans_lens.errors import ModelError
from contrans_lens.models import (
    generate_tokens,
    input_device,
    logits,
    open_model,
    parameter_dtype,
    tokenize,
)
from tests.tiny_models import (
    ARCHITECTURES,
    KINDS,
    TEXTS,
    hf_tiny,
    make_hf,
    open_tiny,
    tiny_config,
    tiny_folder,
    tiny_tokenizer,
)

HAS_HOOKED = "hooked" in KINDS
needs_hooked = pytest.mark.skipif(not HAS_HOOKED, reason="this TransformerLens has no HookedTransformer")
CLASSES = ("hooked", "bridge") if HAS_HOOKED else ("bridge",)


def assert_same_as_hf(model, oracle):
    batch = tokenize(model, TEXTS)
    with torch.no_grad():
        expected = oracle(batch.tokens, attention_mask=batch.mask.long()).logits
    torch.testing.assert_close(logits(model, batch)[batch.mask], expected[batch.mask], atol=1e-5, rtol=0)


def save_with(architecture, changes, folder):
    """Save a model of a changed configuration; returns the Hugging Face model."""
    config = tiny_config(architecture)
    config = type(config)(**(config.to_dict() | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        oracle = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    oracle.save_pretrained(folder)
    hf_tiny(architecture)[1].save_pretrained(folder)
    return oracle


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_auto_is_hooked_transformer_where_there_is_one(architecture):
    model = open_model(tiny_folder(architecture), device="cpu")
    assert type(model).__name__ == ("HookedTransformer" if HAS_HOOKED else "TransformerBridge")
    assert_same_as_hf(model, hf_tiny(architecture)[0])


@pytest.mark.skipif(HAS_HOOKED, reason="this TransformerLens has HookedTransformer")
def test_hooked_is_refused_with_advice_where_there_is_none():
    with pytest.raises(ModelError, match=r"TransformerLens 4 removed.*kind='bridge'.*3\.9\.0"):
        open_model(tiny_folder("gpt2"), kind="hooked")


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama", "qwen3", "gemma"])
@pytest.mark.parametrize("word", ["llama-7b-hf", "google-gemma-2-2b"])
def test_the_text_of_a_path_means_nothing(architecture, word, kind, tmp_path):
    folder = tmp_path / word
    shutil.copytree(tiny_folder(architecture), folder)
    assert_same_as_hf(open_model(str(folder), kind=kind, device="cpu"), hf_tiny(architecture)[0])


@pytest.mark.parametrize("kind", CLASSES)
def test_a_gpt2_config_without_n_ctx_opens(kind, tmp_path):
    shutil.copytree(tiny_folder("gpt2"), tmp_path / "m")
    settings = json.loads((tmp_path / "m" / "config.json").read_text())
    settings.pop("n_ctx", None)
    (tmp_path / "m" / "config.json").write_text(json.dumps(settings))
    assert open_model(tmp_path / "m", kind=kind, device="cpu").cfg.n_ctx == 128


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_on_disk_opens_as_float32(kind, stored):
    model = open_model(tiny_folder("llama", dtype=stored), kind=kind, device="cpu")
    assert parameter_dtype(model) == torch.float32
    assert logits(model, tokenize(model, TEXTS)).dtype == torch.float32
    oracle = AutoModelForCausalLM.from_pretrained(tiny_folder("llama", dtype=stored), dtype=torch.float32)
    assert_same_as_hf(model, oracle.eval())


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_dtype_that_is_asked_for_is_given_and_generates(architecture, dtype, kind):
    model = open_model(tiny_folder(architecture), kind=kind, dtype=dtype, device="cpu")
    assert parameter_dtype(model) == dtype
    batch = tokenize(model, TEXTS)
    found = logits(model, batch).log_softmax(-1).double()
    exact = logits(open_tiny(architecture, kind), batch).log_softmax(-1).double()
    error = (found - exact)[batch.mask].abs().max()
    assert error < (1e-4 if dtype == torch.float64 else 0.5)
    assert generate_tokens(model, batch, max_new_tokens=3, stop_at_eos=False).shape == (4, 3)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_live_model_is_returned_as_it_is_and_never_changed(kind):
    model = open_tiny("gpt2", kind)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert open_model(model) is model
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(ModelError, match="used as it is"):
        open_model(model, process_weights=True)
    with pytest.raises(ModelError, match="used as it is"):
        open_model(model, device="cpu")


def test_a_live_hugging_face_model_is_refused_and_left_alone(tmp_path):
    live = make_hf("gpt2")
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel has no named hook points.*save_pretrained"):
        open_model(live)
    live.save_pretrained(tmp_path / "still")  # a Bridge around it would have broken this
    assert (tmp_path / "still" / "model.safetensors").exists()


@pytest.mark.parametrize("kind", CLASSES)
def test_a_given_tokenizer_is_used_and_left_as_it_was(kind):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("llama"), padding_side="left")
    tokenizer.pad_token = None
    kept = dict(tokenizer.init_kwargs)
    model = open_model(tiny_folder("llama"), kind=kind, tokenizer=tokenizer, device="cpu")
    assert (tokenizer.padding_side, tokenizer.pad_token, tokenizer.init_kwargs) == ("left", None, kept)
    assert model.tokenizer is not tokenizer
    assert tokenize(model, TEXTS).bos


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2", "gemma"])
def test_a_tokenizer_in_memory_needs_no_hub(architecture, kind, tmp_path):
    make_hf(architecture).save_pretrained(tmp_path / "bare")
    bare = open_model(tmp_path / "bare", kind=kind, device="cpu")
    with pytest.raises(ModelError, match="no tokenizer"):
        tokenize(bare, TEXTS)
    model = open_model(tmp_path / "bare", kind=kind, tokenizer=tiny_tokenizer(architecture), device="cpu")
    assert_same_as_hf(model, hf_tiny(architecture)[0])


@pytest.mark.parametrize("kind", CLASSES)
def test_the_users_screen_stays_empty(kind, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("default", category=ResourceWarning)
        open_model(tiny_folder("gpt2"), kind=kind, device="cpu")
        open_model(tiny_folder("llama"), kind=kind, process_weights=True, device="cpu")
    out, err = capsys.readouterr()
    assert out == ""
    assert "Loading weights" not in err


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {"num_key_value_heads": 4}),
        ("llama", {"head_dim": 16}),
        ("mistral", {"sliding_window": 64}),
        ("qwen2", {"num_key_value_heads": 4}),
        ("qwen3", {"num_key_value_heads": 4}),
        ("gemma", {"num_key_value_heads": 4}),
        ("gpt2", {"n_inner": 48, "scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"activation_function": "relu", "reorder_and_upcast_attn": True}),
        ("neox", {"use_parallel_residual": False}),
        (
            "neox",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}},
        ),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500.0,
                    "factor": 4.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                }
            },
        ),
    ],
)
def test_options_of_a_configuration_are_not_lost(architecture, changes, kind, tmp_path):
    oracle = save_with(architecture, changes, tmp_path / "m")
    model = open_model(tmp_path / "m", kind=kind, device="cpu")
    assert_same_as_hf(model, oracle)


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        ("llama", {"attention_bias": True}, "attention biases"),
        ("llama", {"mlp_bias": True}, "MLP biases"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "'linear'"),
        ("gpt2", {"activation_function": "quick_gelu"}, "'quick_gelu'"),
    ],
)
@needs_hooked
def test_what_hooked_transformer_cannot_do_opens_as_a_bridge(architecture, changes, reason, tmp_path):
    oracle = save_with(architecture, changes, tmp_path / "m")
    with pytest.raises(ModelError, match=f"kind='hooked' is not possible: .*{reason}.*kind='bridge'"):
        open_model(tmp_path / "m", kind="hooked")
    model = open_model(tmp_path / "m", device="cpu")
    assert type(model).__name__ == "TransformerBridge"
    assert_same_as_hf(model, oracle)


@pytest.mark.parametrize("name", ["Gemma2", "Gemma3Text"])
def test_later_gemmas_open_as_a_bridge(name, tmp_path):
    shared = tiny_config("gemma").to_dict()
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    chosen = {key: shared[key] for key in (*keys, "num_key_value_heads", "head_dim", "bos_token_id")}
    config = getattr(transformers, f"{name}Config")(**chosen, max_position_embeddings=128, sliding_window=8)
    oracle = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    oracle.save_pretrained(tmp_path / "m")
    hf_tiny("gemma")[1].save_pretrained(tmp_path / "m")
    model = open_model(tmp_path / "m", device="cpu")
    assert type(model).__name__ == "TransformerBridge"
    assert_same_as_hf(model, oracle)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_long_rotary_context_is_cut_for_hooked_transformer_only(kind, tmp_path):
    save_with("llama", {"max_position_embeddings": 4096}, tmp_path / "m")
    model = open_model(tmp_path / "m", kind=kind, device="cpu")
    assert model.cfg.n_ctx == (2048 if kind == "hooked" else 4096)


@needs_hooked
def test_a_model_that_only_hooked_transformer_computes_rightly_is_no_bridge(tmp_path):
    oracle = save_with("gpt2", {"scale_attn_weights": False}, tmp_path / "m")
    assert_same_as_hf(open_model(tmp_path / "m", device="cpu"), oracle)
    with pytest.raises(ModelError, match="scale_attn_weights=False, which TransformerBridge ignores"):
        open_model(tmp_path / "m", kind="bridge", device="cpu")


@needs_hooked
def test_a_conversion_that_went_wrong_is_refused(monkeypatch):
    from contrans_lens.models import hooked

    right = hooked._gpt2
    monkeypatch.setattr(hooked, "_gpt2", lambda config: right(config) | {"eps": 0.5})
    with pytest.raises(ModelError, match=r"differs from Hugging Face \(log-probs by .*kind='bridge'"):
        open_model(tiny_folder("gpt2"), kind="hooked", device="cpu")


def test_a_device_map_is_handed_to_the_bridge():
    model = open_model(tiny_folder("llama"), device_map={"": "cpu"})
    assert type(model).__name__ == "TransformerBridge"
    assert input_device(model).type == "cpu"
    assert_same_as_hf(model, hf_tiny("llama")[0])
    with pytest.raises(ModelError, match="device or device_map, not both"):
        open_model(tiny_folder("llama"), kind="bridge", device_map={"": "cpu"}, device="cpu")


@needs_hooked
def test_a_device_map_is_not_for_hooked_transformer():
    with pytest.raises(ModelError, match="device_map spreads a model over devices"):
        open_model(tiny_folder("llama"), kind="hooked", device_map="auto")


def test_places_that_are_none_are_refused(tmp_path):
    with pytest.raises(ModelError, match="there is no model folder at"):
        open_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="there is no model folder at"):
        open_model("./nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        open_model(tmp_path)


@pytest.mark.parametrize("kind", CLASSES)
def test_broken_folders_are_refused(tmp_path, kind):
    shutil.copytree(tiny_folder("gpt2"), tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"cannot be read: .*Check that the folder is whole"):
        open_model(tmp_path / "cut", kind=kind, device="cpu")
    (tmp_path / "cut" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"the configuration in .* cannot be read"):
        open_model(tmp_path / "cut", kind=kind, device="cpu")


def test_a_hub_name_without_a_network_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"'nobody/no-such-model'.*hub.*hf download.*open the folder.*HF_TOKEN"):
        open_model("nobody/no-such-model")


def test_importing_the_package_does_not_import_transformer_lens():
    code = "import sys, contrans_lens.models; sys.exit(bool({'transformer_lens', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("device", ["foo", *([] if torch.cuda.is_available() else ["cuda", "cuda:1"])])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ModelError, match=device):
        open_model(tiny_folder("gpt2"), device=device)
