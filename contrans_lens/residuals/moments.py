"""Streaming first and second moments of the residual stream: memory does not depend on how many texts there are.

Blocks of examples are centred on their own mean before they are squared, and merged with the pairwise formula
of Chan, Golub and LeVeque (1979), all in float64. The textbook ``E[xx'] - E[x]E[x]'`` loses every digit where
the mean is large against the spread, which is what residual streams look like.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.artifacts import load_artifact, save_artifact
from contrans_lens.errors import ArtifactError, CaptureError, HookPointError
from contrans_lens.models import Fingerprint

_KIND = "moments"
_BLOCK = 256
"""Examples gathered before they are folded in: one matrix product of this depth instead of many thin ones."""


@dataclass(frozen=True)
class Moments:
    """Moments of pooled residuals at some hook points; made by :class:`MomentsFitter`."""

    hook_points: tuple[str, ...]
    """Names of the layers, in the order of the ``layer`` axis."""
    n: int
    """Number of examples."""
    mean: Float[Tensor, "layer d_model"]
    """Mean residual (float64)."""
    covariance: Float[Tensor, "layer d_model d_model"] | None
    """Unbiased covariance (float64), divided by ``n - 1``; ``None`` if it was not asked for."""
    mean_norm: Float[Tensor, "layer"]
    """Mean Euclidean norm of a residual, the unit of steering strength (float64)."""
    fingerprint: Fingerprint | None = None
    """The model."""
    description: Mapping[str, Any] | None = None
    """Positions, text hash and number of truncated texts, where they are known."""

    def index(self, hook_point: str) -> int:
        """Place of a hook point on the ``layer`` axis.

        Raises:
            HookPointError: there are no moments for it.
        """
        if hook_point not in self.hook_points:
            raise HookPointError(f"no moments at {hook_point!r}; there are {', '.join(self.hook_points)}.")
        return self.hook_points.index(hook_point)

    def select(self, hook_points: Sequence[str]) -> "Moments":
        """The same moments at some of the hook points.

        Raises:
            HookPointError: there are no moments for one of them.
        """
        kept = [self.index(name) for name in hook_points]
        return type(self)(
            hook_points=tuple(hook_points),
            n=self.n,
            mean=self.mean[kept],
            covariance=None if self.covariance is None else self.covariance[kept],
            mean_norm=self.mean_norm[kept],
            fingerprint=self.fingerprint,
            description=self.description,
        )

    def save(self, folder: Path | str) -> Path:
        """Save as an artifact folder; returns the folder.

        Raises:
            ArtifactError: it cannot be written.
        """
        tensors = {"mean": self.mean, "mean_norm": self.mean_norm}
        if self.covariance is not None:
            tensors["covariance"] = self.covariance
        body = {
            "hook_points": list(self.hook_points),
            "n": self.n,
            "fingerprint": None if self.fingerprint is None else self.fingerprint.to_dict(),
            "description": None if self.description is None else dict(self.description),
        }
        return save_artifact(Path(folder), _KIND, tensors, body)

    @classmethod
    def load(cls, folder: Path | str, fingerprint: Fingerprint | None = None) -> "Moments":
        """Load what :meth:`save` wrote.

        Args:
            folder: the artifact.
            fingerprint: the model they are to be used on; another one is refused.

        Raises:
            ArtifactError: the folder is not such an artifact, or is damaged.
            FingerprintMismatchError: the moments are another model's.
        """
        artifact = load_artifact(Path(folder), _KIND)
        try:
            saved = artifact.body["fingerprint"]
            made = cls(
                hook_points=tuple(artifact.body["hook_points"]),
                n=artifact.body["n"],
                mean=artifact.tensors["mean"],
                covariance=artifact.tensors.get("covariance"),
                mean_norm=artifact.tensors["mean_norm"],
                fingerprint=None if saved is None else Fingerprint.from_dict(saved),
                description=artifact.body["description"],
            )
        except KeyError as error:
            raise ArtifactError(f"the moments in {folder} lack {error}; make them again.") from error
        if fingerprint is not None and made.fingerprint is not None:
            made.fingerprint.require(fingerprint, f"the moments in {folder}")
        return made


class MomentsFitter:
    """Accumulates moments batch by batch; ``fit`` may be called at any time and does not end the accumulation.

    Args:
        hook_points: names of the layers, in the order of the ``layer`` axis of the batches.
        covariance: whether to keep ``[layer, d_model, d_model]`` second moments as well.
    """

    def __init__(self, hook_points: Sequence[str], *, covariance: bool = True) -> None:
        self.hook_points = tuple(hook_points)
        self.n = 0
        self._with_covariance = covariance
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None
        self._norms: Tensor | None = None
        self._waiting: list[Tensor] = []
        self._n_waiting = 0

    def update(self, residuals: Float[Tensor, "example layer d_model"]) -> "MomentsFitter":
        """Add a batch of pooled residuals; returns the fitter.

        Raises:
            CaptureError: the batch has other layers or another width, or a value is not finite.
        """
        expected = None if self._mean is None else self._mean.shape[1]
        waiting = self._waiting[0].shape[2] if self._waiting else expected
        if residuals.shape[1] != len(self.hook_points) or (waiting is not None and residuals.shape[2] != waiting):
            raise CaptureError(
                f"a batch of shape {tuple(residuals.shape)} does not fit moments of {len(self.hook_points)} hook "
                f"points and width {waiting}."
            )
        if not torch.isfinite(residuals).all():
            raise CaptureError("a batch holds NaN or infinity and cannot enter moments; look at what produced it.")
        if len(residuals) == 0:
            return self
        self._waiting.append(residuals.detach())
        self._n_waiting += len(residuals)
        if self._n_waiting >= _BLOCK:
            self._fold()
        return self

    def merge(self, other: "MomentsFitter") -> "MomentsFitter":
        """Add everything another fitter has seen; the other is left as it was.

        Raises:
            CaptureError: the fitters have other hook points, widths or second moments.
        """
        if other.hook_points != self.hook_points or other._with_covariance != self._with_covariance:
            raise CaptureError("moments of different hook points, or with and without covariance, cannot be merged.")
        self._fold()
        other._fold()
        if other._mean is not None and other._norms is not None:
            if self._mean is not None and self._mean.shape != other._mean.shape:
                raise CaptureError("moments of different widths cannot be merged.")
            self._merge(other.n, other._mean.clone(), _copy(other._scatter), other._norms.clone())
        return self

    def fit(self, *, fingerprint: Fingerprint | None = None, description: Mapping[str, Any] | None = None) -> Moments:
        """The moments of everything seen so far.

        Raises:
            CaptureError: too few examples: one is needed, and two for a covariance.
        """
        self._fold()
        if self._mean is None or self._norms is None or (self._with_covariance and self.n < 2):
            raise CaptureError(f"{self.n} examples are too few for moments; give at least two.")
        return Moments(
            hook_points=self.hook_points,
            n=self.n,
            mean=self._mean.clone(),
            covariance=None if self._scatter is None else self._scatter / (self.n - 1),
            mean_norm=self._norms / self.n,
            fingerprint=fingerprint,
            description=description,
        )

    def _fold(self) -> None:
        """Fold the waiting batches in as one block."""
        if not self._waiting:
            return
        block = torch.cat(self._waiting).to(torch.float64).transpose(0, 1)  # [layer, example, d_model]
        self._waiting, self._n_waiting = [], 0
        mean = block.mean(dim=1)
        norms = block.norm(dim=2).sum(dim=1)
        scatter = None
        if self._with_covariance:
            centred = block - mean[:, None]
            scatter = centred.transpose(1, 2) @ centred
        self._merge(block.shape[1], mean, scatter, norms)

    def _merge(self, n: int, mean: Tensor, scatter: Tensor | None, norms: Tensor) -> None:
        """Chan, Golub and LeVeque: ``S = S_a + S_b + (n_a n_b / n) (m_b - m_a)(m_b - m_a)'``."""
        if self._mean is None or self._norms is None:
            self.n, self._mean, self._scatter, self._norms = n, mean, scatter, norms
            return
        total = self.n + n
        delta = mean - self._mean
        if self._scatter is not None and scatter is not None:
            self._scatter += scatter
            self._scatter.baddbmm_(delta[:, :, None], delta[:, None, :], alpha=self.n * n / total)
        self._mean += delta * (n / total)
        self._norms += norms
        self.n = total


def _copy(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.clone()
