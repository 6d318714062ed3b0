import pytest
import torch

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation import damage, score_items, score_steered
from contrans_lens.interventions import steer
from contrans_lens.models import logits, tokenize
from contrans_lens.texts import EvaluationItem
from tests.interventions.cases import HOOK, LATER, PROMPTS
from tests.pace.removing import removing
from tests.tiny_models import KINDS, open_tiny


@pytest.fixture(params=KINDS)
def model(request):
    return open_tiny("gpt2", request.param)


@pytest.mark.parametrize("mode", ["per_prompt", "per_token"])
def test_scores_of_answers_are_those_of_the_edited_model(model, mode):
    items = [EvaluationItem(prompt, " the fox", " a garden of song") for prompt in PROMPTS]
    chosen = removing(HOOK, LATER, mode=mode, strength=2.0)
    found = score_items(model, items, chosen, measure="log_odds")
    for item, value in zip(items, found.tolist(), strict=True):
        sides = []
        for answer in (item.positive, item.negative):
            whole = tokenize(model, [item.prompt + answer])
            n_prompt = int(tokenize(model, [item.prompt]).lengths[0])
            with torch.no_grad(), steer(model, chosen, prompt_lengths=[n_prompt]):
                log_p = logits(model, whole)[0].log_softmax(-1)
            ids = whole.tokens[0].tolist()
            sides.append(sum(float(log_p[at - 1, ids[at]]) for at in range(n_prompt, len(ids))))
        assert value == pytest.approx(sides[0] - sides[1], abs=2e-3)
    cells = score_steered(model, items, [(), chosen], measure="log_odds")
    torch.testing.assert_close(cells[1], found)
    assert (cells[0] - cells[1]).abs().max() > 1e-2


def test_damage_of_a_removal_per_prompt_is_measured_after_the_prompt(model):
    texts = ["Once upon a time there was a girl who liked to sing", "He said: the answer is 42, and nobody asked why."]
    chosen = removing(strength=2.0)
    found = damage(model, texts, chosen, prompt_tokens=4)
    per_text, counts = [], []
    for text in texts:
        batch = tokenize(model, [text])
        with torch.no_grad():
            base = logits(model, batch)[0].log_softmax(-1)
            with steer(model, chosen, prompt_lengths=[4]):
                edited = logits(model, batch)[0].log_softmax(-1)
        kl = (base.exp() * (base - edited)).sum(-1)[3:-1]
        per_text.append(float(kl.sum()))
        counts.append(len(kl))
    assert found.kl == pytest.approx(sum(per_text) / sum(counts), rel=1e-3)
    assert found.kl > 1e-4


def test_damage_that_texts_without_a_prompt_cannot_show_is_warned_of(model):
    with pytest.warns(UserWarning, match="prompt_tokens"):
        damage(model, [PROMPTS[0]], removing())


def test_a_prompt_of_no_tokens_is_refused(model):
    with pytest.raises(EvaluationError, match="prompt_tokens is 0"):
        damage(model, [PROMPTS[0]], removing(), prompt_tokens=0)
