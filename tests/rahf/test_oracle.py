"""The oracle of a fit: what it sets, and that fits move towards it."""

import math

import pytest
import torch

from contrans_lens.errors import HookPointError, RahfError
from contrans_lens.models import open_model
from contrans_lens.models.plain import open_plain
from contrans_lens.rahf.differences import ScitContrast, capture_differences
from contrans_lens.rahf.fit import fit_adapter
from contrans_lens.rahf.oracle import kl_to_oracle, oracle_logits
from contrans_lens.rahf.training import TrainingSettings
from contrans_lens.testbed import SCIT_INSTRUCTIONS, model_path, preference_set
from tests.rahf.fitting import POINTS, ROWS, hidden_states, made
from tests.tiny_models import blocks_of, hf_tiny, tiny_folder

EVERY_ROW = tuple(range(len(ROWS)))


def by_hand(architecture, differences, alpha):
    """Row by row, in plain PyTorch: the output of each hooked block is written over where the row is read."""
    model, _ = hf_tiny(architecture)
    logits = []
    for number, row in enumerate(ROWS):
        shift = differences.where == "predicting"
        places = list(range(row.start - shift, len(row.ids) - shift))
        target = hidden_states(architecture, row)[1:3, places] + alpha * differences.of([number]).transpose(0, 1)

        def overwrite(layer, target=target, places=places):
            def hook(module, inputs, output):
                residual = output[0] if isinstance(output, tuple) else output
                residual[0, places] = target[layer]

            return hook

        handles = [blocks_of(model)[layer].register_forward_hook(overwrite(layer)) for layer in range(len(POINTS))]
        with torch.no_grad():
            logits.append(model(torch.tensor([row.ids])).logits[0, places])
        for handle in handles:
            handle.remove()
    return torch.cat(logits)


@pytest.mark.parametrize("where", ["answer", "predicting"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_oracle_is_what_overwriting_by_hand_gives(architecture, where):
    differences = made(where=where)
    base = open_plain(tiny_folder(architecture), device="cpu")
    found = oracle_logits(base, differences, EVERY_ROW, 2)
    expected = by_hand(architecture, differences, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - by_hand(architecture, differences, 0)).abs().max() > 0.1


def test_strength_zero_is_the_base_itself_and_rows_come_in_the_order_asked_for():
    base = open_plain(tiny_folder("llama"), device="cpu")
    differences = made()
    assert kl_to_oracle(base, base, differences, 0) == pytest.approx(0, abs=1e-6)
    chosen = oracle_logits(base, differences, (2, 0), 1)
    every = oracle_logits(base, differences, EVERY_ROW, 1).split([len(row.answer) for row in ROWS])
    torch.testing.assert_close(chosen, torch.cat([every[2], every[0]]), rtol=1e-4, atol=1e-4)


def test_kl_is_that_of_the_definition_whatever_the_batches():
    base = open_plain(tiny_folder("gpt2"), device="cpu")
    differences = made()
    wanted = torch.distributions.Categorical(logits=by_hand("gpt2", differences, 2))
    own = torch.distributions.Categorical(logits=by_hand("gpt2", differences, 0))
    expected = float(torch.distributions.kl_divergence(wanted, own).mean())
    for batch_size in (1, 2, 16):
        assert kl_to_oracle(base, base, differences, 2, batch_size=batch_size) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["gpt2-target", "rotary-target"])
def test_a_fitted_adapter_speaks_more_like_the_oracle_than_the_base_does(tmp_path, name):
    base, model = model_path(name), open_model(model_path(name))
    contrast = ScitContrast(model, SCIT_INSTRUCTIONS)
    points = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
    fitted, held_out = (
        capture_differences(
            contrast, preference_set("kindness", n=72).part(part), points, base=model, where="predicting"
        )
        for part in ("train", "validation")
    )
    training = TrainingSettings(steps=20, accumulation=1, learning_rate=1e-2)
    found = fit_adapter(base, fitted, tmp_path / "fit", alpha=1, training=training, check_model=False, device="cpu")
    plain = open_plain(base, device="cpu")
    before = kl_to_oracle(plain, plain, held_out, 1)
    after = kl_to_oracle(plain, found.open(device="cpu"), held_out, 1)
    assert after < 0.2 * before


def test_nothing_stays_on_the_model():
    base = open_plain(tiny_folder("llama"), device="cpu")
    before = hidden_states("llama", ROWS[0], base.model)
    oracle_logits(base, made(), EVERY_ROW, 5)
    assert torch.equal(hidden_states("llama", ROWS[0], base.model), before)


def test_what_has_no_oracle_is_refused():
    base = open_plain(tiny_folder("llama"), device="cpu")
    with pytest.raises(RahfError, match="finite"):
        oracle_logits(base, made(), (0,), math.inf)
    with pytest.raises(RahfError, match="no rows"):
        kl_to_oracle(base, base, made(), 1, rows=())
    with pytest.raises(HookPointError, match="4 blocks"):
        oracle_logits(base, made(hook_points=("blocks.0.hook_resid_post", "blocks.9.hook_resid_post")), (0,), 1)
