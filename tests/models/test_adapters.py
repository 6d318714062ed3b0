"""open_model on LoRA adapters: the merged model is what peft computes, at any scale, and what cannot be is refused."""

import json
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from contrans_lens.errors import ModelError
from contrans_lens.models import fingerprint, logits, open_model, parameter_dtype, tokenize
from contrans_lens.testbed import model_path
from tests.tiny_adapters import load_hf, load_peft, save_adapter
from tests.tiny_models import KINDS, TEXTS, hf_tiny, tiny_folder

CLASSES = ("hooked", "bridge") if "hooked" in KINDS else ("bridge",)
needs_hooked = pytest.mark.skipif("hooked" not in KINDS, reason="this TransformerLens has no HookedTransformer")
FAMILIES = ("gpt2-target", "rotary-target")
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """The folders of an embedded model and of an adapter of it."""
    base = model_path(request.param)
    return base, save_adapter(base, tmp_path_factory.mktemp("adapters") / request.param)


@pytest.fixture
def tiny(tmp_path):
    """The folders of a tiny model and of an adapter of it that a test may damage."""
    base = tiny_folder("gpt2")
    return base, save_adapter(base, tmp_path / "adapter")


def run_hf(hf, batch):
    with torch.no_grad():
        return hf(batch.tokens, attention_mask=batch.mask.long()).logits


def change_settings(folder, **changes):
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | changes))


def scaled_by_hand(base, adapter, scale):
    """The base model with ``scale * alpha / r * B A`` added to its weights."""
    settings = json.loads((adapter / "adapter_config.json").read_text())
    hf, factors = load_hf(base), load_file(adapter / WEIGHTS)
    with torch.no_grad():
        for key in factors:
            if ".lora_A." not in key:
                continue
            module = hf.get_submodule(key.removeprefix("base_model.model.").split(".lora_A")[0])
            delta = factors[key.replace("lora_A", "lora_B")] @ factors[key]
            delta = delta.T if type(module).__name__ == "Conv1D" else delta
            module.weight += scale * settings["lora_alpha"] / settings["r"] * delta
    return hf


@pytest.mark.parametrize("kind", CLASSES)
def test_an_opened_adapter_is_what_peft_computes(pair, kind):
    base, adapter = pair
    model = open_model(adapter, kind=kind, device="cpu")
    batch = tokenize(model, TEXTS)
    expected = run_hf(load_peft(base, adapter), batch)[batch.mask]
    torch.testing.assert_close(logits(model, batch)[batch.mask], expected, atol=1e-4, rtol=0)
    assert (expected - run_hf(load_hf(base), batch)[batch.mask]).abs().max() > 0.1
    named = open_model(base, adapter=adapter, kind=kind, device="cpu")
    assert torch.equal(logits(named, batch), logits(model, batch))


@pytest.mark.parametrize("kind", CLASSES)
def test_an_opened_adapter_is_the_merged_folder(pair, kind, tmp_path):
    base, adapter = pair
    merged = load_peft(base, adapter).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    shutil.copy(base / "tokenizer.json", tmp_path / "merged")
    shutil.copy(base / "tokenizer_config.json", tmp_path / "merged")
    model, whole = (open_model(folder, kind=kind, device="cpu") for folder in (adapter, tmp_path / "merged"))
    batch = tokenize(model, TEXTS)
    torch.testing.assert_close(logits(model, batch), logits(whole, batch), atol=1e-5, rtol=0)
    assert fingerprint(model).differences(fingerprint(whole)) == {}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("scale", [0.5, 1, 2.0, -1.0])
def test_the_scale_multiplies_what_is_added_to_the_weights(pair, kind, scale):
    base, adapter = pair
    model = open_model(adapter, adapter_scale=scale, kind=kind, device="cpu")
    batch = tokenize(model, TEXTS)
    expected = run_hf(scaled_by_hand(base, adapter, scale), batch)
    torch.testing.assert_close(logits(model, batch)[batch.mask], expected[batch.mask], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", CLASSES)
def test_scale_zero_is_the_base_at_every_hook_point(pair, kind):
    base, adapter = pair
    whole, nothing = (
        open_model(base, kind=kind, device="cpu"),
        open_model(adapter, adapter_scale=0, kind=kind, device="cpu"),
    )
    tokens = tokenize(whole, TEXTS[:1]).tokens
    (expected, kept), (found, seen) = (model.run_with_cache(tokens) for model in (whole, nothing))
    assert torch.equal(found, expected)
    assert set(seen) == set(kept)
    assert all(torch.equal(seen[name], kept[name]) for name in kept if isinstance(kept[name], torch.Tensor))
    assert fingerprint(nothing) == fingerprint(whole)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_fingerprint_is_another_than_the_bases(pair, kind):
    base, adapter = pair
    whole, merged = (fingerprint(open_model(place, kind=kind, device="cpu")) for place in (base, adapter))
    assert merged.differences(whole).keys() == {"weights"}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_texts_are_tokenised_as_the_bases(architecture, kind, tmp_path):
    base = tiny_folder(architecture)
    adapter = save_adapter(base, tmp_path / "adapter")
    other = "gpt2" if architecture == "llama" else "llama"
    hf_tiny(other)[1].save_pretrained(adapter)  # trainers leave tokenizers there; this one is not the base's
    whole, merged = (open_model(place, kind=kind, device="cpu") for place in (base, adapter))
    batch, expected = tokenize(merged, TEXTS), tokenize(whole, TEXTS)
    assert torch.equal(batch.tokens, expected.tokens)
    assert batch.bos == expected.bos
    assert merged.cfg.default_prepend_bos == whole.cfg.default_prepend_bos
    torch.testing.assert_close(
        logits(merged, batch)[batch.mask], run_hf(load_peft(base, adapter), batch)[batch.mask], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("kind", CLASSES)
def test_options_of_open_model_hold_for_adapters(pair, kind):
    base, adapter = pair
    processed = open_model(adapter, kind=kind, process_weights=True, device="cpu")
    batch = tokenize(processed, TEXTS)
    expected = run_hf(load_peft(base, adapter), batch)[batch.mask].log_softmax(-1)
    assert (logits(processed, batch)[batch.mask].log_softmax(-1) - expected).abs().max() < 1e-3
    for dtype, error in ((torch.bfloat16, 0.5), (torch.float64, 1e-4)):
        model = open_model(adapter, kind=kind, dtype=dtype, device="cpu")
        assert parameter_dtype(model) == dtype
        assert (logits(model, batch)[batch.mask].log_softmax(-1).double() - expected).abs().max() < error


def test_a_device_map_spreads_the_merged_model(pair):
    base, adapter = pair
    model = open_model(adapter, device_map={"": "cpu"})
    assert type(model).__name__ == "TransformerBridge"
    batch = tokenize(model, TEXTS)
    expected = run_hf(load_peft(base, adapter), batch)[batch.mask]
    torch.testing.assert_close(logits(model, batch)[batch.mask], expected, atol=1e-4, rtol=0)


@needs_hooked
def test_a_device_map_with_an_adapter_is_not_for_hooked_transformer(pair):
    with pytest.raises(ModelError, match="device_map spreads a model over devices"):
        open_model(pair[1], kind="hooked", device_map="auto")


@pytest.mark.parametrize("kind", CLASSES)
def test_nothing_is_said_and_no_file_is_changed(pair, kind, capsys):
    before = {path.name: path.read_bytes() for path in pair[1].iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("default", category=ResourceWarning)
        open_model(pair[1], kind=kind, adapter_scale=0.5, device="cpu")
    out, err = capsys.readouterr()
    assert out == ""
    assert "Loading weights" not in err
    assert before == {path.name: path.read_bytes() for path in pair[1].iterdir()}


def test_a_base_that_moved_is_named_anew(tiny, tmp_path):
    base, adapter = tiny
    expected = open_model(adapter, device="cpu")
    shutil.copytree(base, tmp_path / "elsewhere")
    for recorded in ("/no/such/folder", "models/gpt2-of-mine", None):
        change_settings(adapter, base_model_name_or_path=recorded)
        moved = open_model(tmp_path / "elsewhere", adapter=str(adapter), device="cpu")
        batch = tokenize(moved, TEXTS)
        assert torch.equal(logits(moved, batch), logits(expected, batch))


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ("/no/such/folder", r"named in .* cannot be opened: there is no model folder at .*open_model\(BASE, adapter="),
        ("nobody/no-such-model", r"cannot be opened: .*Hugging Face hub.*open_model\(BASE, adapter="),
        (None, r"names no base model; name it: open_model\(BASE, adapter="),
    ],
)
def test_a_base_that_is_not_there_is_said(tiny, recorded, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    change_settings(tiny[1], base_model_name_or_path=recorded)
    with pytest.raises(ModelError, match=message):
        open_model(tiny[1])


def test_a_recorded_revision_of_a_hub_model_is_not_passed_over(tiny):
    change_settings(tiny[1], base_model_name_or_path="some/model", revision="v2")
    with pytest.raises(ModelError, match="revision 'v2' of 'some/model'"):
        open_model(tiny[1])


def test_an_adapter_of_another_model_is_refused(pair, tmp_path):
    base, adapter = pair
    other = model_path(next(name for name in FAMILIES if model_path(name) != base))
    with pytest.raises(ModelError, match=r"does not fit this .*Give the base that it was made on"):
        open_model(other, adapter=adapter)
    narrow = tiny_folder("gpt2" if "gpt2" in base.name else "llama")
    with pytest.raises(ModelError, match=r"does not fit this .*size mismatch.*Give the base that it was made on"):
        open_model(narrow, adapter=adapter)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_adapter_of_more_or_fewer_blocks_is_refused(tiny, kind):
    adapter = tiny[1]
    weights = load_file(adapter / WEIGHTS)
    first = next(key for key in sorted(weights) if "h.0.attn.c_attn.lora_A" in key)
    save_file({key: value for key, value in weights.items() if key != first}, adapter / WEIGHTS)
    with pytest.raises(ModelError, match=r"it lacks .*h\.0\.attn\.c_attn\.lora_A.* \(1 missing, 0 without a place\)"):
        open_model(adapter, kind=kind)
    save_file(weights | {first.replace("h.0", "h.9"): weights[first].clone()}, adapter / WEIGHTS)
    with pytest.raises(ModelError, match=r"no place for .*h\.9.* \(0 missing, 1 without a place\)"):
        open_model(adapter, kind=kind)


def damage_weights(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:300])


def poison_weights(folder):
    weights = load_file(folder / WEIGHTS)
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, folder / WEIGHTS)


def pickle_weights(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), "has no weights: adapter_model.safetensors is not there"),
        (pickle_weights, "adapter_model.bin, a pickle, which can run any code"),
        (damage_weights, "cannot be read: .*The file is damaged"),
        (poison_weights, "holds NaN or infinity"),
        (lambda folder: save_file({}, folder / WEIGHTS), "holds no tensors"),
        (lambda folder: change_settings(folder, peft_type="IA3"), "is of kind 'IA3'; only LoRA"),
        (lambda folder: change_settings(folder, target_modules=["nothing_here"]), "does not fit this GPT2LMHeadModel"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), r"adapter_config\.json cannot be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "is of kind None; only LoRA"),
    ],
)
def test_a_broken_adapter_is_refused(tiny, change, message):
    base, adapter = tiny
    change(adapter)
    for places in ({"model": adapter}, {"model": base, "adapter": adapter}):
        with pytest.raises(ModelError, match=message):
            open_model(**places)


def test_arguments_that_make_no_sense_are_refused(tiny, tmp_path):
    base, adapter = tiny
    for scale in (float("nan"), float("inf")):
        with pytest.raises(ModelError, match="a finite number was expected"):
            open_model(adapter, adapter_scale=scale)
    with pytest.raises(ModelError, match=r"adapter_scale=0\.5, but .* is no adapter"):
        open_model(base, adapter_scale=0.5)
    with pytest.raises(ModelError, match="is itself an adapter"):
        open_model(adapter, adapter=adapter)
    with pytest.raises(ModelError, match="there is no adapter folder at"):
        open_model(base, adapter=tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json"):
        open_model(base, adapter=base)
    change_settings(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(ModelError, match="is itself an adapter"):
        open_model(adapter)


@pytest.mark.parametrize("options", [{"adapter": "somewhere"}, {"adapter_scale": 0.5}])
def test_a_live_model_takes_no_adapter(options):
    with pytest.raises(ModelError, match="used as it is"):
        open_model(open_model(tiny_folder("gpt2"), device="cpu"), **options)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "more than the factors A and B"),
        ({"modules_to_save": ["ln_f"]}, "more than the factors A and B"),
        ({"init_lora_weights": "pissa"}, "takes a part of the base's weights out"),
    ],
)
def test_what_has_no_multiples_opens_at_scale_one_only(settings, reason, kind, tmp_path):
    base = tiny_folder("gpt2")
    adapter = save_adapter(base, tmp_path / "adapter", **settings)
    model = open_model(adapter, kind=kind, device="cpu")
    batch = tokenize(model, TEXTS)
    expected = run_hf(load_peft(base, adapter), batch)[batch.mask]
    torch.testing.assert_close(logits(model, batch)[batch.mask], expected, atol=1e-4, rtol=0)
    with pytest.raises(ModelError, match=f"adapter_scale=0.5 is not possible: .*{reason}"):
        open_model(adapter, kind=kind, adapter_scale=0.5)


@pytest.mark.parametrize("target", ["lm_head", "wte"])
def test_tied_embeddings_are_not_merged_into(target, tmp_path):
    adapter = save_adapter(tiny_folder("gpt2"), tmp_path / "adapter", target_modules=[target, "c_attn"])
    with pytest.raises(ModelError, match="both are one tensor"):
        open_model(adapter)


@pytest.mark.parametrize("kind", CLASSES)
def test_embeddings_that_are_two_tensors_are(kind, tmp_path):
    base = tiny_folder("llama")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["lm_head", "embed_tokens"])
    model = open_model(adapter, kind=kind, device="cpu")
    batch = tokenize(model, TEXTS)
    expected = run_hf(load_peft(base, adapter), batch)[batch.mask]
    torch.testing.assert_close(logits(model, batch)[batch.mask], expected, atol=1e-4, rtol=0)


def test_without_peft_it_is_said(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match="pip install peft"):
        open_model(tiny[1])


def test_importing_the_models_does_not_import_peft():
    code = "import sys, contrans_lens.models; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
