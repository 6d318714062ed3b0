"""Concept vectors: one direction per hook point, with the model they belong to and how well they read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.artifacts import load_artifact, save_artifact
from contrans_lens.concepts.quality import LayerQuality
from contrans_lens.errors import ArtifactError, ConceptError, FingerprintMismatchError, HookPointError
from contrans_lens.models import Fingerprint

KIND = "concept_vectors"


@dataclass(frozen=True, eq=False)
class ConceptVectors:
    """One concept in one model: a vector per hook point, in the units of the residual stream."""

    name: str
    vectors: Float[Tensor, "layer d_model"]
    hook_points: tuple[str, ...]
    """Names, one per row of ``vectors``."""
    method: str = "given"
    """The estimator, or ``"arithmetic"``, ``"given"``, ``"mapped"``."""
    fingerprint: Fingerprint | None = None
    """The model whose residual stream this is."""
    residual_norms: Float[Tensor, " rows"] | None = None
    """Mean norm of the residual at each hook point: the unit of steering strength."""
    quality: tuple[LayerQuality, ...] = ()
    """Per hook point, where it was measured."""

    def __post_init__(self) -> None:
        layers = self.vectors.shape[0]
        if len(self.hook_points) != layers or len(set(self.hook_points)) != layers:
            raise ConceptError(f"{layers} vectors need as many different hook points; got {list(self.hook_points)}.")
        if not torch.isfinite(self.vectors).all():
            raise ConceptError(f"the vectors of {self.name!r} hold NaN or infinity; look at the residuals behind them.")
        if self.residual_norms is not None and len(self.residual_norms) != layers:
            raise ConceptError(f"{len(self.residual_norms)} residual norms for {layers} hook points; give one each.")
        if self.quality and len(self.quality) != layers:
            raise ConceptError(f"{len(self.quality)} quality records for {layers} hook points; give one each or none.")

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.vectors.shape[1]

    def index(self, hook_point: str) -> int:
        """Row of a hook point.

        Raises:
            HookPointError: there is no vector at it.
        """
        if hook_point not in self.hook_points:
            raise HookPointError(
                f"concept {self.name!r} has no vector at {hook_point!r}; it has {', '.join(self.hook_points)}."
            )
        return self.hook_points.index(hook_point)

    def at(self, hook_point: str) -> Float[Tensor, " d_model"]:
        """The vector at a hook point.

        Raises:
            HookPointError: there is none.
        """
        return self.vectors[self.index(hook_point)]

    def residual_norm_at(self, hook_point: str) -> float:
        """Mean residual norm at a hook point.

        Raises:
            HookPointError: no such hook point.
            ConceptError: the norms were not measured.
        """
        row = self.index(hook_point)
        if self.residual_norms is None:
            raise ConceptError(f"concept {self.name!r} has no residual norms; estimate it from states, or give them.")
        return float(self.residual_norms[row])

    def select(self, hook_points: Sequence[str]) -> "ConceptVectors":
        """The same concept at some of its hook points, in the order given.

        Raises:
            HookPointError: one of them has no vector.
        """
        rows = [self.index(name) for name in hook_points]
        return replace(
            self,
            vectors=self.vectors[rows],
            hook_points=tuple(hook_points),
            residual_norms=None if self.residual_norms is None else self.residual_norms[rows],
            quality=tuple(self.quality[row] for row in rows) if self.quality else (),
        )

    def normalised(self) -> "ConceptVectors":
        """Unit vectors.

        Raises:
            ConceptError: a vector is zero and has no direction.
        """
        norms = self.vectors.norm(dim=1, keepdim=True)
        zero = [name for name, norm in zip(self.hook_points, norms.flatten().tolist(), strict=True) if norm == 0]
        if zero:
            raise ConceptError(f"concept {self.name!r} is the zero vector at {', '.join(zero)}; leave those out.")
        return replace(self, vectors=self.vectors / norms, quality=())

    def __add__(self, other: "ConceptVectors") -> "ConceptVectors":
        return self._combine(other, 1.0, f"({self.name} + {other.name})")

    def __sub__(self, other: "ConceptVectors") -> "ConceptVectors":
        return self._combine(other, -1.0, f"({self.name} - {other.name})")

    def __mul__(self, factor: int | float) -> "ConceptVectors":
        scaled = self.vectors * float(factor)
        return replace(self, name=f"{factor:g} {self.name}", vectors=scaled, method="arithmetic", quality=())

    __rmul__ = __mul__

    def __truediv__(self, divisor: int | float) -> "ConceptVectors":
        if divisor == 0:
            raise ConceptError(f"concept {self.name!r} cannot be divided by zero.")
        return self * (1 / divisor)

    def __neg__(self) -> "ConceptVectors":
        return replace(self, name=f"-{self.name}", vectors=-self.vectors, method="arithmetic", quality=())

    def _combine(self, other: "ConceptVectors", sign: float, name: str) -> "ConceptVectors":
        self.require_same_stream(other)
        combined = self.vectors + sign * other.vectors
        fingerprint = self.fingerprint or other.fingerprint
        norms = self.residual_norms if self.residual_norms is not None else other.residual_norms
        return replace(
            self,
            name=name,
            vectors=combined,
            method="arithmetic",
            fingerprint=fingerprint,
            residual_norms=norms,
            quality=(),
        )

    def require_same_stream(self, other: "ConceptVectors") -> None:
        """Refuse vectors of another model, width or other hook points.

        Raises:
            FingerprintMismatchError: another model.
            ConceptError: other hook points or widths.
        """
        if self.fingerprint is not None and other.fingerprint is not None:
            self.fingerprint.require(other.fingerprint, f"concept {self.name!r}")
        if self.hook_points != other.hook_points or self.d_model != other.d_model:
            raise ConceptError(
                f"concepts {self.name!r} and {other.name!r} have different hook points or widths; bring "
                "them to the same ones with .select(hook_points)."
            )

    def save(self, folder: Path | str) -> Path:
        """Save as a ``concept_vectors`` artifact.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        tensors = {"vectors": self.vectors}
        if self.residual_norms is not None:
            tensors["residual_norms"] = self.residual_norms
        body = {
            "name": self.name,
            "hook_points": list(self.hook_points),
            "method": self.method,
            "model": self.fingerprint.to_dict() if self.fingerprint else None,
            "quality": [asdict(record) for record in self.quality],
        }
        return save_artifact(Path(folder), KIND, tensors, body)

    @classmethod
    def load(cls, folder: Path | str, *, for_model: Fingerprint | None = None) -> "ConceptVectors":
        """Load saved vectors, refusing a model they were not read from.

        Args:
            folder: the artifact.
            for_model: fingerprint of the model they are about to be used on; checked when given.

        Raises:
            ArtifactError: the artifact is not whole or of another kind.
            FingerprintMismatchError: the model differs, or none was recorded.
        """
        artifact = load_artifact(Path(folder), KIND)
        body = artifact.body
        try:
            recorded = None if body["model"] is None else Fingerprint.from_dict(body["model"])
            loaded = cls(
                body["name"],
                artifact.tensors["vectors"],
                tuple(body["hook_points"]),
                body["method"],
                recorded,
                artifact.tensors.get("residual_norms"),
                tuple(LayerQuality.from_dict(record) for record in body["quality"]),
            )
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"the manifest of {folder} does not fit: {error}; make it again.") from error
        if for_model is not None:
            if recorded is None:
                raise FingerprintMismatchError(
                    f"concept {loaded.name!r} in {folder} records no model, so it cannot be checked "
                    "against yours; make it again with a fingerprint, or load it without for_model."
                )
            recorded.require(for_model, f"concept {loaded.name!r}")
        return loaded
