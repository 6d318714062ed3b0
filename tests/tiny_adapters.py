"""Small LoRA adapters with weights that do something, saved as peft saves them."""

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

TARGETS = {"gpt2": ["c_attn", "c_proj"], "llama": ["q_proj", "v_proj", "down_proj"], "qwen2": ["q_proj", "v_proj"]}
"""Modules that adapters sit on, by type of model."""


def load_hf(folder: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """The Hugging Face model of a folder, as this package loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def save_adapter(base: str | Path, out: Path, *, size: float = 0.05, seed: int = 0, **settings: Any) -> Path:
    """Save a random adapter of a model; ``size`` is the standard deviation of the entries of B."""
    import peft

    hf = load_hf(base)
    chosen = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS[hf.config.model_type], "task_type": "CAUSAL_LM"}
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(hf, peft.LoraConfig(**(chosen | settings)))
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name or "lora_embedding_A" in name or "modules_to_save" in name:
                    parameter.add_(size * torch.randn(parameter.shape, generator=generator))
        wrapped.save_pretrained(out)
    return out


def load_peft(base: str | Path, adapter: str | Path) -> Any:
    """The oracle: the model with its adapter beside the weights, as peft runs it."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(load_hf(base), adapter).eval()
