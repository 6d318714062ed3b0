"""The affine map between two residual streams, frozen and saveable."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.artifacts import load_artifact, save_artifact
from contrans_lens.errors import ArtifactError, FingerprintMismatchError, MapError
from contrans_lens.maps.diagnostics import MapDiagnostics
from contrans_lens.models import Fingerprint

KIND = "affine_map"


@dataclass(frozen=True, eq=False)
class AffineMap:
    """``Y ~ X A^T + b`` from one hook point of the source model to one of the target model."""

    weight: Float[Tensor, "d_target d_source"]
    """``A``."""
    bias: Float[Tensor, " d_target"]
    """``b``; it never moves a concept."""
    source_hook_point: str = ""
    target_hook_point: str = ""
    method: str = "ridge"
    """How it was fitted: ``ols``, ``ridge``, ``reduced_rank``, ``procrustes`` or ``identity``."""
    ridge: float | None = None
    """Penalty on the centred sums of squares (scikit-learn's ``alpha``); None where the method has none."""
    rank: int | None = None
    """Rank that a reduced-rank map was cut to."""
    source_fingerprint: Fingerprint | None = None
    target_fingerprint: Fingerprint | None = None
    diagnostics: MapDiagnostics | None = None

    @property
    def d_source(self) -> int:
        """Width of the source residual stream."""
        return self.weight.shape[1]

    @property
    def d_target(self) -> int:
        """Width of the target residual stream."""
        return self.weight.shape[0]

    def __call__(self, states: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch other"]:
        """Predict target states from source states: ``X A^T + b``, ``[.., d_source] -> [.., d_target]``.

        Raises:
            MapError: the states do not have the source's width.
        """
        return self._linear(states, "source states") + self.bias.to(states)

    def concept(self, vector: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch other"]:
        """Carry a concept, a difference of states, by the linear part alone: ``A v``, never ``A v + b``.

        Raises:
            MapError: the vector does not have the source's width.
        """
        return self._linear(vector, "a concept vector")

    def _linear(self, values: Float[Tensor, "*batch width"], what: str) -> Float[Tensor, "*batch other"]:
        if values.shape[-1] != self.d_source:
            raise MapError(
                f"{what} of width {values.shape[-1]} cannot go through a map {self.d_source} -> "
                f"{self.d_target}; the map expects states of "
                f"{self.source_hook_point or 'its source hook point'}."
            )
        return values @ self.weight.to(values).mT

    def save(self, folder: Path | str) -> Path:
        """Save as an ``affine_map`` artifact: weight and bias, with both fingerprints in the manifest.

        Raises:
            ArtifactError: non-finite values, or the folder cannot be written.
        """
        body = {
            "source_hook_point": self.source_hook_point,
            "target_hook_point": self.target_hook_point,
            "method": self.method,
            "ridge": self.ridge,
            "rank": self.rank,
            "source": self.source_fingerprint.to_dict() if self.source_fingerprint else None,
            "target": self.target_fingerprint.to_dict() if self.target_fingerprint else None,
            "diagnostics": asdict(self.diagnostics) if self.diagnostics else None,
        }
        return save_artifact(Path(folder), KIND, {"weight": self.weight, "bias": self.bias}, body)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        for_source: Fingerprint | None = None,
        for_target: Fingerprint | None = None,
    ) -> "AffineMap":
        """Load a saved map, refusing models it was not fitted on.

        Args:
            folder: the artifact.
            for_source: fingerprint of the model that states or concepts will come from; checked when given.
            for_target: fingerprint of the model that the result will be written into; checked when given.

        Raises:
            ArtifactError: the artifact is not whole or of another kind.
            FingerprintMismatchError: a model differs, or the artifact does not say which model it is from.
        """
        artifact = load_artifact(Path(folder), KIND)
        body = artifact.body
        source = read_fingerprint(body.get("source"))
        target = read_fingerprint(body.get("target"))
        require_model(source, for_source, f"the source of the map in {folder}")
        require_model(target, for_target, f"the target of the map in {folder}")
        try:
            return cls(
                artifact.tensors["weight"],
                artifact.tensors["bias"],
                body["source_hook_point"],
                body["target_hook_point"],
                body["method"],
                body["ridge"],
                body["rank"],
                source,
                target,
                MapDiagnostics.from_dict(body["diagnostics"]) if body["diagnostics"] else None,
            )
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"the manifest of {folder} lacks {error}; fit the map again.") from error


def read_fingerprint(value: dict[str, Any] | None) -> Fingerprint | None:
    """The fingerprint in a manifest, or None where none was recorded."""
    return None if value is None else Fingerprint.from_dict(value)


def require_model(recorded: Fingerprint | None, model: Fingerprint | None, what: str) -> None:
    """Check an artifact's recorded fingerprint against the model it is about to be used on.

    Raises:
        FingerprintMismatchError: they differ, or nothing was recorded.
    """
    if model is None:
        return
    if recorded is None:
        raise FingerprintMismatchError(
            f"{what} records no model, so it cannot be checked against yours; make it again with a "
            "fingerprint, or load it without naming a model."
        )
    recorded.require(model, what)


def affine_from_weight(
    weight: Float[Tensor, "d_target d_source"],
    x_mean: Float[Tensor, " d_source"],
    y_mean: Float[Tensor, " d_target"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "d_target d_source"], Float[Tensor, " d_target"]]:
    """``A`` and ``b = mean(Y) - A mean(X)`` in the result's dtype; the bias is formed in float64.

    The bias uses the rounded ``A``, so the mean text is mapped to the mean text whatever the dtype.
    """
    rounded = weight.to(dtype)
    bias = y_mean.to(torch.float64) - rounded.to(torch.float64) @ x_mean.to(torch.float64)
    return rounded, bias.to(dtype)
