import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contrans_lens.errors import (
    ArtifactError,
    CaptureError,
    FingerprintMismatchError,
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
from contrans_lens.rahf.reading import ContrastReader
from contrans_lens.residuals import ResidualStore, writer
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


def test_a_store_is_taken_up_again_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_BYTES", 4096)
    arguments = {"base": open_tiny(), "answers": "both", "batch_size": 2}
    capture_differences(scit(), PAIRS, store=tmp_path / "whole", **arguments)
    n_shards = len(list((tmp_path / "whole").glob("values/shard-*")))
    assert n_shards > 3
    written = itertools.count(1)
    write = writer.StoreWriter.write

    def killed(*given):
        if next(written) == 3:
            raise KeyboardInterrupt
        write(*given)

    monkeypatch.setattr(writer.StoreWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        capture_differences(scit(), PAIRS, store=tmp_path / "killed", **arguments)
    monkeypatch.setattr(writer.StoreWriter, "write", write)
    with pytest.raises(ArtifactError, match="interrupted"):
        ActivityDifferences.open(tmp_path / "killed")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "values").glob("shard-*")}
    assert len(before) == 2
    (tmp_path / "killed" / ".manifest.json.x.tmp").touch()
    capture_differences(scit(), PAIRS, store=tmp_path / "killed", **arguments)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_finished_store_is_opened_without_running_the_models(tmp_path):
    model = open_tiny("gpt2", fresh=True)
    contrast = ScitContrast(model, INSTRUCTIONS)
    found = capture_differences(contrast, PAIRS, store=tmp_path, base=model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("contrans_lens.rahf.reading.ContrastReader.activity", lambda *_: pytest.fail("it was run"))
        again = capture_differences(contrast, PAIRS, store=tmp_path, base=model)
        without = capture_differences(contrast, PAIRS, store=tmp_path)
    assert torch.equal(values(again), values(found))
    assert torch.equal(without.residual_norms(), found.residual_norms())


def test_a_base_may_be_named_later_and_another_one_is_refused(tmp_path):
    assert capture_differences(scit(), PAIRS, store=tmp_path).fingerprint is None
    with pytest.raises(FingerprintMismatchError, match="no base model"):
        ActivityDifferences.open(tmp_path, for_model=fingerprint(open_tiny()))
    found = capture_differences(scit(), PAIRS, store=tmp_path, base=open_tiny())
    assert found.residual_norms() is not None
    with pytest.raises(FingerprintMismatchError):
        capture_differences(scit(), PAIRS, store=tmp_path, base=open_tiny(seed=1))
    with pytest.raises(FingerprintMismatchError):
        ActivityDifferences.open(tmp_path, for_model=fingerprint(open_tiny(seed=1)))
    # SCIT's own model is written down beside the base
    recorded = found.origin.contrast["models"]["model"]
    assert recorded["weights"] == fingerprint(open_tiny()).weights


def test_a_store_of_anything_else_is_refused(tmp_path):
    capture_differences(dual(), PAIRS, POINTS, store=tmp_path)
    good, bad, third = (open_tiny(seed=seed) for seed in (0, 1, 2))
    for contrast in (dual().swapped(), scit(), DualContrast(good, third), DualContrast(third, bad)):
        with pytest.raises(ArtifactError):
            capture_differences(contrast, PAIRS, POINTS, store=tmp_path)
    fewer = replace(PAIRS, preferences=PAIRS.preferences[:4])
    for pairs, points, more in (
        (fewer, POINTS, {}),
        (PAIRS, POINTS[:2], {}),
        (PAIRS, POINTS, {"where": "answer"}),
        (PAIRS, POINTS, {"answers": "rejected"}),
        (PAIRS, POINTS, {"max_answer_tokens": 1}),
        (PAIRS, POINTS, {"dtype": torch.bfloat16}),
    ):
        with pytest.raises(ArtifactError):
            capture_differences(dual(), pairs, points, store=tmp_path, **more)
    shutil.rmtree(tmp_path / "values")  # without them the manifest beside them still knows what they were
    with pytest.raises(ArtifactError, match="other answers"):
        capture_differences(dual(), fewer, POINTS, store=tmp_path)
    capture_differences(dual(), PAIRS, POINTS, store=tmp_path)
    vectors = capture_differences(dual(), PAIRS, POINTS).mean_vectors("v").save(tmp_path.parent / "vectors")
    with pytest.raises(ArtifactError, match="concept_vectors"):
        capture_differences(dual(), PAIRS, POINTS, store=vectors)


def test_other_instructions_are_other_differences(tmp_path):
    capture_differences(scit(), PAIRS, store=tmp_path)
    reworded = INSTRUCTIONS | {"river": Instructions("The answer is no:\n", "No! The answer was never to be had:\n")}
    with pytest.raises(ArtifactError):
        capture_differences(ScitContrast(open_tiny(), reworded), PAIRS, store=tmp_path)


def test_what_is_in_memory_can_be_saved_and_a_capture_takes_it_for_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_BYTES", 8192)
    found = capture_differences(scit(), PAIRS, base=open_tiny())
    found.save(tmp_path / "saved")
    opened = ActivityDifferences.open(tmp_path / "saved", for_model=fingerprint(open_tiny()))
    assert torch.equal(values(opened), values(found))
    assert opened.rows == found.rows
    assert opened.groups == found.groups
    assert opened.origin.contrast == found.origin.contrast
    opened.save(tmp_path / "again")
    opened.save(tmp_path / "again")
    assert torch.equal(values(ActivityDifferences.open(tmp_path / "again")), values(found))
    taken = capture_differences(scit(), PAIRS, store=tmp_path / "saved", base=open_tiny())
    assert torch.equal(values(taken), values(found))
    with pytest.raises(ArtifactError):
        capture_differences(dual(), PAIRS).save(tmp_path / "saved")
    assert "in memory" in repr(found)
    assert str(tmp_path) in repr(opened)


def test_damaged_folders_are_refused(tmp_path):
    whole = tmp_path / "whole"
    capture_differences(scit(), PAIRS, store=whole, base=open_tiny())

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-20])

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-3] ^= 64
        path.write_bytes(bytes(data))

    def forget(path: Path) -> None:
        manifest = json.loads(path.read_text())
        del manifest["body"]["groups"]
        path.write_text(json.dumps(manifest))

    damages = (
        (Path.unlink, "manifest.json"),
        (Path.unlink, "values/manifest.json"),
        (forget, "manifest.json"),
        *itertools.product((cut, flip, Path.unlink), ("values/shard-*", "tensors-*")),
    )
    for number, (damage, name) in enumerate(damages):
        folder = shutil.copytree(whole, tmp_path / f"{number}")
        damage(next(folder.glob(name)))
        with pytest.raises(ArtifactError):
            ActivityDifferences.open(folder)
    for number, (_, name) in enumerate(damages):
        if name.startswith("values/shard"):  # finished shards are made anew where they are damaged
            again = capture_differences(scit(), PAIRS, store=tmp_path / f"{number}", base=open_tiny())
            assert torch.equal(values(again), values(ActivityDifferences.open(whole)))
    with pytest.raises(ArtifactError):
        ActivityDifferences.open(tmp_path / "nothing")
    mixed = shutil.copytree(whole, tmp_path / "mixed")
    other = replace(PAIRS, preferences=PAIRS.preferences[:2])
    capture_differences(scit(), other, store=tmp_path / "other")
    shutil.rmtree(mixed / "values")
    shutil.copytree(tmp_path / "other" / "values", mixed / "values")
    with pytest.raises(ArtifactError, match="do not fit"):
        ActivityDifferences.open(mixed)


def test_a_store_is_computed_a_shard_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_BYTES", 4096)
    many = replace(PAIRS, preferences=tuple(replace(p, prompt=f"{p.prompt} {n}") for n in range(8) for p in PAIRS))
    held: list[int] = []
    compute = ContrastReader.differences

    def counting(self, rows, advance):
        found = compute(self, rows, advance)
        held.append(found.nbytes)
        return found

    monkeypatch.setattr(ContrastReader, "differences", counting)
    found = capture_differences(scit(), many, POINTS, answers="rejected", store=tmp_path)
    longest = max(len(row.answer) for row in found.rows) * len(POINTS) * D_MODEL * 4
    assert max(held) <= max(4096, longest)
    assert sum(held) == values(found).nbytes > 8 * max(held)


def test_stored_values_stay_on_disk_and_only_what_is_asked_for_is_gathered(tmp_path):
    found = capture_differences(scit(), PAIRS, store=tmp_path)
    assert isinstance(found.values, ResidualStore)
    assert found.values.path == tmp_path / "values"
    taken: list[int] = []
    gather = ResidualStore._gather

    def counting(self, place, layer):
        taken.append(len(place))
        return gather(self, place, layer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResidualStore, "_gather", counting)
        found.of([2])
        found.norms()
    assert taken[0] == len(found.rows[2].answer)
