"""The Hugging Face models of the family: GPT-2 style and Llama style."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from contrans_lens.testbed.recipe import Shape
from contrans_lens.testbed.tokenizer import CONTEXT


def new_model(shape: Shape, seed: int) -> PreTrainedModel:
    """A freshly initialised model; token ids 0, 1 and 2 are BOS, EOS and PAD.

    Args:
        shape: Its size.
        seed: Seed of the initial weights.
    """
    torch.manual_seed(seed)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    if shape.family == "gpt2":
        # The fused kernel of the same function as "gelu_new": a fifth off the step time. `save` writes
        # "gelu_new".
        config = GPT2Config(
            vocab_size=shape.vocab,
            n_positions=CONTEXT,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_inner=shape.mlp,
            activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **ids,
        )
        return GPT2LMHeadModel(config)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab,
            max_position_embeddings=CONTEXT,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            intermediate_size=shape.mlp,
            tie_word_embeddings=False,
            rms_norm_eps=1e-5,
            **ids,
        )
    )


def blocks(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks, first to last; the output of block l is `blocks.{l}.hook_resid_post`."""
    if isinstance(model, GPT2LMHeadModel):
        return model.transformer.h
    assert isinstance(model, LlamaForCausalLM)
    return model.model.layers


def hidden_matrices(model: nn.Module) -> list[Float[Tensor, "rows cols"]]:
    """The weight matrices inside the blocks: the ones that Muon updates."""
    return [parameter for parameter in blocks(model).parameters() if parameter.ndim == 2]


def other_parameters(model: nn.Module) -> list[Tensor]:
    """Everything else (embeddings, norms, biases, head): the ones that AdamW updates."""
    hidden = {id(parameter) for parameter in hidden_matrices(model)}
    return [parameter for parameter in model.parameters() if id(parameter) not in hidden]
