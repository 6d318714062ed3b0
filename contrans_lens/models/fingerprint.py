"""Which model an artifact was made on: survives a change of back end, but not a change of model.

The weights are identified by what they *do*: the residual stream of a few fixed token ids, mean-centred and
projected on fixed sign vectors. HookedTransformer and TransformerBridge store, transpose, scale and split the
same weights differently, but their residual streams agree to rounding, so one artifact moves between them;
and any change of the weights, a LoRA on the attention included, shows.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.artifacts import package_versions
from contrans_lens.errors import FingerprintMismatchError, ModelError
from contrans_lens.models.forward import run
from contrans_lens.models.hook_points import hooks, resid_post
from contrans_lens.models.protocol import HookedModel, is_bridge, parameter_dtype
from contrans_lens.models.tokens import TokenBatch

_N_TOKENS = 12
_N_PROJECTIONS = 6  # per probed layer
_SCALE = 2**20  # steps per unit in the signature
_DIGITS = 8  # hexadecimal digits per number
_TOLERANCE = {"float64": 5e-4, "float32": 5e-4}  # between back ends the signature differs by about 1e-6
_HALF_TOLERANCE = 0.1  # float16 and bfloat16 on either side
_PROBE_TEXT = "The quick brown fox: 0123456789, naïve café — def f(x):\n\treturn x**2  # ЖЗ 漢字 🙂"


@dataclass(frozen=True)
class Fingerprint:
    """What identifies a model's residual stream, and how it was run."""

    name: str
    """The model's name, for the reader; never compared."""
    architecture: str
    """Class name in Hugging Face, e.g. ``"LlamaForCausalLM"``."""
    n_layers: int
    d_model: int
    d_vocab: int
    weights: str
    """Signature of the residual stream on fixed token ids, in hexadecimal; compared with a tolerance."""
    processing: str
    """``"raw"``, ``"folded"`` (norms folded, residual stream unchanged) or ``"folded+centred"`` (residual
    stream mean-centred: another basis)."""
    dtype: str
    """Of the weights, e.g. ``"float32"``."""
    tokenizer: str
    """Hash of what the tokenizer does with a probe text and of a sample of its vocabulary; ``"none"`` without
    one."""
    versions: dict[str, str] = field(default_factory=dict, compare=False)
    """Packages it was made with; never compared."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Fingerprint":
        """From :meth:`to_dict`.

        Raises:
            FingerprintMismatchError: a field is missing or unknown.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise FingerprintMismatchError(f"the stored fingerprint cannot be read: {error}.") from error

    def identity(self) -> dict[str, Any]:
        """The fields that say which residual stream this is (no name, no versions), for content hashes."""
        return {key: value for key, value in self.to_dict().items() if key not in ("name", "versions")}

    def differences(self, other: "Fingerprint") -> dict[str, tuple[Any, Any]]:
        """The fields in which two models differ, as ``{field: (own, other's)}``.

        Name and versions are left out. ``weights`` differ beyond rounding between back ends and dtypes. A
        tokenizer is only compared where both models have one.
        """
        found: dict[str, tuple[Any, Any]] = {}
        for key in ("architecture", "n_layers", "d_model", "d_vocab", "processing", "dtype"):
            own, others = getattr(self, key), getattr(other, key)
            if own != others:
                found[key] = (own, others)
        if not _same_weights(self, other):
            found["weights"] = (self.weights, other.weights)
        if self.tokenizer != other.tokenizer and "none" not in (self.tokenizer, other.tokenizer):
            found["tokenizer"] = (self.tokenizer, other.tokenizer)
        return found

    def require(self, other: "Fingerprint", what: str) -> None:
        """Refuse to use something made on this model on another one.

        Versions never matter, nor does the dtype: vectors and maps move to that of the activations. Folded
        norms alone do not either, because they leave the residual stream as it is.

        Args:
            other: the model it is about to be used on.
            what: what was made, for the message, e.g. ``"the concept vectors 'honesty'"``.

        Raises:
            FingerprintMismatchError: says what differs and what to do.
        """
        found = self.differences(other)
        found.pop("dtype", None)
        if "processing" in found and _centred(self.processing) == _centred(other.processing):
            found.pop("processing")
        if not found:
            return
        listed = "; ".join(f"{key}: {_short(own)} there, {_short(theirs)} here" for key, (own, theirs) in found.items())
        if found.keys() == {"processing"}:
            wanted = _centred(self.processing)
            advice = f"Processing changes the basis of the residual stream: open with process_weights={wanted}"
        else:
            advice = f"Use it on {self.name!r}, or make it anew on this model"
        raise FingerprintMismatchError(f"{what} belongs to another model ({listed}). {advice}.")


def fingerprint(model: HookedModel) -> Fingerprint:
    """Fingerprint of a model as it is now (one forward pass over twelve tokens).

    Raises:
        ModelError: the residual stream is not finite.
    """
    middle, last = _probe(model)
    return Fingerprint(
        name=_name(model),
        architecture=_architecture(model),
        n_layers=int(model.cfg.n_layers),
        d_model=int(model.cfg.d_model),
        d_vocab=int(model.cfg.d_vocab),
        weights=_signature(middle, "middle") + _signature(last, "last"),
        processing=_processing(model, last),
        dtype=str(parameter_dtype(model)).removeprefix("torch."),
        tokenizer=_tokenizer_hash(model),
        versions=package_versions(),
    )


def _probe(model: HookedModel) -> tuple[Float[Tensor, "pos d_model"], Float[Tensor, "pos d_model"]]:
    """Residual streams after the middle and the last block on fixed token ids, in float64 on the CPU."""
    n_tokens = min(_N_TOKENS, int(model.cfg.n_ctx))
    tokens = ((torch.arange(n_tokens) * 7919 + 11) % int(model.cfg.d_vocab))[None]
    batch = TokenBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), False, "right", ((),), (0,))
    found: dict[int, Tensor] = {}

    def keep(layer: int, activation: Tensor) -> None:
        found[layer] = activation[0].detach().to("cpu", torch.float64)

    last = int(model.cfg.n_layers) - 1
    middle = last // 2
    pairs = [
        (resid_post(middle), lambda activation: keep(middle, activation)),
        (resid_post(last), lambda activation: keep(last, activation)),
    ]
    with hooks(model, pairs):
        run(model, batch, stop_after=resid_post(last))
    if not all(torch.isfinite(states).all() for states in found.values()):
        raise ModelError("the model's residual stream holds NaN or infinity on plain tokens; its weights are damaged.")
    return found[middle], found[last]


def _signature(states: Float[Tensor, "pos d_model"], label: str) -> str:
    """Numbers of order one that any change of the weights moves, as fixed-point hexadecimal.

    Mean-centring over ``d_model`` removes what weight processing changes: a processed LayerNorm model has the
    same signature as the raw one, and ``processing`` tells them apart.
    """
    centred = states - states.mean(dim=-1, keepdim=True)
    norms = centred.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    summed = (centred / norms).sum(dim=0)
    values = [float(norms.log().mean())]
    for number in range(_N_PROJECTIONS):
        bits = hashlib.shake_256(f"{label}:{number}".encode()).digest(math.ceil(states.shape[1] / 8))
        signs = torch.from_numpy(np.unpackbits(np.frombuffer(bits, dtype=np.uint8))[: states.shape[1]] * 2.0 - 1.0)
        values.append(float(summed @ signs) / math.sqrt(states.shape[1]) * math.sqrt(states.shape[0]))
    return "".join(f"{round(value * _SCALE) % 16**_DIGITS:0{_DIGITS}x}" for value in values)


def _decode(signature: str) -> list[float]:
    numbers = [int(signature[at : at + _DIGITS], 16) for at in range(0, len(signature), _DIGITS)]
    half = 16**_DIGITS // 2
    return [(number - 2 * half if number >= half else number) / _SCALE for number in numbers]


def _same_weights(one: Fingerprint, other: Fingerprint) -> bool:
    if one.weights == other.weights:
        return True
    if len(one.weights) != len(other.weights):
        return False
    tolerance = max(_TOLERANCE.get(dtype, _HALF_TOLERANCE) for dtype in (one.dtype, other.dtype))
    try:
        pairs = list(zip(_decode(one.weights), _decode(other.weights), strict=True))
    except ValueError:  # not a signature: written by hand or by a later version
        return False
    return all(abs(own - theirs) <= tolerance for own, theirs in pairs)


def _processing(model: HookedModel, last: Float[Tensor, "pos d_model"]) -> str:
    """Detected from the model as it is, because live models come processed in ways of their own."""
    means = last.mean(dim=-1).abs() * math.sqrt(last.shape[-1])
    # Rounding in bfloat16 leaves a mean of about 1e-3 of the norm; a stream that was not centred has far
    # more.
    if bool((means <= 4e-3 * last.norm(dim=-1)).all()):
        return "folded+centred"
    if is_bridge(model):
        folded = bool(getattr(model, "_weights_processed", False) or getattr(model, "compatibility_mode", False))
    else:
        folded = str(getattr(model.cfg, "normalization_type", "")).endswith("Pre")
    return "folded" if folded else "raw"


def _centred(processing: str) -> bool:
    return "centred" in processing


def _name(model: HookedModel) -> str:
    return str(getattr(model.cfg, "model_name", None) or type(model).__name__)


def _architecture(model: HookedModel) -> str:
    for key in ("original_architecture", "architecture"):
        value = getattr(model.cfg, key, None)
        if value:
            return str(value)
    return type(getattr(model, "original_model", model)).__name__


def _tokenizer_hash(model: HookedModel) -> str:
    """TransformerLens adds special tokens to some tokenizers; only what both classes share is hashed."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        return "none"
    size = min(int(tokenizer.vocab_size), int(model.cfg.d_vocab))
    sample = sorted({round(step * (size - 1) / 255) for step in range(256)})
    parts = [str(size), *map(str, tokenizer.encode(_PROBE_TEXT, add_special_tokens=False))]
    parts += [str(token) for token in tokenizer.convert_ids_to_tokens(sample)]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:16] + "..."
