import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrans_lens.errors import InterventionError
from contrans_lens.interventions import (
    ALL,
    CONTINUATION,
    GENERATED,
    PROMPT,
    Between,
    FromMarker,
    positions_from_dict,
    positions_to_dict,
)
from contrans_lens.interventions.positions import PromptRows
from tests.tiny_models import tiny_tokenizer

T, F = True, False
LEFT = torch.tensor([[F, F, T, T, T], [T, T, T, T, T]])
RIGHT = torch.tensor([[T, T, T, F, F], [T, T, T, T, T]])


def rows(mask, **options):
    return PromptRows(tokens=torch.zeros(mask.shape, dtype=torch.long), mask=mask, **options)


def of_text(text, architecture="gpt2", padding=0, *, with_text=False):
    tokenizer = tiny_tokenizer(architecture)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    ids = encoded["input_ids"]
    return PromptRows(
        tokens=torch.tensor([[0] * padding + ids]),
        mask=torch.tensor([[F] * padding + [T] * len(ids)]),
        decode=lambda tokens: tokenizer.decode(tokens, skip_special_tokens=False),
        texts=(text,) if with_text else None,
        offsets=(tuple(encoded["offset_mapping"]),) if with_text else None,
    ), [tokenizer.decode([token]) for token in ids]


def test_all_is_open_on_both_sides():
    assert ALL.bounds(rows(LEFT)) == [(0, None), (0, None)]


def test_prompt_and_generated_meet_at_the_end_of_the_first_pass():
    assert PROMPT.bounds(rows(RIGHT)) == [(0, 5), (0, 5)]
    assert GENERATED.bounds(rows(RIGHT)) == [(5, None), (5, None)]


def test_prompt_lengths_count_real_tokens_of_each_row():
    assert PROMPT.bounds(rows(LEFT, lengths=(2, 3))) == [(0, 4), (0, 3)]
    assert GENERATED.bounds(rows(RIGHT, lengths=(2, 3))) == [(2, None), (3, None)]
    assert GENERATED.bounds(rows(RIGHT, lengths=(3, 5))) == [(5, None), (5, None)]


def test_continuation_begins_at_the_last_real_token_of_the_prompt():
    assert CONTINUATION.bounds(rows(LEFT)) == [(4, None), (4, None)]
    assert CONTINUATION.bounds(rows(RIGHT)) == [(2, None), (4, None)]
    assert CONTINUATION.bounds(rows(LEFT, lengths=(2, 3))) == [(3, None), (2, None)]
    with pytest.raises(InterventionError, match="no real token"):
        CONTINUATION.bounds(rows(torch.tensor([[F, F], [T, T]])))


def test_between_counts_real_tokens_and_goes_on_into_what_is_generated():
    assert Between(1).bounds(rows(LEFT)) == [(3, None), (1, None)]
    assert Between(1, 4).bounds(rows(LEFT)) == [(3, 6), (1, 4)]
    assert Between(1, 4).bounds(rows(RIGHT)) == [(1, 6), (1, 4)]


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (2, 2), (3, 1)])
def test_between_without_a_token_is_refused(start, stop):
    with pytest.raises(InterventionError, match="holds no token"):
        Between(start, stop)


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(("occurrence", "which"), [("first", 0), ("last", -1)])
def test_a_marker_starts_at_the_token_of_its_first_character(with_text, padding, occurrence, which):
    text = "Question: who? Answer: he. Question: why? Answer: no"
    prompt, pieces = of_text(text, padding=padding, with_text=with_text)
    ((start, stop),) = FromMarker("Answer:", occurrence).bounds(prompt)
    assert stop is None
    before = "".join(pieces[: start - padding])
    place = text.find("Answer:") if which == 0 else text.rfind("Answer:")
    assert len(before) <= place < len(before + pieces[start - padding])


@pytest.mark.parametrize("with_text", [False, True])
def test_after_a_marker_starts_at_the_first_token_past_it(with_text):
    text = "Question: who? Answer: he is"
    prompt, pieces = of_text(text, with_text=with_text)
    ((start, _),) = FromMarker("Answer:", after=True).bounds(prompt)
    assert "".join(pieces[start:]) == " he is"


@pytest.mark.parametrize("with_text", [False, True])
def test_after_a_marker_that_ends_the_prompt_only_what_is_generated_is_steered(with_text):
    prompt, pieces = of_text("He said: the Answer:", padding=2, with_text=with_text)
    assert FromMarker("Answer:", after=True).bounds(prompt) == [(len(pieces) + 2, None)]


@pytest.mark.parametrize("with_text", [False, True])
def test_a_marker_is_looked_for_in_the_prompt_and_not_in_its_continuation(with_text):
    head = "Who? Answer: he"
    prompt, _ = of_text(f"{head}. Answer: no", with_text=with_text)
    length = len(tiny_tokenizer("gpt2")(head)["input_ids"])
    expected = FromMarker("Answer:").bounds(of_text(head)[0])
    assert FromMarker("Answer:").bounds(dataclasses.replace(prompt, lengths=(length,))) == expected
    assert FromMarker("Answer:").bounds(prompt) != expected


@given(st.text(st.sampled_from("ab é😀中 \n"), max_size=12), st.text(st.sampled_from("ab é😀中"), max_size=6))
def test_decoded_tokens_and_character_spans_find_the_same_token(head, tail):
    text = f"{head}Answer:{tail}"
    for after in (False, True):
        marker = FromMarker("Answer:", after=after)
        assert marker.bounds(of_text(text)[0]) == marker.bounds(of_text(text, with_text=True)[0])


def test_a_missing_marker_names_the_row_and_its_text():
    prompt, _ = of_text("The little fox ran home.")
    with pytest.raises(InterventionError, match=r"'Answer:' does not occur in row 0 .*little fox"):
        FromMarker("Answer:").bounds(prompt)
    with pytest.raises(InterventionError, match="prompt 1"):
        FromMarker("x").require_in(["axb", "ab"])


def test_a_marker_needs_text():
    with pytest.raises(InterventionError, match="embeddings"):
        FromMarker("a").bounds(PromptRows(tokens=None, mask=LEFT, decode=str))
    with pytest.raises(InterventionError, match="no tokenizer"):
        FromMarker("a").bounds(rows(LEFT))
    with pytest.raises(InterventionError, match="empty"):
        FromMarker("")


@pytest.mark.parametrize(
    "positions",
    [ALL, PROMPT, GENERATED, CONTINUATION, Between(2), Between(0, 3), FromMarker("é:"), FromMarker("a", "first", True)],
)
def test_positions_survive_json(positions):
    assert positions_from_dict(json.loads(json.dumps(positions_to_dict(positions)))) == positions


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"kind": "nowhere"},
        {"kind": "all", "start": 1},
        {"kind": "between"},
        {"kind": "between", "start": -2},
    ],
)
def test_other_descriptions_are_refused(value):
    with pytest.raises(InterventionError):
        positions_from_dict(value)
