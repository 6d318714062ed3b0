import math

import pytest
import torch

from contrans_lens.errors import HookPointError, InterventionError
from contrans_lens.interventions import Between, Intervention, add_rows, steer
from contrans_lens.models import logits, tokenize
from tests.interventions.cases import HOOK, PROMPTS, addition, vector
from tests.tiny_models import D_MODEL, KINDS, open_tiny


@pytest.fixture(params=KINDS)
def model(request):
    return open_tiny("gpt2", request.param)


def test_stacked_rows_equal_one_run_for_each_vector(model):
    batch = tokenize(model, [PROMPTS[0]] * 3)
    additions = torch.stack([vector(0), 3 * vector(1), torch.zeros(D_MODEL)])
    with torch.no_grad():
        with add_rows(model, HOOK, additions):
            together = logits(model, batch)
        for row in range(2):
            alone = Intervention(HOOK, additions[row], unit="absolute")
            with steer(model, alone):
                torch.testing.assert_close(together[row : row + 1], logits(model, tokenize(model, PROMPTS[:1])))


def test_masked_rows_are_steered_where_the_mask_says(model):
    batch = tokenize(model, [PROMPTS[0]] * 2)
    mask = torch.zeros_like(batch.mask)
    mask[0, 3:] = True
    with torch.no_grad():
        plain = logits(model, batch)
        with add_rows(model, HOOK, torch.stack([vector(), vector()]), mask):
            masked = logits(model, batch)
        with steer(model, addition(Between(3))):
            expected = logits(model, batch)[0]
    torch.testing.assert_close(masked[0], expected)
    assert torch.equal(masked[1], plain[1])


def test_rows_that_do_not_fit_are_refused(model):
    batch = tokenize(model, PROMPTS[:2])
    with pytest.raises(HookPointError), add_rows(model, "blocks.77.hook_resid_post", torch.zeros(2, D_MODEL)):
        pass
    with (
        pytest.raises(InterventionError, match="finite"),
        add_rows(model, HOOK, torch.full((2, D_MODEL), math.nan)),
    ):
        pass
    for additions, message in ((torch.zeros(3, D_MODEL), "3 rows"), (torch.zeros(2, D_MODEL - 1), "width")):
        with (
            torch.no_grad(),
            pytest.raises(InterventionError, match=message),
            add_rows(model, HOOK, additions),
        ):
            logits(model, batch)
