"""Adapters learn in the query and value projections of the blocks that are read."""

import re
from typing import Any

import pytest
import torch
from peft import get_peft_model

from contrans_lens.errors import RahfError
from contrans_lens.models.plain import open_plain, truncate
from contrans_lens.rahf.adapters import add_adapter, linear_modules, lora_config
from contrans_lens.rahf.training import LoraSettings
from tests.tiny_models import ARCHITECTURES, N_LAYERS, tiny_folder

MODULES = {"gpt2": {"c_attn"}, "neox": {"query_key_value"}}
SPLIT = {"q_proj", "v_proj"}


def plain(architecture: str) -> Any:
    return open_plain(tiny_folder(architecture), device="cpu").model


def learning(model: Any) -> set[tuple[int, str]]:
    """Block and module of every weight that learns."""
    found = set()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            match = re.search(r"\.(?:h|layers)\.(\d+)\.(?:\w+\.)*?(\w+)\.lora_[AB]\.", name)
            assert match is not None, f"{name} learns and is no adapter's"
            found.add((int(match.group(1)), match.group(2)))
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("n_blocks", [None, 2])
def test_queries_and_values_of_the_lower_blocks_learn(architecture: str, n_blocks: int | None) -> None:
    model = add_adapter(plain(architecture), LoraSettings(), 0, n_blocks)
    names = MODULES.get(architecture, SPLIT)
    assert learning(model) == {(block, name) for block in range(n_blocks or N_LAYERS) for name in names}


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_adapter_of_a_truncated_model_is_one_of_the_whole_model(architecture: str) -> None:
    short = plain(architecture)
    truncate(short, 2)
    own, whole = lora_config(short, LoraSettings(), 2), lora_config(plain(architecture), LoraSettings(), 2)
    assert own.to_dict() == whole.to_dict()
    assert own.task_type == "CAUSAL_LM"
    on_whole = get_peft_model(plain(architecture), own)
    assert {block for block, _ in learning(on_whole)} == {0, 1}


def test_settings_reach_peft() -> None:
    config = lora_config(plain("llama"), LoraSettings(3, 12, 0.25, ("o_proj", "mlp.down_proj")))
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 12, 0.25)
    assert config.target_modules == {"o_proj", "mlp.down_proj"}
    assert learning(add_adapter(plain("llama"), LoraSettings(modules=("mlp.down_proj",)), 0, 1)) == {(0, "down_proj")}


@pytest.mark.parametrize("modules", [("c_proj",), ("attn.c_proj",)])
def test_names_match_as_in_peft(modules: tuple[str, ...]) -> None:
    model = add_adapter(plain("gpt2"), LoraSettings(modules=modules), 0)
    assert len([name for name, weight in model.named_parameters() if weight.requires_grad]) == (
        2 * N_LAYERS * (2 if modules == ("c_proj",) else 1)
    )


def test_a_new_adapter_changes_nothing_and_its_seed_is_its_own() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models = [add_adapter(plain("gpt2"), LoraSettings(), seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(models[0](ids).logits, plain("gpt2")(ids).logits)
    drawn = [
        torch.cat([weight.detach().flatten() for name, weight in model.named_parameters() if "lora_A" in name])
        for model in models
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_modules_that_are_not_there_are_named_with_those_that_are() -> None:
    with pytest.raises(RahfError, match=r"no module 'q_proj' in the blocks of GPT2LMHeadModel.*attn\.c_attn"):
        lora_config(plain("gpt2"), LoraSettings(modules=("c_attn", "q_proj")))
    with pytest.raises(RahfError, match="no module 'lm_head'"):
        lora_config(plain("llama"), LoraSettings(modules=("lm_head",)))


def test_an_architecture_without_known_projections_asks_for_names() -> None:
    model = plain("neox")
    for layer in model.gpt_neox.layers:
        layer.attention.mixed = layer.attention.query_key_value
        del layer.attention.query_key_value
    with pytest.raises(RahfError, match=r"no query and value projections.*attention\.mixed.*LoraSettings\(modules"):
        lora_config(model, LoraSettings())


@pytest.mark.parametrize("n_blocks", [0, N_LAYERS + 1])
def test_blocks_that_are_not_there_are_refused(n_blocks: int) -> None:
    with pytest.raises(RahfError, match=f"n_blocks={n_blocks}; from 1 to {N_LAYERS}"):
        lora_config(plain("gpt2"), LoraSettings(), n_blocks)


def test_linear_modules_are_those_of_a_block() -> None:
    assert set(linear_modules(plain("gpt2"))) == {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
