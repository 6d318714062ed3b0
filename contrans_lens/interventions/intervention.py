"""``Intervention``: what to do to a residual stream, as data that can be printed, compared and saved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.artifacts import load_artifact, save_artifact
from contrans_lens.errors import ArtifactError, FingerprintMismatchError, InterventionError
from contrans_lens.interventions.operations import AddVector, MoveComponent, Operation
from contrans_lens.interventions.positions import ALL, Positions, positions_from_dict, positions_to_dict
from contrans_lens.interventions.suspension import require_model
from contrans_lens.models import Fingerprint, HookedModel

KIND = "intervention"

Op = Literal["add", "project_out", "clamp"]
Unit = Literal["residual_norm", "absolute"]


@dataclass(frozen=True, eq=False)
class Intervention:
    """One thing to do to one hook point.

    With ``u = v / ||v||``, strength ``s`` and ``n`` the residual norm (1 in absolute units):

    * ``add``: ``R += s n u``, in absolute units ``R += s v`` (the ConTrans transplant, ``R += alpha v'``);
    * ``project_out``: ``R -= s (R.u) u``; strength 1 removes the component;
    * ``clamp``: ``R += s (value n - R.u) u``; strength 1 sets the component to ``value``.

    A negative strength is the minus direction. Strength 0 does nothing at all: no hook is attached.
    """

    hook_point: str
    """Name, such as ``"blocks.3.hook_resid_post"``."""
    vector: Float[Tensor, " d_model"]
    """The direction, on the CPU; kept as a copy in float32 (float64 stays)."""
    op: Op = "add"
    strength: float = 1.0
    """In ``unit`` for ``add``; a share of the full effect for the other two."""
    unit: Unit = "residual_norm"
    residual_norm: float | None = None
    """Mean norm of the residual at the hook point: what strength 1 stands for in units of the residual
    norm."""
    positions: Positions = ALL
    value: float | None = None
    """What ``clamp`` sets the component to, in ``unit``."""
    fingerprint: Fingerprint | None = None
    """The model whose residual stream the vector lives in; another model is refused."""
    label: str = ""
    """A name for people."""

    def __post_init__(self) -> None:
        if self.op not in ("add", "project_out", "clamp"):
            raise InterventionError(f"op is {self.op!r}; 'add', 'project_out' or 'clamp' is expected.")
        if self.unit not in ("residual_norm", "absolute"):
            raise InterventionError(f"unit is {self.unit!r}; 'residual_norm' or 'absolute' is expected.")
        for name in ("strength", "residual_norm", "value"):
            number = getattr(self, name)
            if number is None and name != "strength":
                continue
            object.__setattr__(self, name, _finite_number(name, number))
        object.__setattr__(self, "vector", _clean_vector(self.vector))
        if (self.op == "clamp") != (self.value is not None):
            raise InterventionError(
                "clamp needs value=, what the component is set to, and no other operation has one; "
                f"op is {self.op!r} and value is {self.value}."
            )
        if self._uses_residual_norm and (self.residual_norm is None or self.residual_norm <= 0):
            raise InterventionError(
                f"residual_norm is {self.residual_norm}; a strength in units of the residual norm needs that "
                "norm, above zero (ConceptVectors.residual_norms has it), or else unit='absolute'."
            )
        if self._uses_direction and not self.vector.any():
            raise InterventionError(
                "the vector is zero and has no direction. Only an absolute addition may have a zero vector."
            )

    @property
    def d_model(self) -> int:
        """Width of the vector."""
        return self.vector.shape[0]

    @property
    def is_neutral(self) -> bool:
        """Whether it changes nothing whatever the activation: strength 0, or a zero vector added."""
        return self.strength == 0 or not self.vector.any()

    def direction(self) -> Float[Tensor, " d_model"]:
        """Unit vector ``u = v / ||v||`` in float64.

        Raises:
            InterventionError: the vector is zero.
        """
        exact = self.vector.double()
        # Scaled first: squares of very small or very large entries would under- or overflow.
        largest = exact.abs().max()
        if largest == 0:
            raise InterventionError("a zero vector has no direction.")
        scaled = exact / largest
        return scaled / scaled.norm()

    def delta(self) -> Float[Tensor, " d_model"]:
        """What ``add`` adds at each position, in float64: ``s n u`` or ``s v``.

        Raises:
            InterventionError: the operation is not ``add``: what the others add depends on the activation.
        """
        if self.op != "add":
            raise InterventionError(f"{self.op} adds no fixed vector; delta() is for op='add'.")
        if self.unit == "absolute":
            return self.strength * self.vector.double()
        return self.strength * self._norm * self.direction()

    def compile(self) -> Operation:
        """The operation on a whole activation ``[batch, pos, d_model]``, without positions."""
        if self.op == "add":
            return AddVector(self.delta())
        target = 0.0 if self.value is None else self.value * self._norm
        return MoveComponent(self.direction(), target, self.strength)

    def with_strength(self, strength: float) -> "Intervention":
        """The same intervention at another strength."""
        return replace(self, strength=strength)

    def unchecked(self) -> "Intervention":
        """The same intervention without its fingerprint, for a model that it was compared with before."""
        return replace(self, fingerprint=None)

    def __neg__(self) -> "Intervention":
        """The same intervention in the minus direction."""
        return replace(self, strength=-self.strength)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Intervention):
            return NotImplemented
        return self._scalars() == other._scalars() and torch.equal(self.vector, other.vector)

    def __hash__(self) -> int:
        return hash((self.hook_point, self.op, self.strength, self.unit, self.positions, self.label))

    def __str__(self) -> str:
        name = f"{self.label}: " if self.label else ""
        unit = f" x residual norm {self.residual_norm:.4g}" if self._uses_residual_norm else ""
        value = "" if self.value is None else f" to {self.value:.4g}"
        where = positions_to_dict(self.positions)
        options = ", ".join(f"{key}={field!r}" for key, field in where.items() if key != "kind")
        at = f"{where['kind']}({options})" if options else where["kind"]
        return f"{name}{self.op}{value} {self.strength:+.4g}{unit} at {self.hook_point}, positions {at}"

    def require_model(self, model: HookedModel) -> None:
        """Check that the vector was made for this model and weight processing.

        Raises:
            FingerprintMismatchError: it was made on another one; the message says what differs.
        """
        require_model(self.fingerprint, model, f"the intervention at {self.hook_point}")

    def to_dict(self) -> dict[str, Any]:
        """Everything but the numbers of the vector, JSON-serialisable."""
        body = {name: field for name, field in self._scalars().items() if name not in ("positions", "fingerprint")}
        body["positions"] = positions_to_dict(self.positions)
        body["fingerprint"] = None if self.fingerprint is None else self.fingerprint.to_dict()
        return body

    def to_key(self) -> dict[str, Any]:
        """Everything besides the model that decides what it does: the key of kept results."""
        body = {name: value for name, value in self.to_dict().items() if name not in ("fingerprint", "label")}
        return {**body, "sha256": sha256(self.vector.double().contiguous().numpy().tobytes()).hexdigest()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], vector: Float[Tensor, " d_model"]) -> "Intervention":
        """Rebuild from :meth:`to_dict` and the vector.

        Raises:
            InterventionError: a field is unknown, missing or has a value that no intervention has.
        """
        known = {field.name for field in fields(cls)} - {"vector"}
        if value.keys() != known:
            raise InterventionError(
                f"the description of an intervention lacks {sorted(known - value.keys())} "
                f"and has the unknown {sorted(value.keys() - known)}."
            )
        options = dict(value)
        options["positions"] = positions_from_dict(options["positions"])
        if options["fingerprint"] is not None:
            options["fingerprint"] = Fingerprint.from_dict(options["fingerprint"])
        return cls(vector=vector, **options)

    def save(self, folder: Path) -> Path:
        """Save as an artifact folder.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        return save_interventions(folder, [self])

    @classmethod
    def load(cls, folder: Path, model: HookedModel | None = None) -> "Intervention":
        """Load what :meth:`save` wrote; with ``model``, refuse any model but the one it was made for.

        Raises:
            ArtifactError: not an intervention artifact, damaged, or one that holds several.
            FingerprintMismatchError: made on another model or weight processing.
        """
        loaded = load_interventions(folder, model)
        if len(loaded) != 1:
            raise ArtifactError(f"{folder} holds {len(loaded)} interventions; read it with load_interventions().")
        return loaded[0]

    @property
    def _uses_residual_norm(self) -> bool:
        return self.unit == "residual_norm" and self.op != "project_out"

    @property
    def _uses_direction(self) -> bool:
        return self.op != "add" or self.unit == "residual_norm"

    @property
    def _norm(self) -> float:
        return self.residual_norm if self._uses_residual_norm and self.residual_norm is not None else 1.0

    def _scalars(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "vector"}


def save_interventions(folder: Path, interventions: Sequence[Intervention]) -> Path:
    """Save interventions, in order, as one artifact folder of kind ``"intervention"``.

    Raises:
        InterventionError: there are none.
        ArtifactError: the folder cannot be written.
    """
    if not interventions:
        raise InterventionError("there is no intervention to save.")
    # The same intervention may be given twice, and safetensors refuses tensors that share memory.
    tensors = {f"vector.{index}": each.vector.clone() for index, each in enumerate(interventions)}
    return save_artifact(Path(folder), KIND, tensors, {"interventions": [each.to_dict() for each in interventions]})


def load_interventions(folder: Path, model: HookedModel | None = None) -> list[Intervention]:
    """Load what :func:`save_interventions` wrote, in order.

    Args:
        folder: the artifact's folder.
        model: where given, every intervention must have been made for it.

    Raises:
        ArtifactError: another kind, another schema, damaged, or not what an intervention consists of.
        FingerprintMismatchError: made on another model or weight processing.
    """
    artifact = load_artifact(Path(folder), KIND)
    described = artifact.body.get("interventions")
    if not isinstance(described, list) or len(described) != len(artifact.tensors):
        raise ArtifactError(f"the manifest of {folder} does not describe its vectors; make the artifact again.")
    try:
        loaded = [
            Intervention.from_dict(each, artifact.tensors[f"vector.{index}"]) for index, each in enumerate(described)
        ]
    except (InterventionError, FingerprintMismatchError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{folder} does not hold a valid intervention: {error}") from error
    if model is not None:
        for each in loaded:
            each.require_model(model)
    return loaded


def _finite_number(name: str, number: float) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float) or not isfinite(number):
        raise InterventionError(f"{name} is {number!r}; a finite number is expected (negative is the minus direction).")
    return float(number)


def _clean_vector(vector: Tensor) -> Tensor:
    if vector.ndim != 1 or vector.shape[0] == 0:
        raise InterventionError(f"the vector has shape {tuple(vector.shape)}; [d_model] is expected.")
    dtype = torch.float64 if vector.dtype == torch.float64 else torch.float32
    kept = vector.detach().to("cpu", dtype, copy=True)
    if not torch.isfinite(kept).all():
        raise InterventionError("the vector holds NaN or infinity; look at what produced it.")
    return kept
