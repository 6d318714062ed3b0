"""Tokenisation: nothing cut, added or padded in silence."""

import dataclasses
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import ModelError, TextError
from contrans_lens.models import TokenBatch, tokenize
from tests.tiny_models import ARCHITECTURES, KINDS, N_CTX, TEXTS, hf_tiny, open_tiny

plain_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def rows_of(batch):
    return [row[mask].tolist() for row, mask in zip(batch.tokens, batch.mask, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ids_are_those_of_the_hugging_face_tokenizer(architecture, kind):
    model, (_, tokenizer) = open_tiny(architecture, kind), hf_tiny(architecture)
    found = rows_of(tokenize(model, TEXTS, prepend_bos=False))
    assert found == tokenizer(list(TEXTS), add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "native"])
@pytest.mark.parametrize(
    ("architecture", "starts"),
    [("gpt2", True), ("neox", False), ("llama", True), ("mistral", True), ("qwen3", False), ("gemma", True)],
)
def test_rows_start_with_bos_by_the_convention_of_the_architecture(architecture, starts, kind):
    model = open_tiny(architecture, kind)
    batch = tokenize(model, TEXTS)
    assert batch.bos is starts
    bos = hf_tiny(architecture)[1].bos_token_id
    assert all((row[0] == bos) is starts for row in rows_of(batch))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma"])
def test_bos_is_never_there_twice(architecture, kind):
    model = open_tiny(architecture, kind)
    bos = model.tokenizer.bos_token
    plain, written = tokenize(model, ["The fox"]), tokenize(model, [bos + "The fox"])
    assert rows_of(plain) == rows_of(written)
    assert plain.offsets[0][0] == (0, 0)
    assert written.offsets[0][0] == (0, len(bos))
    with pytest.raises(TextError, match="begins with the BOS token twice"):
        tokenize(model, [bos + bos + "The fox"])
    with pytest.raises(TextError, match="some texts begin with the BOS token and others do not"):
        tokenize(model, [bos + "The fox", "The fox"], prepend_bos=False)
    assert tokenize(model, [bos + "The fox"], prepend_bos=False).bos
    assert not tokenize(model, ["The fox"], prepend_bos=False).bos


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(plain_text, min_size=1, max_size=5), side=st.sampled_from(["left", "right"]))
def test_any_text_survives_and_offsets_point_into_it(architecture, texts, side):
    model = open_tiny(architecture, "bridge")
    batch = tokenize(model, texts, padding_side=side)
    tokenizer = model.tokenizer
    assert batch.lengths.tolist() == [len(spans) for spans in batch.offsets]
    for text, row, spans in zip(texts, rows_of(batch), batch.offsets, strict=True):
        start = int(batch.bos)
        # Qwen2's tokenizer composes accents (NFC), as the model was trained; the others keep every byte.
        if architecture != "qwen2":
            assert tokenizer.decode(row[start:]) == text
            assert spans[-1][1] == len(text)
        assert all(0 <= begin <= stop <= len(text) for begin, stop in spans)
        assert [begin for begin, _ in spans] == sorted(begin for begin, _ in spans)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(plain_text, min_size=1, max_size=6), side=st.sampled_from(["left", "right"]))
def test_padding_moves_and_nothing_else(texts, side):
    batch = tokenize(open_tiny("gpt2", "bridge"), texts, padding_side=side)
    other = batch.padded("left" if side == "right" else "right")
    assert rows_of(other) == rows_of(batch)
    assert other.padding_side != side
    edge = 0 if other.padding_side == "right" else -1
    assert other.mask[:, edge].all()
    back = other.padded(side)
    assert torch.equal(back.tokens, batch.tokens)
    assert torch.equal(back.mask, batch.mask)


def test_rows_can_be_chosen_without_columns_of_padding():
    model = open_tiny("gpt2", "bridge")
    for side in ("left", "right"):
        batch = tokenize(model, TEXTS, padding_side=side)
        chosen = batch.rows([2, 0])
        expected = tokenize(model, [TEXTS[2], TEXTS[0]], padding_side=side)
        assert torch.equal(chosen.tokens, expected.tokens)
        assert torch.equal(chosen.mask, expected.mask)
        assert chosen.offsets == expected.offsets
        assert len(chosen) == 2


def test_a_text_that_is_too_long_is_refused_or_cut_where_asked():
    model = open_tiny("gpt2", "bridge")
    text = "the fox " * 100
    whole = tokenize(model, ["the fox"])
    with pytest.raises(TextError, match=rf"text 1 has \d+ tokens and at most {N_CTX} fit.*truncate='left'"):
        tokenize(model, ["short", text])
    left, right = (tokenize(model, ["no", text], truncate=side, max_length=20) for side in ("left", "right"))
    for batch in (left, right):
        assert batch.tokens.shape == (2, 20)
        assert batch.tokens[1, 0] == model.tokenizer.bos_token_id  # BOS stays
        assert batch.truncated[0] == 0
        assert batch.truncated[1] > 0
    assert left.offsets[1][-1][1] == len(text)
    assert right.offsets[1][1][0] == 0
    full = tokenize(model, [text[:200]])
    assert rows_of(full)[0][1:20] == rows_of(right)[1][1:]
    assert tokenize(model, ["the fox"], max_length=int(whole.lengths[0])).truncated == (0,)


@pytest.mark.parametrize("limit", [0, -3, N_CTX + 1])
def test_a_limit_outside_the_context_is_refused(limit):
    with pytest.raises(TextError, match=f"max_length is {limit}; the model takes 1 to {N_CTX}"):
        tokenize(open_tiny("gpt2", "bridge"), ["a"], max_length=limit)


def test_nothing_to_tokenise_is_refused():
    model = open_tiny("gpt2", "bridge")
    with pytest.raises(TextError, match="no texts"):
        tokenize(model, [])
    with pytest.raises(TextError, match="text 1 is empty"):
        tokenize(model, ["a", ""])
    with pytest.raises(TextError, match="single string"):
        tokenize(model, "a text")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "native"])
def test_bos_that_is_not_there_cannot_be_asked_for(kind):
    model = open_tiny("gpt2", kind, fresh=True)
    model.tokenizer.bos_token = None
    assert not tokenize(model, ["a"]).bos
    with pytest.raises(ModelError, match="no BOS token; use prepend_bos=False"):
        tokenize(model, ["a"], prepend_bos=True)


def test_padding_works_without_a_pad_token():
    model = open_tiny("llama", "bridge", fresh=True)
    expected = tokenize(model, TEXTS)
    model.tokenizer.pad_token = None
    found = tokenize(model, TEXTS)
    assert torch.equal(found.mask, expected.mask)
    assert rows_of(found) == rows_of(expected)
    model.tokenizer.eos_token = None
    assert torch.equal(tokenize(model, TEXTS).mask, expected.mask)


def test_a_batch_moves_between_devices_and_cannot_be_changed():
    batch = tokenize(open_tiny("gpt2", "bridge"), TEXTS)
    assert isinstance(batch.to("cpu"), TokenBatch)
    assert batch.to("meta").tokens.device.type == "meta"
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.bos = False


def test_thousands_of_texts_take_seconds():
    model = open_tiny("gpt2", "bridge")
    texts = [f"{text} {number}" for number in range(500) for text in TEXTS]
    start = time.perf_counter()
    batch = tokenize(model, texts)
    assert len(batch) == 2000
    assert time.perf_counter() - start < 10  # about 0.2 s on an idle core
