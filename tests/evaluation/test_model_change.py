"""The damage of one model against another, and the multiple of an adapter at which it is a given one."""

import math
import shutil
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import EvaluationError, ModelError, TextError
from contrans_lens.evaluation import damage, model_damage, solve_adapter_scale
from contrans_lens.evaluation.adapter_scale import _PowerSearch
from contrans_lens.evaluation.model_change import require_same_tokens
from contrans_lens.interventions import Intervention
from contrans_lens.models import logits, open_model, tokenize
from contrans_lens.testbed import model_path, neutral_texts
from tests.tiny_adapters import load_hf, load_peft, save_adapter
from tests.tiny_models import D_MODEL, KINDS, N_CTX, TEXTS, make_hf, open_tiny, tiny_folder, tiny_tokenizer

CLASSES = ("hooked", "bridge") if "hooked" in KINDS else ("bridge",)
NEUTRAL = tuple(neutral_texts(6))


@pytest.fixture(scope="module", params=["gpt2-target", "rotary-target"])
def pair(request, tmp_path_factory):
    """The folders of an embedded model and of an adapter of it."""
    base = model_path(request.param)
    return base, save_adapter(base, tmp_path_factory.mktemp("adapters") / request.param, size=0.15)


def by_hand(base, adapter, model, texts, prompt_tokens=1):
    """Per-token KL, total variation, changed tokens and surprise of every text, from plain logits of both models."""
    before, after = load_hf(base), load_peft(base, adapter)
    found = []
    for text in texts:
        ids = tokenize(model, [text]).tokens
        with torch.no_grad():
            p, q = (hf(ids).logits.double().log_softmax(-1)[0, prompt_tokens - 1 : -1] for hf in (before, after))
        surprise = [-each.gather(1, ids[0, prompt_tokens:, None])[:, 0] for each in (p, q)]
        kl = (p.exp() * (p - q)).sum(-1)
        tv = (p.exp() - q.exp()).abs().sum(-1) / 2
        found.append(torch.stack([kl, tv, (p.argmax(-1) != q.argmax(-1)).double(), surprise[1], surprise[0]]))
    return found


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("prompt_tokens", [None, 4])
def test_it_equals_brute_force(pair, kind, prompt_tokens):
    base, adapter = pair
    before, after = (open_model(place, kind=kind, device="cpu") for place in pair)
    result = model_damage(before, after, NEUTRAL, prompt_tokens=prompt_tokens)
    texts = by_hand(base, adapter, before, NEUTRAL, prompt_tokens or 1)
    tokens = torch.cat(texts, dim=1)
    kl, tv, changed, nll, base_nll = tokens.mean(1).tolist()
    assert kl > 1e-3
    assert changed > 0
    assert result.kl == pytest.approx(kl, rel=1e-2)  # float32 leaves 1e-6 of noise in the difference of two sums
    assert result.kl_p95 == pytest.approx(float(tokens[0].quantile(0.95)), rel=1e-2)
    assert result.tv == pytest.approx(tv, rel=1e-3)
    assert result.tv_p95 == pytest.approx(float(tokens[1].quantile(0.95)), rel=1e-3)
    assert result.top_changed == pytest.approx(changed)
    assert result.nll == pytest.approx(nll, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(nll), rel=1e-5)
    assert result.unsteered_perplexity == pytest.approx(math.exp(base_nll), rel=1e-5)
    assert (result.n_texts, result.n_tokens) == (len(texts), tokens.shape[1])
    assert result.nll_per_text.tolist() == pytest.approx([float(each[3].mean()) for each in texts], rel=1e-4)
    assert result.kl_ci[0] < result.kl < result.kl_ci[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_against_itself_is_no_damage(kind):
    model = open_tiny("gpt2", kind)
    result = model_damage(model, model, TEXTS)
    assert result.kl == pytest.approx(0.0, abs=1e-6)
    assert (result.tv, result.top_changed) == (0.0, 0.0)
    assert result.perplexity == pytest.approx(result.unsteered_perplexity, rel=1e-6)
    same = damage(model, TEXTS)
    assert result.to_dict() == same.to_dict()


def test_a_bias_in_the_weights_is_the_vector_of_an_intervention(tmp_path):
    """A change of the weights and a steering vector that do the same have the same damage."""
    vector = 0.3 * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(0))
    hf = make_hf("gpt2")
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_proj.bias += vector
    hf.save_pretrained(tmp_path / "m")
    tiny_tokenizer("gpt2").save_pretrained(tmp_path / "m")
    base, changed = open_tiny("gpt2", "bridge"), open_model(tmp_path / "m", kind="bridge", device="cpu")
    steered = damage(base, TEXTS, Intervention("blocks.1.hook_resid_post", vector, unit="absolute"))
    found = model_damage(base, changed, TEXTS)
    assert found.kl > 0.01
    for name, value in steered.to_dict().items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-3), name


def test_kinds_sizes_and_dtypes_may_differ(pair):
    before = open_model(pair[0], kind=CLASSES[0], device="cpu")
    same = open_model(pair[0], kind=CLASSES[-1], dtype=torch.float64, device="cpu")
    assert model_damage(before, same, NEUTRAL).kl == pytest.approx(0.0, abs=1e-5)
    assert model_damage(same, before, NEUTRAL).kl == pytest.approx(0.0, abs=1e-7)
    after = open_model(pair[1], kind=CLASSES[-1], device="cpu")
    expected = model_damage(before, after, NEUTRAL)
    few = model_damage(before, after, NEUTRAL, token_budget=40)
    assert few.kl == pytest.approx(expected.kl, rel=1e-3)
    shorter = model_damage(before, after, NEUTRAL, max_tokens=9)
    assert (shorter.n_tokens, shorter.truncated_texts) == (8 * len(NEUTRAL), len(NEUTRAL))


@pytest.mark.parametrize("other", ["llama", "qwen2"])
def test_models_of_other_tokens_are_refused(other):
    base = open_tiny("gpt2", KINDS[0])
    with pytest.raises(EvaluationError, match=r"probabilities of \d+ tokens and the changed model of \d+"):
        model_damage(base, open_tiny(other, "bridge"), TEXTS)


def test_a_tokenizer_with_its_words_exchanged_is_refused(tmp_path):
    base = open_tiny("gpt2", "bridge")
    shutil.copytree(tiny_folder("gpt2"), tmp_path / "m")
    text = (tmp_path / "m" / "tokenizer.json").read_text()
    numbers = tiny_tokenizer("gpt2").get_vocab()
    one, other = numbers["X"], numbers["Y"]  # no text has them, so only the vocabulary tells
    text = text.replace(f'"X": {one},', f'"X": {other},').replace(f'"Y": {other},', f'"Y": {one},')
    (tmp_path / "m" / "tokenizer.json").write_text(text)
    changed = open_model(tmp_path / "m", kind="bridge", device="cpu")
    assert torch.equal(tokenize(base, TEXTS).tokens, tokenize(changed, TEXTS).tokens)
    with pytest.raises(EvaluationError, match="tokenizers differ"):
        model_damage(base, changed, TEXTS)


def test_another_convention_of_bos_is_refused():
    base, changed = open_tiny("gpt2", "bridge"), open_tiny("gpt2", "bridge", fresh=True)
    changed.cfg.default_prepend_bos = not base.cfg.default_prepend_bos
    with pytest.raises(EvaluationError, match="tokenizers differ"):
        model_damage(base, changed, TEXTS)


def test_a_shorter_context_matters_where_texts_are_longer():
    base, changed = open_tiny("gpt2", "bridge"), open_tiny("gpt2", "bridge", fresh=True)
    changed.cfg.n_ctx = N_CTX // 2
    require_same_tokens(base, changed, TEXTS)
    with pytest.raises(EvaluationError, match=f"up to {N_CTX} tokens .* give max_tokens={N_CTX // 2}"):
        model_damage(base, changed, ["girl river " * N_CTX])


def test_models_and_texts_that_cannot_be_measured_are_named():
    base, broken = open_tiny("gpt2", "bridge"), open_tiny("gpt2", "bridge", fresh=True)
    next(iter(broken.parameters())).data.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="changed model's logits hold NaN"):
        model_damage(base, broken, TEXTS)
    with pytest.raises(EvaluationError, match="unsteered model's logits"):
        model_damage(broken, base, TEXTS)
    with pytest.raises(EvaluationError, match="no token to predict"):
        model_damage(base, base, TEXTS, max_tokens=1)
    with pytest.raises(TextError, match="no texts"):
        model_damage(base, base, [])
    broken.tokenizer = None
    with pytest.raises(ModelError, match="no tokenizer"):
        model_damage(base, broken, TEXTS)


@pytest.mark.parametrize(
    ("family", "kind", "share"), [("rotary-target", CLASSES[0], 0.2), ("gpt2-target", CLASSES[-1], 2.0)]
)
def test_the_kl_at_the_solved_scale_is_the_budget(family, kind, share, tmp_path):
    base = model_path(family)
    adapter = save_adapter(base, tmp_path / "adapter", size=0.15)
    before = open_model(base, kind=kind, device="cpu")
    opened = []

    def open_scaled(scale):
        gone = [each for each in opened if each() is not None]
        assert not gone  # one model at a time beside the base
        model = open_model(adapter, adapter_scale=scale, kind=kind, device="cpu")
        opened.append(weakref.ref(model))
        return model

    budget = share * model_damage(before, open_model(adapter, kind=kind, device="cpu"), NEUTRAL).kl
    solved = solve_adapter_scale(open_scaled, before, NEUTRAL, budget)
    assert solved.reached
    assert len(opened) <= 6
    there = model_damage(before, open_scaled(solved.strength), NEUTRAL)
    assert there.kl == pytest.approx(budget, rel=0.021)
    assert there.kl == pytest.approx(solved.measured, rel=1e-4)


def test_a_budget_beyond_the_largest_scale_is_said(pair):
    before = open_model(pair[0], device="cpu")
    scales = []

    def open_scaled(scale):
        scales.append(scale)
        return open_model(pair[1], adapter_scale=scale, device="cpu")

    solved = solve_adapter_scale(open_scaled, before, NEUTRAL, 50.0, max_scale=2)
    assert not solved.reached
    assert solved.strength == max(scales) == 2.0
    assert 0 < solved.measured < 50.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0.0}, "no damage"),
        ({"budget": math.nan}, "no damage"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_scale": math.inf}, "max_scale=inf"),
        ({"first_scale": 5.0}, r"first_scale=5\.0"),
        ({"first_scale": 0.0}, r"first_scale=0\.0"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(change, message):
    base = open_tiny("gpt2", "bridge")
    with pytest.raises(EvaluationError, match=message):
        solve_adapter_scale(
            **({"open_scaled": lambda scale: base, "base": base, "texts": TEXTS, "budget": 0.1} | change)
        )


def test_an_opener_of_another_model_is_refused():
    base, other = open_tiny("gpt2", "bridge"), open_tiny("llama", "bridge")
    with pytest.raises(EvaluationError, match="one vocabulary only"):
        solve_adapter_scale(lambda scale: other, base, TEXTS, 0.1)


def test_the_models_are_left_as_they_were():
    base, other = open_tiny("gpt2", "bridge"), open_tiny("gpt2", "bridge", seed=1)
    batch = tokenize(base, TEXTS)
    expected = [logits(model, batch) for model in (base, other)]
    assert model_damage(base, other, TEXTS).kl > 0.01
    assert all(torch.equal(logits(model, batch), kept) for model, kept in zip((base, other), expected, strict=True))


@settings(max_examples=100, deadline=None)
@given(scale=st.floats(1e-3, 1e3), power=st.floats(0.5, 8.0), target=st.floats(1e-3, 5.0))
def test_power_laws_are_solved_in_few_openings(scale, power, target):
    search = _PowerSearch(target, 0.02, 1.0, 1e12, 0)
    while asked := search.ask():
        for each in asked:
            search.tell(each, scale * each**power)
    solved = search.result(target, "kl")
    assert solved.reached
    assert scale * solved.strength**power == pytest.approx(target, rel=0.021)
    steps = [each for each, _ in solved.trace]
    assert len(steps) <= 6 + max(abs(math.log(solved.strength, 1.5)), 0)


def test_a_curve_that_jumps_and_one_that_is_flat_end_the_search():
    for curve in (lambda s: 1e-9 if s < 0.7 else 3.0, lambda s: 0.0 if s < 0.7 else 3.0):
        search = _PowerSearch(0.1, 0.02, 1.0, 4.0, 0)
        count = 0
        while asked := search.ask():
            count += 1
            assert count < 60
            for each in asked:
                search.tell(each, curve(each))
        assert search.result(0.1, "kl").strength == pytest.approx(0.7, rel=1e-3)
