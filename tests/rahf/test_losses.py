"""The losses of RAHF against Hugging Face's own loss, the paper's formula and brute force."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import RahfError
from contrans_lens.rahf.losses import activity_loss, answer_nll, scit_contrast
from contrans_lens.rahf.tokens import AnswerRow, collate
from tests.tiny_models import hf_tiny

ROWS = (
    AnswerRow((5, 17, 40, 8, 33, 21), 3),
    AnswerRow((9, 80, 12, 64), 2),
    AnswerRow((71, 30, 2, 55, 18, 90, 44, 6, 23), 4),
    AnswerRow((31, 66), 1),
)
losses = st.floats(0, 50)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox"])
def test_answer_nll_is_hugging_faces_loss_on_the_answer(architecture: str) -> None:
    model = hf_tiny(architecture)[0]
    batch = collate(ROWS, 7)
    with torch.no_grad():
        found = answer_nll(model(batch.ids, attention_mask=batch.mask.long()).logits, batch)
        for row, own in zip(ROWS, found, strict=True):
            labels = torch.tensor([[-100] * row.start + list(row.answer)])
            expected = model(torch.tensor([row.ids]), labels=labels).loss  # which shifts the labels by itself
            torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)


def test_answer_nll_reads_the_position_before_each_token() -> None:
    batch = collate([AnswerRow((1, 2, 3, 4), 2)], 0)
    logits = torch.zeros(1, 4, 6)
    logits[0, 1, 3] = 100.0  # the last of the prompt is sure of the answer's first token
    logits[0, 2, 4] = 100.0
    assert answer_nll(logits, batch).item() == 0.0
    logits[0, 3] = torch.tensor([0.0, 0, 0, 0, 0, 500])  # what comes after the answer does not count
    logits[0, 0] = torch.tensor([0.0, 0, 0, 0, 0, 500])
    assert answer_nll(logits, batch).item() == 0.0


def test_answer_nll_of_a_uniform_model_is_log_vocabulary_in_every_row_and_dtype() -> None:
    batch = collate(ROWS, 0)
    for dtype in (torch.float32, torch.bfloat16):
        found = answer_nll(torch.zeros(*batch.ids.shape, 91, dtype=dtype), batch)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, torch.full((4,), math.log(91)))


def test_answer_nll_gives_padding_and_prompts_no_gradient() -> None:
    batch = collate(ROWS, 0)
    logits = torch.randn(*batch.ids.shape, 91, generator=torch.Generator().manual_seed(0)).requires_grad_()
    answer_nll(logits, batch).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(-1) > 0, batch.reads("predicting"))


@pytest.mark.parametrize("epsilon", [0, 0.1, 0.2, 0.5, 1])
def test_equal_prompts_and_one_token_give_log_two(epsilon: float | int) -> None:
    model = hf_tiny("gpt2")[0]
    batch = collate([AnswerRow((5, 17, 40, 8), 3)] * 2, 0)
    with torch.no_grad():
        nll = answer_nll(model(batch.ids, attention_mask=batch.mask.long()).logits, batch)
    torch.testing.assert_close(scit_contrast(nll[:1], nll[1:], epsilon), torch.full((1,), math.log(2)))


@given(match=losses, mismatch=losses, epsilon=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_the_contrast_is_the_papers(match: float, mismatch: float, epsilon: float) -> None:
    found = scit_contrast(*torch.tensor([[match], [mismatch]], dtype=torch.float64), epsilon)
    a, b = math.exp(-match), math.exp(-mismatch)
    expected = (1 - epsilon) * -math.log(a / (a + b)) + epsilon * -math.log(b / (a + b))
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_contrast_stays_finite_where_both_vanish() -> None:
    match = torch.tensor([2000.0, 1000.0, 5000.0], requires_grad=True)
    found = scit_contrast(match, torch.tensor([1000.0, 2000.0, 5000.0]))
    torch.testing.assert_close(found.detach(), torch.tensor([800.0, 200.0, math.log(2)]))
    found.sum().backward()
    torch.testing.assert_close(match.grad, torch.tensor([0.8, -0.2, 0.3]))


def test_the_contrast_is_least_at_the_smoothed_odds() -> None:
    gaps = torch.linspace(-6, 6, 12_001, dtype=torch.float64)
    found = scit_contrast(gaps, torch.zeros_like(gaps), 0.2)
    assert gaps[found.argmin()].item() == pytest.approx(math.log(0.2 / 0.8), abs=1e-3)
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert found.min().item() == pytest.approx(entropy, abs=1e-6)


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, math.nan])
def test_a_share_outside_its_range_is_refused(epsilon: float) -> None:
    with pytest.raises(RahfError, match="from 0 to 1"):
        scit_contrast(torch.zeros(1), torch.zeros(1), epsilon)


def test_the_activity_losses_are_means_over_tokens_and_layers() -> None:
    generator = torch.Generator().manual_seed(0)
    student, target = torch.randn(2, 5, 3, 8, generator=generator)
    norms = [
        math.sqrt(sum((float(student[t, layer, d]) - float(target[t, layer, d])) ** 2 for d in range(8)))
        for t in range(5)
        for layer in range(3)
    ]
    assert activity_loss(student, target).item() == pytest.approx(sum(norms) / 15, rel=1e-6)
    assert activity_loss(student, target, "norm") == activity_loss(student, target)
    squares = sum(norm**2 for norm in norms) / (15 * 8)
    assert activity_loss(student, target, "mse").item() == pytest.approx(squares, rel=1e-6)


@pytest.mark.parametrize("loss", ["norm", "mse"])
def test_equal_activity_has_no_loss_and_a_finite_gradient(loss: Any) -> None:
    student = torch.ones(4, 2, 3, requires_grad=True)
    found = activity_loss(student, torch.ones(4, 2, 3), loss)
    found.backward()
    assert found.item() == 0.0
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros(4, 2, 3))


def test_a_fit_without_tokens_is_refused() -> None:
    with pytest.raises(RahfError, match="no answer tokens"):
        activity_loss(torch.zeros(0, 2, 3), torch.zeros(0, 2, 3))
