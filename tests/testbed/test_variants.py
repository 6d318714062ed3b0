from pathlib import Path
from typing import Literal

import pytest
import torch

from contrans_lens.errors import TestbedError
from contrans_lens.models import fingerprint, logits, open_model, tokenize
from contrans_lens.residuals import capture
from contrans_lens.testbed.variants import rotated, rotation, untrained
from tests.tiny_models import KINDS, open_tiny, tiny_folder

TEXTS = ["the cat saw a dog", "one two three", "we went to the house and"]


@pytest.mark.parametrize("kind", ["auto", "bridge"])
def test_a_rotated_copy_is_the_same_function_with_a_turned_residual_stream(
    kind: Literal["auto", "bridge"], tmp_path: Path
):
    one = open_model(tiny_folder("llama"), kind=kind)
    other = open_model(rotated(tiny_folder("llama"), tmp_path / "copy", seed=3), kind=kind)
    batch = tokenize(one, TEXTS)
    assert torch.allclose(logits(one, batch)[batch.mask], logits(other, batch)[batch.mask], atol=2e-5)
    turn = rotation(one.cfg.d_model, 3).float()
    states, turned = (capture(model, TEXTS).tensor() for model in (one, other))
    assert torch.allclose(states @ turn, turned, atol=1e-4 * float(states.abs().max()))
    assert not torch.allclose(states, turned, atol=0.1 * float(states.abs().max()))


def test_a_rotation_is_orthogonal_and_decided_by_its_seed():
    turn = rotation(16, 1)
    assert torch.allclose(turn @ turn.T, torch.eye(16, dtype=torch.float64), atol=1e-12)
    assert torch.equal(turn, rotation(16, 1))
    assert not torch.allclose(turn, rotation(16, 2))


def test_an_untrained_copy_has_the_shape_and_other_weights(tmp_path: Path):
    before = torch.random.get_rng_state()
    folders = [untrained(tiny_folder("gpt2"), tmp_path / name, seed=0) for name in ("a", "b")]
    assert torch.equal(torch.random.get_rng_state(), before)
    first, again = (open_model(folder) for folder in folders)
    assert fingerprint(first).weights == fingerprint(again).weights
    original = open_tiny("gpt2", kind=KINDS[0])
    assert fingerprint(first).weights != fingerprint(original).weights
    assert (first.cfg.n_layers, first.cfg.d_model) == (original.cfg.n_layers, original.cfg.d_model)


def test_only_models_that_can_be_turned_are(tmp_path: Path):
    with pytest.raises(TestbedError, match="Llama"):
        rotated(tiny_folder("gpt2"), tmp_path / "copy")
