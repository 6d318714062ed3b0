import math

import pytest
import torch

from contrans_lens.errors import EvaluationError, TextError
from contrans_lens.evaluation import damage, damage_vectors, meter, prompt_damage
from contrans_lens.interventions import Intervention
from contrans_lens.models import logits, tokenize
from tests.tiny_models import D_MODEL, KINDS, N_CTX, TEXTS, hf_tiny, open_tiny

HOOK_POINT = "blocks.1.hook_resid_post"


def additions(n, scale=1.0, seed=0):
    return scale * torch.randn(n, D_MODEL, generator=torch.Generator().manual_seed(seed))


def hf_damage(architecture, model, vector, layer=1):
    """Per-token KL and surprise of every text in plain Hugging Face with a Hugging Face forward hook."""
    hf, _ = hf_tiny(architecture)
    blocks = hf.transformer.h if architecture == "gpt2" else hf.model.layers

    def add(module, inputs, output):
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    kl, nll, base_nll = [], [], []
    for text in TEXTS:
        ids = tokenize(model, [text]).tokens
        with torch.no_grad():
            base = hf(ids).logits.double().log_softmax(-1)[0, :-1]
            handle = blocks[layer].register_forward_hook(add)
            steered = hf(ids).logits.double().log_softmax(-1)[0, :-1]
            handle.remove()
        kl.append(torch.nn.functional.kl_div(steered, base, log_target=True, reduction="none").sum(-1))
        nll.append(-steered.gather(1, ids[0, 1:, None])[:, 0])
        base_nll.append(-base.gather(1, ids[0, 1:, None])[:, 0])
    return kl, nll, base_nll


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("hooked", "bridge")])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_damage_equals_brute_force_in_hugging_face(architecture, kind):
    model = open_tiny(architecture, kind)
    vectors = additions(2)
    found = damage_vectors(model, TEXTS, HOOK_POINT, vectors)
    for vector, result in zip(vectors, found, strict=True):
        kl, nll, base_nll = hf_damage(architecture, model, vector)
        assert result.kl == pytest.approx(torch.cat(kl).mean().item(), rel=1e-4)
        assert result.kl_p95 == pytest.approx(torch.cat(kl).quantile(0.95).item(), rel=1e-4)
        assert result.nll == pytest.approx(torch.cat(nll).mean().item(), rel=1e-5)
        assert result.perplexity == pytest.approx(torch.cat(nll).mean().exp().item(), rel=1e-4)
        assert result.unsteered_perplexity == pytest.approx(torch.cat(base_nll).mean().exp().item(), rel=1e-4)
        assert torch.allclose(result.kl_per_text, torch.stack([each.mean() for each in kl]), rtol=1e-3)
        assert torch.allclose(result.nll_per_text, torch.stack([each.mean() for each in nll]), rtol=1e-3)
        assert (result.n_texts, result.n_tokens) == (len(TEXTS), len(torch.cat(kl)))
        assert result.kl_ci[0] < result.kl < result.kl_ci[1]
        assert result.perplexity_ci[0] < result.perplexity < result.perplexity_ci[1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_path_gives_the_same(kind):
    model = open_tiny("gpt2", kind)
    vectors = additions(5)
    expected = damage_vectors(model, TEXTS, HOOK_POINT, vectors, fan_out=False)
    for found in (
        damage_vectors(model, TEXTS, HOOK_POINT, vectors, fan_out=True),
        damage_vectors(model, TEXTS, HOOK_POINT, vectors, token_budget=30),
        [damage(model, TEXTS, Intervention(HOOK_POINT, vector, unit="absolute")) for vector in vectors[:2]],
    ):
        for one, other in zip(found, expected, strict=False):
            assert one.kl == pytest.approx(other.kl, rel=1e-4)
            assert one.kl_p95 == pytest.approx(other.kl_p95, rel=1e-3)
            assert one.nll == pytest.approx(other.nll, rel=1e-5)


def test_damage_of_a_prefix_equals_brute_force():
    model, prefix = open_tiny("llama", "bridge"), "He said: "
    kl, nll = [], []
    for text in TEXTS:
        alone, after = tokenize(model, [text]), tokenize(model, [prefix + text])
        shift = after.tokens.shape[1] - alone.tokens.shape[1]
        same = alone.tokens[0, 1:] == after.tokens[0, 1 + shift :]  # this tokenizer merges nothing over the seam
        assert same.all()
        p = logits(model, alone).double().log_softmax(-1)[0, :-1]
        q = logits(model, after).double().log_softmax(-1)[0, shift:-1]
        kl.append((p.exp() * (p - q)).sum(-1))
        nll.append(-q.gather(1, alone.tokens[0, 1:, None])[:, 0])
    found = prompt_damage(model, TEXTS, prefix)
    assert found.kl == pytest.approx(torch.cat(kl).mean().item(), rel=1e-4)
    assert found.perplexity == pytest.approx(torch.cat(nll).mean().exp().item(), rel=1e-4)
    assert found.n_tokens == len(torch.cat(kl))


def test_nothing_done_is_no_damage():
    model = open_tiny("llama", "bridge")
    [added] = damage_vectors(model, TEXTS, HOOK_POINT, torch.zeros(1, D_MODEL))
    for result in (added, damage(model, TEXTS)):
        assert result.kl == pytest.approx(0.0, abs=1e-6)
        assert result.kl_p95 == pytest.approx(0.0, abs=5e-6)
        assert result.perplexity == pytest.approx(result.unsteered_perplexity, rel=1e-6)


def test_unsteered_log_probabilities_need_not_be_kept(monkeypatch):
    model = open_tiny("gpt2", "bridge")
    expected = damage_vectors(model, TEXTS, HOOK_POINT, additions(3))
    monkeypatch.setattr(meter, "_KEPT_VALUES", 0)
    assert damage_vectors(model, TEXTS, HOOK_POINT, additions(3)) == expected


def test_damage_after_a_prompt_leaves_its_tokens_out():
    model, vector = open_tiny("gpt2", KINDS[0]), additions(1)[0]
    kl, _, _ = hf_damage("gpt2", model, vector)
    adding = Intervention(HOOK_POINT, vector, unit="absolute")
    long = [index for index, each in enumerate(kl) if len(each) > 6]
    found = damage(model, [TEXTS[index] for index in long], adding, prompt_tokens=5)
    after = torch.cat([kl[index][4:] for index in long])
    assert found.kl == pytest.approx(float(after.mean()), rel=1e-3)
    with pytest.raises(EvaluationError, match="after a prompt of 100"):
        damage(model, TEXTS, adding, prompt_tokens=100)


def test_a_single_text_has_no_interval_and_long_texts_are_cut_and_counted():
    model = open_tiny("gpt2", "bridge")
    [alone] = damage_vectors(model, TEXTS[:1], HOOK_POINT, additions(1))
    assert alone.kl_ci is None
    assert alone.perplexity_ci is None
    assert alone.to_dict()["kl_ci"] is None
    long = "girl river " * N_CTX
    [cut] = damage_vectors(model, [long, TEXTS[0]], HOOK_POINT, additions(1))
    assert cut.truncated_texts == 1
    short = damage(model, [long, *TEXTS], max_tokens=5)
    assert (short.truncated_texts, short.n_tokens) == (4, 4 * 4 + 3)  # "No!" is whole: BOS and three tokens
    assert set(cut.to_dict()) == {*cut.to_dict()} - {"kl_per_text", "nll_per_text"}


def test_more_strength_is_more_damage():
    model = open_tiny("gpt2", "bridge")
    [vector] = additions(1, 0.05)
    found = damage_vectors(model, TEXTS, HOOK_POINT, torch.stack([vector, 4 * vector, 16 * vector]))
    assert found[0].kl < found[1].kl < found[2].kl
    assert found[1].kl / found[0].kl == pytest.approx(16, rel=0.3)  # quadratic near zero
    assert all(math.isfinite(each.perplexity) for each in found)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: damage_vectors(m, [], HOOK_POINT, additions(1)), TextError, "no texts"),
        (lambda m: damage_vectors(m, ["The", ""], HOOK_POINT, additions(1)), TextError, "empty"),
        (lambda m: damage_vectors(m, TEXTS, HOOK_POINT, torch.ones(1, 3)), EvaluationError, "32"),
        (lambda m: damage(m, TEXTS, max_tokens=1), EvaluationError, "text 0 .*no token to predict"),
        (
            lambda m: damage_vectors(m, TEXTS, HOOK_POINT, torch.full((1, D_MODEL), 3e38)),
            EvaluationError,
            "vector 0 hold NaN",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(open_tiny("gpt2", "bridge"))
