import pytest
import torch

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.response import PromptResponse, shared_tokens, token_texts
from contrans_lens.models import HookedModel, hooks, logits, tokenize
from tests.tiny_models import ARCHITECTURES, KINDS, open_tiny

PROMPTS = ["the cat saw", "a dog and the bird went to", "the cat was", "a dog and the bird came to"]
POINT = "blocks.0.hook_resid_post"


def by_hand(model: HookedModel, prompt: str, addition: torch.Tensor | None) -> torch.Tensor:
    """Next-token distribution after one prompt, from a plain forward pass."""
    functions = {} if addition is None else {POINT: lambda activation: activation + addition}
    with hooks(model, functions):
        return logits(model, tokenize(model, [prompt]))[0, -1].float().softmax(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES[:3])
def test_reach_agreement_and_echo_equal_the_plain_computation(architecture: str, kind: str):
    model = open_tiny(architecture, kind=kind)
    additions = torch.randn(3, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([3, 5, 8, 9])
    reference = torch.randn(3, len(PROMPTS), 4, generator=torch.Generator().manual_seed(1))
    found = PromptResponse(model, PROMPTS, paired=True).measure(POINT, additions, reference=reference, tokens=tokens)
    cues = [by_hand(model, PROMPTS[k], None) - by_hand(model, PROMPTS[k + 2], None) for k in range(2)]
    for v, addition in enumerate(additions):
        shifts = [by_hand(model, prompt, addition) - by_hand(model, prompt, -addition) for prompt in PROMPTS]
        reach = sum(float(shift.abs().sum()) / 2 for shift in shifts) / len(PROMPTS)
        over = sum(float((cues[k] * (shifts[k] + shifts[k + 2]) / 2).sum()) for k in range(2))
        under = sum(float(cue.square().sum()) for cue in cues)
        echo = sum(float((shift[tokens] * reference[v, k]).sum()) for k, shift in enumerate(shifts))
        assert float(found.reach[v]) == pytest.approx(reach, rel=1e-4)
        assert found.agreement is not None
        assert float(found.agreement[v]) == pytest.approx(over / under, rel=1e-3, abs=1e-5)
        assert found.echo is not None
        assert float(found.echo[v]) == pytest.approx(echo / float(reference[v].square().sum()), rel=1e-3, abs=1e-6)


def test_a_vector_echoes_itself_and_nothing_is_reached_by_almost_nothing():
    model = open_tiny("gpt2", kind=KINDS[0])
    response = PromptResponse(model, PROMPTS)
    additions = torch.randn(2, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    own = torch.cat([shift for _, shift in response.shifts(POINT, additions)])
    every = torch.arange(own.shape[-1])
    found = response.measure(POINT, additions, reference=own, tokens=every)
    assert found.echo is not None
    assert found.echo.tolist() == pytest.approx([1.0, 1.0], rel=1e-5)
    assert found.agreement is None
    faint = response.measure(POINT, additions * 1e-6)
    assert float(faint.reach.max()) < 1e-4


def test_pairs_of_equal_words_have_no_agreement():
    model = open_tiny("gpt2", kind=KINDS[0])
    additions = torch.randn(1, model.cfg.d_model)
    assert PromptResponse(model, ["the cat", "the cat"], paired=True).measure(POINT, additions).agreement is None


def test_shared_tokens_stand_for_the_same_text():
    one, other = open_tiny("gpt2", kind=KINDS[0]), open_tiny("llama", kind=KINDS[0])
    here, there = shared_tokens(one, token_texts(other))
    assert len(here) > 20
    assert [one.tokenizer.decode([i]) for i in here.tolist()] == [other.tokenizer.decode([i]) for i in there.tolist()]
    assert not set(here.tolist()) & set(one.tokenizer.all_special_ids)


def test_bad_input_is_refused():
    model = open_tiny("gpt2", kind=KINDS[0])
    with pytest.raises(EvaluationError):
        PromptResponse(model, [])
    with pytest.raises(EvaluationError):
        PromptResponse(model, ["a", "b", "c"], paired=True)
    response = PromptResponse(model, PROMPTS)
    with pytest.raises(EvaluationError, match="reference"):
        response.measure(POINT, torch.zeros(2, model.cfg.d_model), reference=torch.zeros(1, 4, 3))
    with pytest.raises(EvaluationError):
        response.measure(POINT, torch.full((1, model.cfg.d_model), float("nan")))
