import pytest
import torch

from contrans_lens.errors import (
    EvaluationError,
)
from contrans_lens.interventions import (
    GENERATED,
    PROMPT,
    Between,
    FromMarker,
    Intervention,
    generate,
)
from tests.tiny_models import N_CTX, N_LAYERS, RAW_KINDS, blocks_of, hf_tiny, open_tiny

pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")  # lm-eval's own model, the oracle, needs it

from lm_eval.api.model import CachingLM

from contrans_lens.exports import SteeredLM, writing
from contrans_lens.exports.requests import buckets, plan_requests
from tests.exports.harness_cases import (
    LONG,
    addition,
    ask,
    generation_requests,
    hooked,
    likelihood_requests,
    oracle,
    rolling_requests,
    vector,
    write,
)

pytestmark = pytest.mark.xdist_group("lm-eval")

# architecture, add_bos, and whether the oracle's tokenizer is made to write BOS
CONVENTIONS = [("gpt2", False, False), ("gpt2", None, True), ("llama", None, False), ("qwen2", None, False)]
TEXTS = ("The little fox ran home.", LONG, "Once upon a time there was a girl", "No!", LONG[:500], "")


def assert_same(found, expected):
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)


@pytest.mark.parametrize("kind", RAW_KINDS)
@pytest.mark.parametrize(("architecture", "add_bos", "writes_bos"), CONVENTIONS)
def test_likelihoods_are_those_of_the_harness(architecture, add_bos, writes_bos, kind):
    lm = SteeredLM(open_tiny(architecture, kind), add_bos=add_bos)
    theirs = oracle(architecture, writes_bos=writes_bos)
    assert_same(ask(lm), ask(theirs))
    # What the model would write itself: without it every flag above could be false.
    contexts = [
        f"The {word} is{end}" for word in ("fox", "girl", "day", "man", "river", "sky") for end in (" ", "", ":")
    ]
    texts = theirs.generate_until(generation_requests(contexts, max_gen_toks=1), disable_tqdm=True)
    pairs = [(context, text) for context, text in zip(contexts, texts, strict=True) if text.isprintable() and text]
    expected = ask(theirs, pairs)
    assert any(greedy for _, greedy in expected)
    assert_same(ask(lm, pairs), expected)
    assert lm.n_cut == 1
    assert lm.prefix_token_id == theirs.prefix_token_id
    assert lm.max_length == theirs.max_length == N_CTX


@pytest.mark.parametrize("kind", RAW_KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_rolling_likelihoods_are_those_of_the_harness_with_one_bos(architecture, kind):
    lm = SteeredLM(open_tiny(architecture, kind))
    theirs = oracle(architecture, add_bos_token=False)  # else its tokenizer's BOS follows its prefix
    expected = theirs.loglikelihood_rolling(rolling_requests(TEXTS), disable_tqdm=True)
    found = lm.loglikelihood_rolling(rolling_requests(TEXTS), disable_tqdm=True)
    assert found == pytest.approx(expected, abs=1e-3)
    assert found[-1] == 0
    bos = lm.tokenizer.decode([lm.prefix_token_id])
    written = lm.loglikelihood_rolling(rolling_requests([bos + TEXTS[0]]), disable_tqdm=True)
    assert written == pytest.approx(found[:1])


@pytest.mark.parametrize("kind", RAW_KINDS)
@pytest.mark.parametrize(("architecture", "add_bos", "writes_bos"), CONVENTIONS)
def test_greedy_texts_are_those_of_the_harness(architecture, add_bos, writes_bos, kind):
    lm = SteeredLM(open_tiny(architecture, kind), add_bos=add_bos)
    theirs = oracle(architecture, writes_bos=writes_bos)
    plain = write(theirs, max_gen_toks=40)  # several rounds of ours
    assert write(lm, max_gen_toks=40) == plain
    stop = plain[1][20:22]
    stopped = write(theirs, max_gen_toks=40, until=[stop, "never"])
    assert stopped != plain
    assert write(lm, max_gen_toks=40, until=[stop, "never"]) == stopped
    assert write(lm, max_gen_toks=40, until=stop) == stopped


@pytest.mark.parametrize("kind", RAW_KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_steering_is_a_hook_on_the_block(architecture, kind):
    lm = SteeredLM(open_tiny(architecture, kind), addition(), add_bos=architecture == "llama")
    theirs = oracle(architecture)
    plain = ask(theirs)
    with hooked(theirs.model, vector()):
        steered, texts = ask(theirs), write(theirs, max_gen_toks=24)
    assert abs(steered[0][0] - plain[0][0]) > 0.1
    assert_same(ask(lm), steered)
    assert write(lm, max_gen_toks=24) == texts
    assert not blocks_of(theirs.model)[1]._forward_hooks  # what follows is unsteered


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_generation_ends_at_eos(kind):
    hf, tokenizer = hf_tiny("llama")
    last = f"blocks.{N_LAYERS - 1}.hook_resid_post"
    towards_eos = hf.lm_head.weight[tokenizer.eos_token_id].detach() / hf.model.norm.weight.detach()
    theirs, texts = oracle("llama"), []
    for scale in (1.0, 4.0):
        added = scale * towards_eos / towards_eos.norm()
        lm = SteeredLM(open_tiny("llama", kind), Intervention(last, added, unit="absolute"))
        with hooked(theirs.model, added, layer=N_LAYERS - 1):
            expected = write(theirs, max_gen_toks=40)
        assert write(lm, max_gen_toks=40) == expected
        texts += expected
    lengths = [len(lm.tok_encode(text, add_special_tokens=False)) for text in texts]
    assert min(lengths) == 0  # ended at once
    assert any(0 < length < 16 for length in lengths)  # within the first round
    assert any(length > 30 for length in lengths)  # not at all, or late


def test_generation_ends_at_every_end_token_of_a_chat_model():
    theirs, model = oracle("llama"), open_tiny("llama", "bridge", fresh=True)
    written = theirs.tok_encode(write(theirs, max_gen_toks=40)[0], add_special_tokens=False)
    ends = [theirs.eot_token_id, next(token for token in written[6:] if token not in written[:6])]
    for config in (theirs.model.generation_config, model.original_model.generation_config):
        config.eos_token_id = ends
    texts = write(theirs, max_gen_toks=40)
    assert write(SteeredLM(model), max_gen_toks=40) == texts
    assert len(theirs.tok_encode(texts[0], add_special_tokens=False)) < len(written) - 10
    # Without an EOS, what fills a finished row is no special token: it must not be taken for text.
    model.original_model.generation_config.eos_token_id, model.tokenizer.eos_token = ends[1], None
    assert write(SteeredLM(model), max_gen_toks=40) == texts


def test_finished_rows_leave_and_equal_contexts_are_one_row(monkeypatch):
    lm, sizes = SteeredLM(open_tiny("gpt2", "bridge")), []
    contexts = ["The sky is", "No!", "The sky is"]
    first, second, _ = write(lm, contexts, max_gen_toks=100)
    stop = next(first[at : at + 2] for at in range(len(first)) if first[at : at + 2] not in second)
    run = writing.generate_tokens

    def recorded(model, batch, **how):
        sizes.append((len(batch), how["max_new_tokens"]))
        return run(model, batch, **how)

    monkeypatch.setattr(writing, "generate_tokens", recorded)
    texts = write(lm, contexts, max_gen_toks=100, until=[stop])
    assert texts == [first.split(stop)[0], second, texts[0]]
    assert sizes == [(2, 16), (1, 32), (1, 52)]


@pytest.mark.parametrize("kind", RAW_KINDS)
@pytest.mark.parametrize("positions", [PROMPT, GENERATED, Between(1, 3), FromMarker("sky")])
def test_positions_end_where_the_continuation_begins(kind, positions):
    hf, _ = hf_tiny("llama")
    lm = SteeredLM(open_tiny("llama", kind), addition(positions=positions))
    pairs = [
        (f"{start} the sky is", rest) for start in ("No!", "He said that") for rest in (" green?", " old and cold")
    ]
    found = ask(lm, pairs)
    for (context, continuation), (value, _) in zip(pairs, found, strict=True):
        prompt, ids = lm.tok_encode(context), torch.tensor([lm.tok_encode(context + continuation)])
        at = torch.arange(ids.shape[1])
        marker = next(place for place in at.tolist() if lm.tokenizer.decode(prompt[place:]).lstrip() == "sky is")
        where = {
            PROMPT: at < len(prompt),
            GENERATED: at >= len(prompt),
            Between(1, 3): (at >= 1) & (at < 3),
            FromMarker("sky"): at >= marker,
        }[positions]
        with hooked(hf, where[:, None] * vector()), torch.no_grad():
            log_p = hf(ids).logits.double().log_softmax(-1)
        read = log_p[0, :-1].gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
        assert value == pytest.approx(read.sum().item(), abs=1e-4)


@pytest.mark.parametrize("kind", RAW_KINDS)
@pytest.mark.parametrize("positions", [PROMPT, GENERATED, Between(1, 30), FromMarker("the")])
def test_rounds_of_generation_change_nothing(kind, positions):
    model = open_tiny("gpt2", kind)
    contexts = ["Once upon a time there was the girl", "He said that the answer is 42", "the sky"]
    steered = addition(positions=positions)
    expected = generate(model, contexts, steered, max_new_tokens=60)
    assert write(SteeredLM(model, steered), contexts, max_gen_toks=60) == list(expected.texts)


def test_no_intervention_and_strength_zero_are_exactly_the_unsteered_model():
    model = open_tiny("llama", "bridge")
    plain, neutral = SteeredLM(model), SteeredLM(model, addition(positions=PROMPT).with_strength(0.0))
    assert ask(plain) == ask(neutral)
    assert write(plain, max_gen_toks=8) == write(neutral, max_gen_toks=8)
    texts = rolling_requests(TEXTS)
    assert plain.loglikelihood_rolling(texts, disable_tqdm=True) == neutral.loglikelihood_rolling(texts, True)
    assert ask(plain) != ask(SteeredLM(model, addition()))


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": "auto"}, {"token_budget": 7}])
def test_the_batch_size_changes_nothing(options):
    model = open_tiny("gpt2", "bridge")
    expected, lm = SteeredLM(model, addition()), SteeredLM(model, addition(), **options)
    assert_same(ask(lm), ask(expected))
    assert write(lm, max_gen_toks=9) == write(expected, max_gen_toks=9)


def test_choices_of_one_context_are_one_row_and_beginnings_are_run_once():
    requests = [([5, 6], [7]), ([5, 6], [8]), ([5, 6], [7, 9]), ([5, 6], [7]), ([5], [6, 7]), ([8, 6], [7])]
    rows, n_cut = plan_requests(requests, 16, None, str)
    assert n_cut == 0
    assert {tuple(row.tokens): sorted(read.item for read in row.reads) for row in rows} == {
        (5, 6, 7): [0, 1, 2, 2, 3],
        (5, 6): [4, 4],  # its prompt ends elsewhere
        (8, 6): [5],
    }
    assert [len(bucket) for bucket in buckets(rows)] in ([2, 1], [1, 2])  # two positions are read, or one


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_only_what_is_read_is_unembedded(kind):
    lm, seen = SteeredLM(open_tiny("gpt2", kind), addition()), []
    handle = lm.model.unembed.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape[:2])))
    try:
        ask(lm, [("The little fox ran home", end) for end in ("!", "?", ".", ",")])
        assert seen == [(1, 1)]
        write(lm, ["The little fox ran home", "No!"], max_gen_toks=3)
        assert seen[1:] == [(2, 1)] * 3
    finally:
        handle.remove()
    assert len(lm.model.unembed._forward_pre_hooks) == 0


def test_bos_is_written_once_and_by_the_models_convention():
    gpt2, qwen = SteeredLM(open_tiny("gpt2", "bridge")), SteeredLM(open_tiny("qwen2", "bridge"))
    bos = gpt2.tokenizer.bos_token
    assert (
        gpt2.tok_encode("No!") == gpt2.tok_encode(bos + "No!") == [gpt2.prefix_token_id, *gpt2.tok_encode("No!", False)]
    )
    assert SteeredLM(gpt2.model, add_bos=False).tok_encode("No!") == gpt2.tok_encode("No!", add_special_tokens=False)
    assert qwen.tok_encode("No!") == qwen.tok_encode("No!", add_special_tokens=False)
    assert qwen.prefix_token_id == qwen.eot_token_id
    without = open_tiny("qwen2", "bridge", fresh=True)
    without.tokenizer.bos_token = None  # TransformerLens had set it to EOS
    assert SteeredLM(without).prefix_token_id == qwen.eot_token_id
    with pytest.raises(EvaluationError, match="no BOS"):
        SteeredLM(without, add_bos=True)
    without.tokenizer.eos_token = None
    with pytest.raises(EvaluationError, match="neither BOS nor EOS"):
        ask(SteeredLM(without), [("", "No!")])


def test_a_chat_template_is_the_tokenizers_own(monkeypatch):
    lm = SteeredLM(open_tiny("llama", "bridge"))
    chat = [{"role": "user", "content": "No!"}]
    with pytest.raises(EvaluationError, match="no chat template"):
        lm.apply_chat_template(chat)
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    text = lm.apply_chat_template(chat)
    assert text == "<s><user>No!<assistant>"
    assert lm.tok_encode(text).count(lm.prefix_token_id) == 1
    assert lm.apply_chat_template([{"role": "system", "content": "Be kind."}, *chat]) == text
    assert lm.apply_chat_template([*chat, {"role": "assistant", "content": "So"}], False) == "<s><user>No!<assistant>So"
    assert lm.chat_template(True) == template
    monkeypatch.setattr(lm.tokenizer, "chat_template", "{{ raise_exception('never') }}")
    with pytest.raises(EvaluationError, match="refuses the chat"):
        lm.apply_chat_template(chat)


def test_draws_follow_torchs_seed_and_low_temperatures_are_greedy():
    lm = SteeredLM(open_tiny("gpt2", "bridge"), addition())
    greedy = write(lm, max_gen_toks=12)
    assert write(lm, max_gen_toks=12, do_sample=False, temperature=0.7, top_p=0.5) == greedy
    assert write(lm, max_gen_toks=12, do_sample=True, temperature=1e-6) == greedy
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(write(lm, max_gen_toks=12, temperature=1.0))
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] != drawn[0][3]  # the same context, asked twice, is drawn twice


def test_results_are_cached_as_they_are_found(tmp_path, monkeypatch):
    requests = likelihood_requests(), rolling_requests(TEXTS[:2]), generation_requests(max_gen_toks=4)
    lm = CachingLM(SteeredLM(open_tiny("gpt2", "bridge"), addition()), str(tmp_path / "cache.db"))
    partial = []
    monkeypatch.setattr(lm.lm.cache_hook, "add_partial", lambda *entry: partial.append(entry))
    first = lm.loglikelihood(requests[0]), lm.loglikelihood_rolling(requests[1]), lm.generate_until(requests[2])
    for attr, asked, answers in zip(
        ("loglikelihood", "loglikelihood_rolling", "generate_until"), requests, first, strict=True
    ):
        known = [(tuple(arguments), answer) for name, arguments, answer in partial if name == attr]
        assert len(known) == len(asked)
        assert all((request.args, answer) in known for request, answer in zip(asked, answers, strict=True))
    for name in ("_answers", "_written"):
        monkeypatch.setattr(SteeredLM, name, lambda *_: pytest.fail("the model was asked again"))
    assert first == (
        lm.loglikelihood(requests[0]),
        lm.loglikelihood_rolling(requests[1]),
        lm.generate_until(requests[2]),
    )
