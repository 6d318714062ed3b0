"""Plain Hugging Face models read by hook points: the oracle is ``output_hidden_states``."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from contrans_lens.errors import HookPointError, ModelError
from contrans_lens.models import TokenBatch, hooks, open_model, run
from contrans_lens.models.plain import (
    block_count,
    blocks,
    check_residual_points,
    open_plain,
    place_of,
    residual_hooks,
    residuals,
    truncate,
)
from tests.tiny_models import D_MODEL, N_CTX, N_LAYERS, blocks_of, hf_residuals, hf_tiny, make_hf, tiny_folder

SHOWN = ("gpt2", "neox", "llama")
ALL = ("gpt2", "neox", "llama", "mistral", "qwen2", "qwen3", "gemma")
PRE = tuple(f"blocks.{layer}.hook_resid_pre" for layer in range(N_LAYERS))
POST = tuple(f"blocks.{layer}.hook_resid_post" for layer in range(N_LAYERS))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows of different lengths, padded on the right."""
    ids = torch.randint(5, 90, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([[9], [4], [1]])
    return ids.where(mask, 0), mask


def fresh(architecture: str) -> Any:
    return open_plain(tiny_folder(architecture), device="cpu").model


@pytest.mark.parametrize("architecture", ALL)
def test_residuals_are_the_hidden_states_of_hugging_face(architecture: str) -> None:
    ids, mask = batch()
    model = fresh(architecture)
    with torch.no_grad():
        states = model(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
        found = residuals(model, ids, mask, (*POST, *PRE))
    post, pre = found[:N_LAYERS], found[N_LAYERS:]
    for layer in range(N_LAYERS):
        assert torch.equal(pre[layer], states[layer])
        # The last of the hidden states is normed; what the last block gives is not in them.
        expected = states[layer + 1] if layer + 1 < N_LAYERS else hf_residuals(model, ids, mask)[layer]
        assert torch.equal(post[layer], expected)
    assert not torch.allclose(post[-1][mask], states[-1][mask], atol=1e-3)


@pytest.mark.parametrize("architecture", SHOWN)
def test_residuals_are_those_of_the_hooked_model(architecture: str) -> None:
    ids = batch()[0][:1]
    hooked = open_model(tiny_folder(architecture), device="cpu")
    tokens = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool), False, "right", ((),), (0,))
    kept: dict[str, torch.Tensor] = {}
    keepers = [(name, lambda value, name=name: kept.__setitem__(name, value)) for name in POST]
    with torch.no_grad(), hooks(hooked, keepers):
        run(hooked, tokens)
        found = residuals(fresh(architecture), ids, torch.ones_like(ids, dtype=torch.bool), POST)
    for name, own in zip(POST, found, strict=True):
        torch.testing.assert_close(own, kept[name], atol=1e-5, rtol=1e-5)


def test_residuals_come_in_the_order_asked_for_and_twice_if_asked_twice() -> None:
    ids, mask = batch()
    model = fresh("gpt2")
    with torch.no_grad():
        found = residuals(model, ids, mask, (POST[2], POST[0], POST[2], PRE[1]))
    assert found.shape == (4, 3, 9, D_MODEL)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])  # what comes out of one block goes into the next
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("architecture", SHOWN)
def test_padding_changes_nothing_at_real_tokens(architecture: str) -> None:
    ids, mask = batch()
    model = fresh(architecture)
    with torch.no_grad():
        found = residuals(model, ids, mask, POST)
        for row in range(3):
            length = int(mask[row].sum())
            alone = residuals(model, ids[row : row + 1, :length], mask[row : row + 1, :length], POST)
            torch.testing.assert_close(found[:, row, :length], alone[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("n_blocks", [1, 3, N_LAYERS])
def test_a_truncated_model_has_the_same_residuals_and_runs_no_more(architecture: str, n_blocks: int) -> None:
    ids, mask = batch()
    model, whole = fresh(architecture), fresh(architecture)
    truncate(model, n_blocks)
    assert len(blocks(model)) == model.config.num_hidden_layers == n_blocks
    with torch.no_grad():
        found = residuals(model, ids, mask, POST[:n_blocks])
        assert torch.equal(found, residuals(whole, ids, mask, POST[:n_blocks]))
        logits = model(ids, attention_mask=mask.long()).logits
    assert logits.shape[-1] == D_MODEL  # the normed residual stream: nothing is unembedded
    assert len(blocks(whole)) == N_LAYERS
    with pytest.raises(HookPointError, match=f"has {n_blocks} blocks"):
        residuals(model, ids, mask, (f"blocks.{n_blocks}.hook_resid_post",))


@pytest.mark.parametrize("architecture", SHOWN)
def test_models_that_peft_has_wrapped_are_read_and_learn(architecture: str) -> None:
    ids, mask = batch()
    model = fresh(architecture)
    truncate(model, 3)
    expected = residuals(model, ids, mask, POST[:3]).detach()
    names = {"gpt2": ["c_attn"], "neox": ["query_key_value"], "llama": ["q_proj", "v_proj"]}[architecture]
    wrapped: Any = get_peft_model(model, LoraConfig(target_modules=names, fan_in_fan_out=architecture == "gpt2"))
    assert isinstance(blocks(wrapped), nn.ModuleList)
    found = residuals(wrapped.eval(), ids, mask, POST[:3])
    torch.testing.assert_close(found.detach(), expected)
    found[:2].square().sum().backward()
    learnt = {
        layer: any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in block.parameters())
        for layer, block in enumerate(blocks(wrapped))
    }
    assert learnt == {0: True, 1: True, 2: False}  # nothing of the third block was read


@pytest.mark.parametrize("side", ["pre", "post"])
@pytest.mark.parametrize("architecture", SHOWN)
def test_what_a_function_returns_replaces_the_residual_stream(architecture: str, side: str) -> None:
    ids, mask = batch()
    model = fresh(architecture)
    name = f"blocks.1.hook_resid_{side}"
    with torch.no_grad():
        before = residuals(model, ids, mask, POST)
        with residual_hooks(model, [(name, lambda stream: stream + 1.5)]):
            changed = residuals(model, ids, mask, POST)
        after = residuals(model, ids, mask, POST)
        replaced = 1 if side == "post" else 0
        if side == "post":
            torch.testing.assert_close(changed[1], before[1] + 1.5)
        # The oracle: the following blocks run by themselves on the replaced stream.
        with residual_hooks(model, [(POST[replaced], lambda stream: before[replaced] + 1.5)]):
            torch.testing.assert_close(residuals(model, ids, mask, POST[replaced + 1 :]), changed[replaced + 1 :])
    assert torch.equal(before, after)
    assert torch.equal(changed[0], before[0])
    assert not torch.allclose(changed[2], before[2], atol=1e-2)


def n_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_hooks_are_taken_off_whatever_happens() -> None:
    model = fresh("gpt2")
    before = n_hooks(model)
    with contextlib.suppress(KeyError), residual_hooks(model, [(POST[0], lambda stream: None)] * 2):
        assert n_hooks(model) == before + 2
        raise KeyError
    assert n_hooks(model) == before
    with (
        pytest.raises(HookPointError, match="blocks, 0 to 3"),
        residual_hooks(model, [(POST[0], lambda stream: None), ("blocks.4.hook_resid_post", lambda stream: None)]),
    ):
        pass
    assert n_hooks(model) == before


@pytest.mark.parametrize(
    ("points", "count"), [((POST[0],), 1), ((PRE[0],), 0), ((PRE[3], POST[1]), 3), ((POST[3], PRE[3]), 4)]
)
def test_as_many_blocks_are_run_as_the_last_point_needs(points: tuple[str, ...], count: int) -> None:
    assert block_count(points) == count


@pytest.mark.parametrize(
    "name", ["blocks.1.hook_mlp_out", "blocks.x.hook_resid_post", "hook_embed", "blocks.1.hook_resid_post ", ""]
)
def test_other_points_are_refused(name: str) -> None:
    with pytest.raises(HookPointError, match="is no hook point between blocks"):
        place_of(name)
    with pytest.raises(HookPointError, match="is no hook point between blocks"):
        check_residual_points(fresh("gpt2"), [name])


def test_no_points_are_refused() -> None:
    with pytest.raises(HookPointError, match="no hook points"):
        block_count(())
    assert place_of("blocks.12.hook_resid_pre") == (12, "pre")


@pytest.mark.parametrize("n_blocks", [0, N_LAYERS + 1])
def test_more_blocks_than_there_are_cannot_be_kept(n_blocks: int) -> None:
    with pytest.raises(ModelError, match=f"{n_blocks} blocks were asked of a model that has {N_LAYERS}"):
        truncate(fresh("gpt2"), n_blocks)


@pytest.mark.parametrize("architecture", ALL)
def test_blocks_are_the_models_own(architecture: str) -> None:
    model = make_hf(architecture)
    assert blocks(model) is blocks_of(model)


def test_what_has_no_blocks_is_refused() -> None:
    model = nn.Linear(2, 2)
    model.config = type("Config", (), {"num_hidden_layers": 3})()
    with pytest.raises(ModelError, match="no list of 3 blocks"):
        blocks(model)


@pytest.mark.parametrize("architecture", ALL)
def test_a_plain_model_has_the_conventions_of_the_hooked_one(architecture: str) -> None:
    plain = open_plain(tiny_folder(architecture), device="cpu")
    hooked: Any = open_model(tiny_folder(architecture), device="cpu")
    assert plain.bos == (hooked.tokenizer.bos_token_id if hooked.cfg.default_prepend_bos else None)
    assert (plain.n_blocks, plain.d_model, plain.context) == (N_LAYERS, D_MODEL, N_CTX)
    assert plain.tokenizer.is_fast
    assert 0 <= plain.pad < plain.config.vocab_size
    assert plain.place == str(tiny_folder(architecture).resolve())
    assert not plain.model.training
    assert plain.device == torch.device("cpu")


def test_every_opening_reads_the_model_anew() -> None:
    first, second = fresh("gpt2"), fresh("gpt2")
    with torch.no_grad():
        for weight in first.parameters():
            weight.zero_()
    expected = hf_tiny("gpt2")[0].state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in second.state_dict().items())


def test_weights_come_in_the_dtype_asked_for() -> None:
    plain = open_plain(tiny_folder("gpt2"), dtype=torch.bfloat16, device="cpu")
    assert {weight.dtype for weight in plain.model.parameters()} == {torch.bfloat16}


def test_places_without_a_model_or_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        open_plain(tmp_path / "nothing")
    make_hf("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no fast tokenizer.*tokenizer\.json"):
        open_plain(tmp_path)
