"""Copies of a model whose answer is known beforehand: one that has learnt nothing, and one that is only turned.

Both are controls of whole methods. Nothing can be carried into an untrained model, however well its states are
mapped; and between a model and its rotated copy everything must be carried, for they are one function.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedModel

from contrans_lens.errors import TestbedError


def untrained(folder: Path, out: Path, seed: int = 0) -> Path:
    """Write a model of the same shape and tokenizer with freshly drawn weights.

    Args:
        folder: a local Hugging Face model.
        out: folder for the copy.
        seed: of the weights.

    Returns:
        ``out``.
    """
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    torch.random.set_rng_state(state)
    return _save(model, folder, out)


@torch.no_grad()
def rotated(folder: Path, out: Path, seed: int = 0) -> Path:
    """Write a copy whose residual stream is turned by a random rotation: ``h' = h Q`` at every layer, same logits.

    RMS norms commute with rotations once their weights are folded into the matrices that read after them; every
    matrix that reads the stream is then multiplied by ``Q`` from the right, every one that writes to it from the left
    by its transpose.

    Args:
        folder: a local Llama-style model (RMS norms without mean subtraction, no biases).
        out: folder for the copy.
        seed: of the rotation.

    Returns:
        ``out``.

    Raises:
        TestbedError: the model is of another kind.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if not isinstance(model, LlamaForCausalLM):
        raise TestbedError(f"{folder.name} is a {type(model).__name__}; only Llama-style models can be turned exactly.")
    turn = rotation(model.config.hidden_size, seed)
    embedding = model.model.embed_tokens.weight.double()
    head = model.lm_head.weight.double() * model.model.norm.weight.double()
    if model.config.tie_word_embeddings:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    _write(model.model.embed_tokens.weight, embedding @ turn)
    _write(model.lm_head.weight, head @ turn)
    model.model.norm.weight.fill_(1.0)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, readers in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            for reader in readers:
                _write(reader.weight, (reader.weight.double() * norm.weight.double()) @ turn)
            norm.weight.fill_(1.0)
        for writer in (attention.o_proj, mlp.down_proj):
            _write(writer.weight, turn.T @ writer.weight.double())
    return _save(model, folder, out)


def rotation(width: int, seed: int = 0) -> Float[Tensor, "width width"]:
    """A random orthogonal matrix, float64, uniformly distributed (QR of a Gaussian with the signs fixed)."""
    gaussian = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    return q * r.diagonal().sign()


def _write(parameter: Tensor, value: Float[Tensor, "rows columns"]) -> None:
    parameter.copy_(value.to(parameter.dtype))


def _save(model: PreTrainedModel, folder: Path, out: Path) -> Path:
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out
