"""Open models, name their activations, run them, and tell one from another.

The two model classes of TransformerLens differ in how they tokenise, mask, stop and generate. The functions
here are the one code path that is right on both; the rest of the package touches models through them only.
"""

from contrans_lens.models.fingerprint import Fingerprint, fingerprint
from contrans_lens.models.forward import logits, run
from contrans_lens.models.generation import generate_tokens
from contrans_lens.models.hook_points import (
    HookFunction,
    check_hook_points,
    hooks,
    layer_of,
    resid_post,
    resid_pre,
    residual_hook_points,
)
from contrans_lens.models.opening import open_model
from contrans_lens.models.prefix_cache import PrefixCache
from contrans_lens.models.protocol import HookedModel, input_device, parameter_dtype
from contrans_lens.models.tokens import TokenBatch, tokenize

__all__ = [
    "Fingerprint",
    "HookFunction",
    "HookedModel",
    "PrefixCache",
    "TokenBatch",
    "check_hook_points",
    "fingerprint",
    "generate_tokens",
    "hooks",
    "input_device",
    "layer_of",
    "logits",
    "open_model",
    "parameter_dtype",
    "resid_post",
    "resid_pre",
    "residual_hook_points",
    "run",
    "tokenize",
]
