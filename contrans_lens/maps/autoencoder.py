"""The non-linear baseline: a small ReLU autoencoder between states (Oozeer et al., arXiv 2503.04429).

It is here to be compared with. Data are standardised by their mean and one scale per side; training is Adam
with early stopping on validation texts, and the weights kept are copies of the best ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.artifacts import load_artifact, save_artifact
from contrans_lens.errors import ArtifactError, MapError
from contrans_lens.maps.affine import read_fingerprint, require_model
from contrans_lens.maps.factor import check_finite
from contrans_lens.maps.fit import check_pairs
from contrans_lens.models import Fingerprint

KIND = "autoencoder_map"


@dataclass(frozen=True, eq=False)
class AutoencoderMap:
    """``f(x) = W_2 relu(W_1 (x - m_x) / c_x + b_1) c_y + b_2 c_y + m_y``, frozen."""

    encoder_weight: Float[Tensor, "hidden d_source"]
    encoder_bias: Float[Tensor, " hidden"]
    decoder_weight: Float[Tensor, "d_target hidden"]
    decoder_bias: Float[Tensor, " d_target"]
    source_mean: Float[Tensor, " d_source"]
    target_mean: Float[Tensor, " d_target"]
    source_scale: float
    target_scale: float
    source_hook_point: str = ""
    target_hook_point: str = ""
    source_fingerprint: Fingerprint | None = None
    target_fingerprint: Fingerprint | None = None
    validation_losses: tuple[float, ...] = ()
    """Mean squared error on the validation texts after each epoch, in standardised units."""
    best_epoch: int = 0

    def __call__(self, states: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch other"]:
        """Predict target states from source states.

        Raises:
            MapError: the states do not have the source's width.
        """
        self._check_width(states)
        scaled = (states - self.source_mean.to(states)) / self.source_scale
        hidden = torch.relu(scaled @ self.encoder_weight.to(states).mT + self.encoder_bias.to(states))
        out = hidden @ self.decoder_weight.to(states).mT + self.decoder_bias.to(states)
        return out * self.target_scale + self.target_mean.to(states)

    def concept(
        self, vector: Float[Tensor, "*batch width"], at: Float[Tensor, " width"] | None = None
    ) -> Float[Tensor, "*batch other"]:
        """Carry a concept as a difference of predictions, ``f(x + v) - f(x)`` at the mean source state ``x``.

        The map is not linear, so the answer depends on where it is asked and on the vector's length.

        Args:
            vector: concept in the source.
            at: the state to ask at; None is the training mean.

        Raises:
            MapError: the vector does not have the source's width.
        """
        self._check_width(vector)
        base = (self.source_mean if at is None else at).to(vector)
        return self(base + vector) - self(base)

    def _check_width(self, values: Float[Tensor, "..."]) -> None:
        width = self.encoder_weight.shape[1]
        if values.shape[-1] != width:
            raise MapError(f"values of width {values.shape[-1]} cannot enter an autoencoder of source width {width}.")

    def save(self, folder: Path | str) -> Path:
        """Save as an ``autoencoder_map`` artifact.

        Raises:
            ArtifactError: non-finite values, or the folder cannot be written.
        """
        names = (
            "encoder_weight",
            "encoder_bias",
            "decoder_weight",
            "decoder_bias",
            "source_mean",
            "target_mean",
        )
        body = {
            "source_scale": self.source_scale,
            "target_scale": self.target_scale,
            "source_hook_point": self.source_hook_point,
            "target_hook_point": self.target_hook_point,
            "source": self.source_fingerprint.to_dict() if self.source_fingerprint else None,
            "target": self.target_fingerprint.to_dict() if self.target_fingerprint else None,
            "validation_losses": list(self.validation_losses),
            "best_epoch": self.best_epoch,
        }
        return save_artifact(Path(folder), KIND, {name: getattr(self, name) for name in names}, body)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        for_source: Fingerprint | None = None,
        for_target: Fingerprint | None = None,
    ) -> "AutoencoderMap":
        """Load a saved autoencoder, refusing models it was not fitted on.

        Raises:
            ArtifactError: the artifact is not whole or of another kind.
            FingerprintMismatchError: a model differs, or none was recorded.
        """
        artifact = load_artifact(Path(folder), KIND)
        body: dict[str, Any] = dict(artifact.body)
        source, target = (
            read_fingerprint(body.pop("source", None)),
            read_fingerprint(body.pop("target", None)),
        )
        require_model(source, for_source, f"the source of the autoencoder in {folder}")
        require_model(target, for_target, f"the target of the autoencoder in {folder}")
        body["validation_losses"] = tuple(body.get("validation_losses", ()))
        fields: dict[str, Any] = {**artifact.tensors, **body}
        try:
            return cls(**fields, source_fingerprint=source, target_fingerprint=target)
        except TypeError as error:
            raise ArtifactError(f"the manifest of {folder} does not fit: {error}; fit it again.") from error


def fit_autoencoder(
    x: Float[Tensor, "n d_source"],
    y: Float[Tensor, "rows d_target"],
    *,
    hidden: int | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    epochs: int = 200,
    patience: int = 15,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    source_hook_point: str = "",
    target_hook_point: str = "",
    source_fingerprint: Fingerprint | None = None,
    target_fingerprint: Fingerprint | None = None,
) -> AutoencoderMap:
    """Train the autoencoder baseline in float32. The same seed on the same machine gives the same map.

    Args:
        x: source states.
        y: target states of the same texts.
        hidden: width of the hidden layer; None is the wider of the two streams.
        validation: states of other texts for early stopping; None sets a seeded tenth of the texts aside.
        epochs: at most so many passes.
        patience: stop after so many passes without a new best validation loss.
        batch_size: texts a step.
        learning_rate: of Adam.
        seed: of the initial weights, the split and the order.
        source_hook_point: name of the source's hook point.
        target_hook_point: name of the target's hook point.
        source_fingerprint: of the source model.
        target_fingerprint: of the target model.

    Raises:
        MapError: counts differ, too few texts, non-finite or constant states, or a training that diverged.
    """
    check_pairs(x, y)
    check_finite(x, "source states")
    if min(epochs, patience, batch_size) < 1 or learning_rate <= 0:
        raise MapError("epochs, patience and batch size must be at least 1 and the learning rate above 0.")
    generator = torch.Generator().manual_seed(seed)
    (x_train, y_train), (x_valid, y_valid) = _split(x, y, validation, generator)
    x_mean, y_mean = x_train.mean(0), y_train.mean(0)
    x_scale, y_scale = (
        float((x_train - x_mean).square().mean().sqrt()),
        float((y_train - y_mean).square().mean().sqrt()),
    )
    if min(x_scale, y_scale) == 0:
        raise MapError("the states are the same for every text, so there is nothing to learn; use other texts.")
    data = [(x_train - x_mean) / x_scale, (y_train - y_mean) / y_scale]
    check = [(x_valid - x_mean) / x_scale, (y_valid - y_mean) / y_scale]
    network = _network(x.shape[1], hidden or max(x.shape[1], y.shape[1]), y.shape[1], generator)
    best, losses = _train(network, data, check, epochs, patience, batch_size, learning_rate, generator)
    return AutoencoderMap(
        best["0.weight"],
        best["0.bias"],
        best["2.weight"],
        best["2.bias"],
        x_mean,
        y_mean,
        x_scale,
        y_scale,
        source_hook_point,
        target_hook_point,
        source_fingerprint,
        target_fingerprint,
        tuple(losses),
        losses.index(min(losses)),
    )


def _split(
    x: Tensor, y: Tensor, validation: tuple[Tensor, Tensor] | None, generator: torch.Generator
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    x, y = x.detach().to("cpu", torch.float32), y.detach().to("cpu", torch.float32)
    if validation is not None:
        check_pairs(*validation)
        check_finite(validation[0], "validation source states")
        x_valid, y_valid = (values.detach().to("cpu", torch.float32) for values in validation)
        return (x, y), (x_valid, y_valid)
    if x.shape[0] < 4:
        raise MapError(f"an autoencoder needs at least 4 texts to set some aside; {x.shape[0]} were given.")
    order = torch.randperm(x.shape[0], generator=generator)
    aside = max(1, x.shape[0] // 10)
    return (x[order[aside:]], y[order[aside:]]), (x[order[:aside]], y[order[:aside]])


def _network(d_source: int, hidden: int, d_target: int, generator: torch.Generator) -> torch.nn.Sequential:
    """Two linear layers with weights uniform in ``+-1/sqrt(fan in)``, drawn from ``generator`` alone."""
    network = torch.nn.Sequential(
        torch.nn.utils.skip_init(torch.nn.Linear, d_source, hidden),  # leaves the global random state alone
        torch.nn.ReLU(),
        torch.nn.utils.skip_init(torch.nn.Linear, hidden, d_target),
    )
    for layer, fan_in in ((network[0], d_source), (network[2], hidden)):
        for parameter in layer.parameters():
            torch.nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
    return network


def _train(
    network: torch.nn.Sequential,
    data: list[Tensor],
    check: list[Tensor],
    epochs: int,
    patience: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
) -> tuple[Mapping[str, Tensor], list[float]]:
    """Adam on the mean squared error; returns copies of the best weights and every validation loss."""
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    losses: list[float] = []
    best: Mapping[str, Tensor] = {}
    with torch.enable_grad():
        for epoch in range(epochs):
            for rows in torch.randperm(len(data[0]), generator=generator).split(batch_size):
                optimiser.zero_grad()
                torch.nn.functional.mse_loss(network(data[0][rows]), data[1][rows]).backward()
                optimiser.step()
            with torch.no_grad():
                losses.append(float(torch.nn.functional.mse_loss(network(check[0]), check[1])))
            if losses[-1] != losses[-1]:
                raise MapError("the autoencoder's training diverged; lower the learning rate.")
            if losses[-1] == min(losses):
                best = {name: value.detach().clone() for name, value in network.state_dict().items()}
            elif epoch - losses.index(min(losses)) >= patience:
                break
    return best, losses
