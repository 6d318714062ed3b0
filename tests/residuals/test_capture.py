"""Capture against Hugging Face forward hooks, and against itself under every way of batching and padding."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrans_lens.errors import CaptureError, HookPointError, TextError
from contrans_lens.models import hooks, resid_post, tokenize
from contrans_lens.residuals import CharSpan, EachToken, LastToken, MeanOver, RelativeTo, TokenEnds, capture
from contrans_lens.residuals import prepared as prepared_texts
from tests.tiny_models import HF_KINDS, KINDS, N_LAYERS, PARITY_ARCHITECTURES, TEXTS, hf_tiny, open_tiny

TEXTS = list(TEXTS)
LAYER_NORM = ("gpt2", "neox")


def decoder_blocks(model):
    """The blocks of a Hugging Face model."""
    return next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))


def oracle(architecture, batch):
    """Residuals of one unpadded text after every block ``[layer, pos, d_model]``, from Hugging Face forward hooks."""
    model, _ = hf_tiny(architecture)
    kept, handles = [], []
    for block in decoder_blocks(model):

        def keep(module, inputs, output):
            kept.append((output[0] if isinstance(output, tuple) else output)[0])

        handles.append(block.register_forward_hook(keep))
    with torch.no_grad():
        model(batch.tokens)
    for handle in handles:
        handle.remove()
    return torch.stack(kept)


def one_by_one(model, texts, take):
    """The model's own residuals of each text alone, without padding; ``take`` maps ``[pos, d]`` to ``[d]``."""
    rows = []
    for text in texts:
        kept = {}
        names = [resid_post(layer) for layer in range(N_LAYERS)]

        def keep(name, kept=kept):
            return lambda residual: kept.update({name: residual[0].clone()})

        with hooks(model, {name: keep(name) for name in names}), torch.no_grad():
            model(tokenize(model, [text]).tokens, return_type=None)
        rows.append(torch.stack([take(kept[name]) for name in names]))
    return torch.stack(rows)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", HF_KINDS)
@pytest.mark.parametrize("architecture", PARITY_ARCHITECTURES)
def test_capture_equals_a_hugging_face_forward_hook(architecture, kind, side):
    model = open_tiny(architecture, kind)
    expected = torch.stack([oracle(architecture, tokenize(model, [text]))[:, -1] for text in TEXTS])
    if architecture in LAYER_NORM and kind in ("hooked_processed", "bridge_compat"):
        expected = expected - expected.mean(dim=-1, keepdim=True)  # processing centres what is written
    found = capture(model, TEXTS, padding_side=side).tensor()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", PARITY_ARCHITECTURES)
def test_a_native_bridge_reads_as_one_text_at_a_time(architecture, side):
    model = open_tiny(architecture, "native")
    expected = one_by_one(model, TEXTS, lambda residual: residual[-1])
    torch.testing.assert_close(capture(model, TEXTS, padding_side=side).tensor(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("hooked", "bridge")])
@pytest.mark.parametrize(
    "architecture", ["gpt2", "llama", "neox"]
)  # pad is BOS and EOS, no pad at all, a pad of its own
def test_positions_under_padding_equal_unpadded_ones(architecture, kind, side):
    model = open_tiny(architecture, kind)
    first = int(tokenize(model, TEXTS).bos)
    for positions, take in (
        (LastToken(), lambda residual: residual[-1]),
        (MeanOver(), lambda residual: residual[first:].mean(dim=0)),
        (MeanOver((-2, None)), lambda residual: residual[-2:].mean(dim=0)),
        (MeanOver((0, 1), include_bos=True), lambda residual: residual[0]),
    ):
        texts = [text for text in TEXTS if len(text) > 3]
        found = capture(model, texts, positions=positions, padding_side=side, batch_size=3).tensor()
        torch.testing.assert_close(found, one_by_one(model, texts, take), atol=1e-5, rtol=1e-5)


def test_character_positions_read_the_token_of_those_characters():
    model = open_tiny("gpt2")
    texts = [TEXTS[0], TEXTS[3]]
    batch = tokenize(model, texts)
    for positions, wanted in (
        (CharSpan(((4, 10), (3, 7)), reduce="last"), (10, 7)),
        (RelativeTo("home", offset=0), None),
        (RelativeTo("a", occurrence="first", edge="start"), None),
    ):
        if wanted is None:
            texts_read, rows = (texts[:1], [0]) if positions.marker == "home" else (texts[1:], [1])
            at = texts_read[0].find(positions.marker) + (len(positions.marker) if positions.edge == "end" else 1)
            ends = [at]
        else:
            texts_read, rows, ends = texts, [0, 1], wanted
        tokens = [
            next(i for i, (start, stop) in enumerate(batch.offsets[row]) if start < end <= stop)
            for row, end in zip(rows, ends, strict=True)
        ]
        found = capture(model, texts_read, positions=positions).tensor()
        for row, token in enumerate(tokens):
            expected = one_by_one(model, texts_read[row : row + 1], lambda residual, token=token: residual[token])
            torch.testing.assert_close(found[row : row + 1], expected, atol=1e-5, rtol=1e-5)


def test_each_token_gives_every_row_of_the_stream_in_order():
    model = open_tiny("llama")
    store = capture(model, TEXTS, positions=EachToken(), batch_size=2)
    expected = torch.cat([oracle("llama", tokenize(model, [text]))[:, 1:].transpose(0, 1) for text in TEXTS])
    torch.testing.assert_close(store.tensor(), expected, atol=1e-5, rtol=1e-5)
    lengths = tokenize(model, TEXTS).lengths - 1
    assert torch.equal(store.text_index, torch.repeat_interleave(torch.arange(4), lengths))


def test_as_many_examples_as_texts_need_not_be_one_each():
    model = open_tiny("gpt2")
    ends = [sorted(stop for _, stop in row) for row in tokenize(model, TEXTS[:2]).offsets]
    store = capture(model, TEXTS[:2], positions=TokenEnds(((), (ends[1][2], ends[1][5]))))
    expected = one_by_one(model, [TEXTS[1]] * 2, lambda residual: residual[[2, 5]])
    torch.testing.assert_close(store.tensor(), expected[0].transpose(0, 1), atol=1e-5, rtol=1e-5)
    assert store.text_index.tolist() == [1, 1]
    with pytest.raises(CaptureError, match="on no token of any text"):
        capture(model, TEXTS[:2], positions=TokenEnds(((), ())))


def test_texts_are_prepared_in_chunks_and_say_where_they_fail(monkeypatch):
    model = open_tiny("gpt2")
    expected = capture(model, TEXTS)
    monkeypatch.setattr(prepared_texts, "_TEXTS_AT_ONCE", 3)
    assert torch.equal(capture(model, TEXTS).tensor(), expected.tensor())
    with pytest.raises(TextError, match="among the texts from 3 on, counted from there: text 0 is empty"):
        capture(model, [*TEXTS[:3], ""])
    marked = [f"<|endoftext|>{text}" for text in TEXTS[:3]]
    with pytest.raises(TextError, match="some texts begin with the BOS token"):
        capture(model, [*marked, TEXTS[3]], prepend_bos=False)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=25), min_size=1, max_size=7),
    batch_size=st.sampled_from([None, 1, 2, 5]),
    side=st.sampled_from(["left", "right"]),
)
def test_any_texts_in_any_batches_give_the_same_residuals(texts, batch_size, side):
    model = open_tiny("gpt2")
    found = capture(model, texts, batch_size=batch_size, padding_side=side).tensor()
    expected = one_by_one(model, texts, lambda residual: residual[-1])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_residual_that_is_not_finite_is_refused_with_text_and_hook_point():
    model = open_tiny("gpt2", "bridge", fresh=True)
    texts = [TEXTS[0], TEXTS[1], "No!", TEXTS[3]]

    def poison(module, inputs, output):
        changed = output.clone()
        if len(output) == 4:  # not in the fingerprint's own pass
            changed[3, :, 5] = float("inf")  # the shortest text is the batch's last row
        return changed

    handle = model.hook_dict[resid_post(1)].register_forward_hook(poison)
    with pytest.raises(CaptureError, match=r"text 2 has NaN or infinity at blocks\.1\.hook_resid_post"):
        capture(model, texts)
    handle.remove()


def test_overflow_of_the_kept_dtype_is_refused():
    model = open_tiny("gpt2", "bridge", fresh=True)
    model.hook_dict[resid_post(2)].register_forward_hook(lambda module, inputs, output: output * 1e6)
    with pytest.raises(CaptureError, match=r"at blocks\.2\.hook_resid_post \(stored as torch.float16\)"):
        capture(model, TEXTS, dtype=torch.float16)
    assert capture(model, TEXTS, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_truncations_are_counted_and_reported():
    model = open_tiny("gpt2")
    with pytest.raises(TextError, match="text 1"):
        capture(model, TEXTS, max_length=14)
    lengths = tokenize(model, TEXTS).lengths
    cut = int((lengths > 14).sum())
    with pytest.warns(UserWarning, match=f"{cut} of 4 texts .* lost {int((lengths - 14).clamp(min=0).sum())} tokens"):
        store = capture(model, TEXTS, max_length=14, truncate="left")
    assert store.truncated == cut
    assert f"{cut} texts truncated" in repr(store)
    batch = tokenize(model, [TEXTS[1]], max_length=14, truncate="left")
    expected = oracle("gpt2", batch)[:, -1]
    torch.testing.assert_close(store.tensor()[1], expected, atol=1e-5, rtol=1e-5)


def test_hook_points_that_hold_no_residual_stream_are_refused():
    model = open_tiny("gpt2", "bridge")
    with pytest.raises(HookPointError, match=r"no hook point 'blocks\.9\.hook_resid_post'"):
        capture(model, TEXTS, ["blocks.9.hook_resid_post"])
    with pytest.raises(HookPointError, match=r"\[batch, pos, d_model\]"):
        capture(model, TEXTS, ["blocks.0.attn.hook_pattern"])
    with pytest.raises(HookPointError, match="different widths"):
        capture(model, TEXTS, [resid_post(0), "blocks.1.mlp.hook_post"])
    with pytest.raises(CaptureError, match="list of different names"):
        capture(model, TEXTS, resid_post(0))
    with pytest.raises(CaptureError, match="list of different names"):
        capture(model, TEXTS, [resid_post(0), resid_post(0)])


def test_bad_arguments_are_refused():
    model = open_tiny("gpt2")
    with pytest.raises(TextError, match="at least one text"):
        capture(model, [])
    with pytest.raises(TextError, match="at least one text"):
        capture(model, "a string is no list")
    with pytest.raises(TextError, match="text 1 is empty"):
        capture(model, ["a", ""])
    with pytest.raises(CaptureError, match="batch_size is 0"):
        capture(model, TEXTS, batch_size=0)
    with pytest.raises(CaptureError, match=r"cannot be kept as torch\.int8"):
        capture(model, TEXTS, dtype=torch.int8)


def test_the_progress_bar_shows_only_when_asked(capsys):
    model = open_tiny("gpt2")
    capture(model, TEXTS)
    assert capsys.readouterr().out == ""
    capture(model, TEXTS, progress=True)
    shown = capsys.readouterr().out
    assert "capture" in shown
    assert "100%" in shown
