"""HookedTransformer from Hugging Face weights that are in memory (TransformerLens 3.9 only).

TransformerLens' own loader looks the configuration up by *name*: a local path always fails, a path with
"llama" or "gemma" in it is taken for another model, and Gemma's shapes are written down per hub name. The
configuration is therefore built here from the Hugging Face one, and the result is compared with Hugging Face
before it is returned.
"""

import warnings
from typing import Any

import torch

from contrans_lens.errors import ModelError
from contrans_lens.models.protocol import HookedModel

MAX_CONTEXT = 2048
"""HookedTransformer keeps a ``[n_ctx, n_ctx]`` mask per layer, so longer contexts are cut to this."""

_ACTIVATIONS = {"gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu"}
_ROTARY = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
)
ARCHITECTURES = ("GPT2LMHeadModel", "GPTNeoXForCausalLM", *_ROTARY)
"""Architectures that open as HookedTransformer."""


def hooked_transformer_available() -> bool:
    """Whether the installed TransformerLens has HookedTransformer (up to 3.9; in 4.x the name raises)."""
    try:
        from transformer_lens import HookedTransformer
    except ImportError:
        return False
    return HookedTransformer is not None


def unsupported_reason(config: Any) -> str | None:
    """Why a Hugging Face configuration cannot be a HookedTransformer here, or None if it can."""
    architecture = _architecture(config)
    if architecture not in ARCHITECTURES:
        return f"the architecture {architecture} is not among {', '.join(ARCHITECTURES)}"
    if _activation(config) not in _ACTIVATIONS:
        return f"the activation function {_activation(config)!r} is not known to HookedTransformer"
    rope = _rope(config)
    if rope.get("rope_type", "default") not in ("default", "llama3"):
        return f"the rotary scaling {rope['rope_type']!r} is not known to HookedTransformer"
    if architecture in ("LlamaForCausalLM", "Qwen3ForCausalLM") and getattr(config, "attention_bias", False):
        return "HookedTransformer drops the attention biases of this configuration"
    if getattr(config, "mlp_bias", False):
        return "HookedTransformer drops the MLP biases of this configuration"
    return None


def begins_with_bos(config: Any) -> bool:
    """TransformerLens' convention whether texts of an architecture begin with the tokenizer's BOS."""
    return _architecture(config) not in ("GPTNeoXForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def convert(hf_model: Any, tokenizer: Any, *, process_weights: bool, device: torch.device) -> HookedModel:
    """Make a HookedTransformer with the weights of a Hugging Face model.

    Args:
        hf_model: on the CPU; its tensors are read, and its parameters stop requiring gradients.
        tokenizer: kept as it is given, or None.
        process_weights: fold the norms, centre what is written to the residual stream, centre the unembedding
            and fold the value biases, as ``HookedTransformer.from_pretrained`` does. Changes the basis of the
            residual stream of LayerNorm models.
        device: where the result goes.

    Raises:
        ModelError: the configuration is not supported, or the result does not compute what Hugging Face does.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens import loading_from_pretrained as loading

    reason = unsupported_reason(hf_model.config)
    if reason is not None:
        raise ModelError(f"HookedTransformer cannot open this model: {reason}. Use kind='bridge'.")
    settings = _settings(hf_model.config) | {"dtype": hf_model.dtype, "device": "cpu"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"transformer_lens.*|contrans_lens.*")
        warnings.filterwarnings("ignore", message=".*HookedTransformer.*deprecated.*")
        config = HookedTransformerConfig.from_dict(settings)
        model = HookedTransformer(config, tokenizer=tokenizer, move_to_device=False)
        # The name argument must only be an existing path; everything is read from cfg and hf_model.
        state = loading.get_pretrained_state_dict("/", config, hf_model=hf_model, dtype=hf_model.dtype)
        model.load_and_process_state_dict(
            state,
            fold_ln=process_weights,
            center_writing_weights=process_weights,
            center_unembed=process_weights,
            fold_value_biases=process_weights,
        )
    model.eval()
    _check_same(model, hf_model)
    return model.to(device, print_details=False)


def _check_same(model: Any, hf_model: Any) -> None:
    """Compare log-probs with Hugging Face on a few tokens, to catch options the conversion lost."""
    vocabulary = int(hf_model.config.vocab_size)
    tokens = ((torch.arange(12) * 7919 + 11) % vocabulary)[None, : model.cfg.n_ctx]
    with torch.no_grad():
        ours = model(tokens, attention_mask=torch.ones_like(tokens)).float().log_softmax(-1)
        theirs = hf_model(tokens, use_cache=False).logits.float().log_softmax(-1)
    exact = hf_model.dtype in (torch.float32, torch.float64)
    error = float((ours - theirs).abs().max())
    if not error < (1e-2 if exact else 1.0):
        raise ModelError(
            f"the HookedTransformer made from this model differs from Hugging Face (log-probs by "
            f"{error:.3g}): an option of its configuration was lost in the conversion. Use kind='bridge'."
        )


def _architecture(config: Any) -> str:
    names = getattr(config, "architectures", None)
    return str(names[0]) if names else "unknown"


def _activation(config: Any) -> str:
    if _architecture(config) == "GemmaForCausalLM":
        # Early Gemma configs say "gelu" and mean the tanh approximation; Hugging Face computes that one.
        return str(getattr(config, "hidden_activation", None) or "gelu_pytorch_tanh")
    return str(getattr(config, "activation_function", None) or getattr(config, "hidden_act", "unknown"))


def _rope(config: Any) -> dict[str, Any]:
    found = getattr(config, "rope_parameters", None)
    return dict(found) if isinstance(found, dict) else {}


def _settings(config: Any) -> dict[str, Any]:
    """Fields of HookedTransformerConfig from those of Hugging Face."""
    architecture = _architecture(config)
    shared = {
        "original_architecture": architecture,
        "model_name": architecture,
        "act_fn": _activation(config),
        "d_vocab": config.vocab_size,
        "init_weights": False,
        "default_prepend_bos": begins_with_bos(config),
    }
    if architecture == "GPT2LMHeadModel":
        return shared | _gpt2(config)
    shared |= {
        "d_model": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "d_mlp": config.intermediate_size,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_base": _rope(config).get("rope_theta", 10000.0),
        "n_ctx": min(config.max_position_embeddings, MAX_CONTEXT),
    }
    return shared | (_neox(config) if architecture == "GPTNeoXForCausalLM" else _rotary(config))


def _gpt2(config: Any) -> dict[str, Any]:
    return {
        "d_model": config.n_embd,
        "n_layers": config.n_layer,
        "n_heads": config.n_head,
        "d_head": config.n_embd // config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "n_ctx": config.n_positions,
        "eps": config.layer_norm_epsilon,
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
    }


def _neox(config: Any) -> dict[str, Any]:
    d_head = config.hidden_size // config.num_attention_heads
    fraction = _rope(config).get("partial_rotary_factor", getattr(config, "rotary_pct", 1.0))
    return {
        "d_head": d_head,
        "rotary_dim": int(d_head * fraction),
        "eps": config.layer_norm_eps,
        "parallel_attn_mlp": config.use_parallel_residual,
        "normalization_type": "LN",
    }


def _rotary(config: Any) -> dict[str, Any]:
    """Llama and its relatives: RMSNorm, gated MLP, grouped keys and values."""
    architecture = _architecture(config)
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    groups = config.num_key_value_heads
    # The converters of Llama and Qwen3 know ungrouped attention, the others expect groups even of one head
    # each.
    ungrouped = groups == config.num_attention_heads and architecture in (
        "LlamaForCausalLM",
        "Qwen3ForCausalLM",
    )
    settings = {
        "d_head": d_head,
        "rotary_dim": d_head,
        "eps": config.rms_norm_eps,
        "n_key_value_heads": None if ungrouped else groups,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "use_qk_norm": architecture == "Qwen3ForCausalLM",
    }
    window = getattr(config, "sliding_window", None)
    if window and "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"]):
        # Within the window, sliding attention is full attention; a context no longer than it needs no window.
        settings["n_ctx"] = min(config.max_position_embeddings, MAX_CONTEXT, window)
    rope = _rope(config)
    if rope.get("rope_type") == "llama3":
        settings |= {
            "use_NTK_by_parts_rope": True,
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_by_parts_factor": rope["factor"],
        }
    return settings
