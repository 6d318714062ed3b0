from dataclasses import replace

import pytest
import torch

from contrans_lens.errors import (
    CaptureError,
    HookPointError,
    RahfError,
)
from contrans_lens.models import fingerprint
from contrans_lens.rahf.differences import (
    ActivityDifferences,
    Differences,
    DualContrast,
    ScitContrast,
    capture_differences,
    stream_differences,
)
from contrans_lens.texts import Instructions, Preference, PreferenceSet
from tests.rahf.small_contrasts import INSTRUCTIONS, LEVELS, PAIRS, POINTS, both, dual, scit, values
from tests.tiny_models import D_MODEL, KINDS, N_CTX, N_LAYERS, RAW_KINDS, hf_tiny, open_tiny

CASES = [(each, kind) for each in ("gpt2", "llama") for kind in RAW_KINDS]


def hidden(architecture: str, seed: int, text: str, answer: str, where: str) -> torch.Tensor:
    """``[token, layer, d_model]`` at an answer's tokens, from a plain Hugging Face model and a text of its own."""
    model, tokenizer = hf_tiny(architecture, seed)
    ids = tokenizer(text + answer, add_special_tokens=False, return_offsets_mapping=True)
    n_head = sum(stop <= len(text) for _, stop in ids["offset_mapping"])
    row = [tokenizer.bos_token_id, *ids["input_ids"]]
    with torch.no_grad():
        states = model(torch.tensor([row]), output_hidden_states=True).hidden_states
    shift = int(where == "predicting")
    return torch.stack([states[level][0] for level in LEVELS], 1)[1 + n_head - shift : len(row) - shift]


def hf_differences(method: str, architecture: str, where: str, answers: str) -> torch.Tensor:
    pieces = []
    for pair in PAIRS:
        cue = INSTRUCTIONS[pair.topic]
        texts = (cue.positive, cue.negative) if method == "scit" else ("", "")
        seeds = (0, 0) if method == "scit" else (0, 1)
        for name in ("chosen", "rejected"):
            if answers in (name, "both"):
                runs = zip(seeds, texts, strict=True)
                read = [hidden(architecture, s, t + pair.prompt, getattr(pair, name), where) for s, t in runs]
                pieces.append(read[0] - read[1])
    return torch.cat(pieces)


@pytest.mark.parametrize(("architecture", "kind"), CASES)
@pytest.mark.parametrize("where", ["answer", "predicting"])
def test_differences_are_those_of_hidden_states_in_hugging_face(architecture, kind, where):
    for contrast in both(architecture, kind):
        found = capture_differences(contrast, PAIRS, POINTS, where=where, answers="both", batch_size=3)
        assert torch.allclose(values(found), hf_differences(contrast.method, architecture, where, "both"), atol=1e-5)
        assert values(found).abs().max() > 0.1
        assert torch.equal(values(found)[:, 0], values(found)[:, 1])  # two names of one place


@pytest.mark.parametrize("kind", KINDS)
def test_identical_models_have_no_differences(kind):
    model = open_tiny("gpt2", kind)
    assert not values(capture_differences(DualContrast(model, model), PAIRS)).any()


@pytest.mark.parametrize(("architecture", "kind"), CASES)
def test_swapping_the_runs_flips_the_sign_of_every_bit(architecture, kind):
    for contrast in both(architecture, kind):
        one, other = (values(capture_differences(each, PAIRS)) for each in (contrast, contrast.swapped()))
        assert torch.equal(one, -other)
        assert one.any()
        assert torch.equal(values(capture_differences(contrast.swapped().swapped(), PAIRS)), one)


def test_one_instruction_for_all_topics_is_swapped_too():
    contrast = ScitContrast(open_tiny(), INSTRUCTIONS["home"])
    one, other = (values(capture_differences(each, PAIRS)) for each in (contrast, contrast.swapped()))
    assert torch.equal(one, -other)


@pytest.mark.parametrize("where", ["answer", "predicting"])
def test_batches_and_the_order_of_pairs_do_not_matter(where):
    for contrast in (scit(), dual()):
        found = capture_differences(contrast, PAIRS, where=where, batch_size=1)
        for size in (2, 4, None):
            again = capture_differences(contrast, PAIRS, where=where, batch_size=size)
            assert torch.allclose(values(again), values(found), atol=1e-5)
        order = (3, 0, 4, 2, 1)
        mixed = replace(PAIRS, preferences=tuple(PAIRS.preferences[number] for number in order))
        again = capture_differences(contrast, mixed, where=where)
        assert torch.allclose(values(again), found.of(order), atol=1e-5)


def test_memory_disk_and_stream_agree_and_are_differences(tmp_path):
    base = open_tiny()
    for number, contrast in enumerate((scit(), dual())):
        arguments = {"base": base, "where": "predicting", "answers": "both"}
        kept = capture_differences(contrast, PAIRS, POINTS, **arguments)
        stored = capture_differences(contrast, PAIRS, POINTS, store=tmp_path / f"{number}", **arguments)
        opened = ActivityDifferences.open(tmp_path / f"{number}", for_model=fingerprint(base))
        streamed = stream_differences(contrast, PAIRS, POINTS, **arguments)
        for each in (kept, stored, opened, streamed):
            assert isinstance(each, Differences)
            assert each.hook_points == POINTS
            assert each.where == "predicting"
            assert each.d_model == D_MODEL
            assert each.rows == kept.rows
            assert each.groups == ("fox", "fox", "answer", "answer", "answer", "answer", "man", "man", "fox", "fox")
            assert each.fingerprint == kept.fingerprint == fingerprint(base)
            assert torch.allclose(each.residual_norms(), kept.residual_norms(), rtol=1e-5)
            assert torch.allclose(values(each), values(kept), atol=1e-5)
            chosen = [7, 2, 2, 0]
            assert torch.allclose(each.of(chosen), torch.cat([kept.of([row]) for row in chosen]), atol=1e-5)
            assert each.of([]).shape == (0, 3, D_MODEL)
            for wrong in ([10], [-1]):
                with pytest.raises(RahfError, match="row"):
                    each.of(wrong)
        assert torch.equal(values(stored), values(opened))


def test_rows_are_those_of_the_plain_prompt_and_hold_the_answer_of_every_run():
    found = capture_differences(scit(), PAIRS, answers="both")
    _, tokenizer = hf_tiny("gpt2")
    texts = [tokenizer.decode(row.ids[1:]) for row in found.rows]
    wanted = [pair.prompt + answer for pair in PAIRS for answer in (pair.chosen, pair.rejected)]
    assert texts == wanted
    assert [row.ids[0] for row in found.rows] == [tokenizer.bos_token_id] * 10
    assert len(values(found)) == sum(len(row.answer) for row in found.rows) == found.n_tokens


def test_answers_are_cut_as_asked_and_the_cuts_are_counted():
    whole, found = (capture_differences(dual(), PAIRS, max_answer_tokens=n) for n in (None, 2))
    assert [len(row.answer) for row in found.rows] == [min(2, len(row.answer)) for row in whole.rows]
    assert found.origin.cut_answers == sum(len(row.answer) > 2 for row in whole.rows) > 0
    assert torch.allclose(found.of([1]), whole.of([1])[:2], atol=1e-5)
    short = capture_differences(scit(), PAIRS, max_length=N_CTX // 2)
    assert max(len(row.ids) for row in short.rows) <= N_CTX // 2


def test_residual_norms_are_those_of_the_plain_base(tmp_path):
    base = open_tiny("gpt2", seed=2)
    found = capture_differences(scit(), PAIRS, POINTS, base=base)
    states = torch.cat([hidden("gpt2", 2, pair.prompt, pair.chosen, "predicting") for pair in PAIRS])
    assert torch.allclose(found.residual_norms(), states.norm(dim=2).mean(0), rtol=1e-5)
    assert capture_differences(scit(), PAIRS, POINTS).residual_norms() is None
    vectors = found.mean_vectors("good")
    assert torch.allclose(vectors.vectors, values(found).mean(0), atol=1e-5)
    assert vectors.fingerprint == fingerprint(base)
    assert vectors.hook_points == POINTS
    assert torch.equal(vectors.residual_norms, found.residual_norms())
    vectors.save(tmp_path)


def test_nothing_after_the_last_hook_point_is_run():
    model = open_tiny("gpt2", fresh=True)
    broken = model.blocks[N_LAYERS - 1].original_component
    handle = broken.register_forward_hook(lambda *_: pytest.fail("the last block was run"))
    contrast = ScitContrast(model, INSTRUCTIONS)
    stream = stream_differences(contrast, PAIRS, ["blocks.0.hook_resid_post", "blocks.2.hook_resid_pre"])
    stream.of([0, 1])
    with pytest.raises(pytest.fail.Exception):
        stream_differences(contrast, PAIRS, ["blocks.3.hook_resid_post"]).of([0])
    handle.remove()


def test_an_activity_that_is_not_finite_names_pair_and_hook_point():
    model = open_tiny("gpt2", fresh=True)
    contrast = DualContrast(model, open_tiny())
    good = capture_differences(contrast, PAIRS, answers="both")
    words = {token for number, row in enumerate(good.rows) if number not in (4, 5) for token in row.ids}
    token = next(token for token in good.rows[5].ids if token not in words)  # only in the prompt of pair 2
    with torch.no_grad():
        model.embed.weight[token] = float("nan")
    with pytest.raises(CaptureError, match=r"(?s)pair n.*text 2 .*blocks\.\d\.hook_resid_post"):
        stream_differences(contrast, PAIRS, answers="both").of([0, 1, 5, 4])


def test_a_dtype_that_does_not_hold_a_difference_is_refused_and_half_precision_is_read_as_float32(tmp_path):
    found = capture_differences(dual(), PAIRS, dtype=torch.bfloat16, store=tmp_path / "half")
    assert found.dtype == torch.bfloat16
    assert values(found).dtype == torch.float32
    assert torch.allclose(values(found), values(capture_differences(dual(), PAIRS)), rtol=0.02, atol=1e-3)
    large = open_tiny("gpt2", fresh=True)
    with torch.no_grad():
        for parameter in large.parameters():
            parameter.mul_(1e5)
    with pytest.raises(CaptureError, match=r"pair 0 at blocks\.0"):
        stream_differences(DualContrast(large, open_tiny()), PAIRS, dtype=torch.float16).of([0])


def test_wrong_arguments_are_refused_before_anything_is_run():
    contrast = scit()
    for names in ("blocks.0.hook_resid_post", [], ["blocks.0.hook_resid_post"] * 2):
        with pytest.raises(RahfError, match="hook points"):
            stream_differences(contrast, PAIRS, names)
    for names in (["blocks.0.mlp.hook_out"], ["blocks.9.hook_resid_post"], ["blocks.1.hook_resid_mid"]):
        with pytest.raises(HookPointError):
            stream_differences(contrast, PAIRS, names)
    for wrong in ({"max_length": 0}, {"max_length": N_CTX + 1}, {"dtype": torch.int32}):
        with pytest.raises(RahfError):
            stream_differences(contrast, PAIRS, **wrong)
    with pytest.raises(RahfError, match="topic"):
        stream_differences(ScitContrast(open_tiny(), {"home": INSTRUCTIONS["home"]}), PAIRS)
    with pytest.raises(CaptureError, match="batch_size"):
        stream_differences(contrast, PAIRS, batch_size=0)


def test_answers_must_be_the_same_tokens_in_every_run():
    other_words = open_tiny("llama")  # its tokenizer has other ids
    with pytest.raises(RahfError, match="different tokens"):
        stream_differences(DualContrast(open_tiny(), other_words), PAIRS)
    with pytest.raises(RahfError, match="the base model"):
        stream_differences(scit(), PAIRS, base=other_words)
    joined = Instructions("the an", "the home")
    with_answer = PreferenceSet((Preference("s", "wer", "s"),), "joined")
    with pytest.raises(RahfError, match="depend on the instruction"):
        stream_differences(ScitContrast(open_tiny(), joined), with_answer)
