"""``Edit``: what everything that can be done to a residual stream has in common.

:class:`~contrans_lens.interventions.Intervention` writes, projects out or clamps one vector. Other rooms bring edits of
their own, such as :class:`contrans_lens.pace.ConceptRemoval`; whatever has these members can be given to
:func:`~contrans_lens.interventions.steer`, :func:`~contrans_lens.interventions.generate` and to everything that
measures, alone or together with others.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.interventions.audit import Finding
from contrans_lens.interventions.operations import Operation
from contrans_lens.interventions.passes import ForwardPass
from contrans_lens.interventions.positions import Positions
from contrans_lens.models import Fingerprint, HookedModel


@runtime_checkable
class PassOperation(Protocol):
    """An operation that must know where a forward pass stands: it remembers what it saw at the prompt, say.

    One object serves one :func:`~contrans_lens.interventions.steer` block.
    """

    def on_pass(
        self,
        activation: Float[Tensor, "batch pos d_model"],
        where: Bool[Tensor, "batch pos"] | None,
        current: ForwardPass,
        findings: list[Finding] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The activation after the edit; columns outside ``where`` as they were, and never changed in place.

        Args:
            activation: the residual stream of the columns of this pass.
            where: real tokens that are acted on; None: every column, and all of them are real.
            current: the pass.
            findings: where to note what was found; None where nobody asks.
        """
        ...


@runtime_checkable
class Edit(Protocol):
    """One thing to do to one hook point, as data."""

    @property
    def hook_point(self) -> str:
        """Name, such as ``"blocks.3.hook_resid_post"``."""
        ...

    @property
    def positions(self) -> Positions:
        """At which tokens it acts."""
        ...

    @property
    def strength(self) -> float:
        """How much of it is done; 0 does nothing at all."""
        ...

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The model it was made for; another one is refused."""
        ...

    @property
    def label(self) -> str:
        """A name for people."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the residual stream it acts on."""
        ...

    @property
    def is_neutral(self) -> bool:
        """Whether it changes nothing whatever the activation."""
        ...

    def compile(self) -> Operation | PassOperation:
        """What is run at the hook point."""
        ...

    def with_strength(self, strength: float) -> "Edit":
        """The same edit at another strength."""
        ...

    def unchecked(self) -> "Edit":
        """The same edit without its fingerprint, for a model that it was compared with before."""
        ...

    def require_model(self, model: HookedModel) -> None:
        """Raise unless it was made for this model."""
        ...

    def to_key(self) -> dict[str, Any]:
        """Everything besides the model that decides what it does, as JSON values: the key of kept results."""
        ...
