"""A fitted adapter: what is in its folder, and how it is opened."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from contrans_lens.errors import ArtifactError, ContransLensError
from contrans_lens.models import Fingerprint
from contrans_lens.models.plain import PlainModel, open_plain
from contrans_lens.rahf.losses import ActivityLoss
from contrans_lens.rahf.tokens import Where
from contrans_lens.rahf.training import Cost, LossCurve, TrainingRecord
from contrans_lens.rahf.training_run import read_manifest

KIND = "rahf_fit"


@dataclass(frozen=True)
class FittedAdapter:
    """A fitted adapter: a standard ``peft`` folder with ``rahf.json`` beside the weights."""

    folder: Path
    """What ``peft.PeftModel.from_pretrained`` opens on the base."""
    base: str
    """Folder or hub name of the base."""
    hook_points: tuple[str, ...]
    """The layers that were fitted; only blocks below the last of them have an adapter."""
    where: Where
    """Which positions were fitted."""
    alpha: float
    """How many times v the residual stream was to move."""
    loss: ActivityLoss
    """What was made small."""
    relative_error: float
    """``mean ||A_LoRA - target|| / mean ||alpha v||`` over all rows that were fitted, after training, without dropout:
    1 is the base, 0 a perfect fit."""
    validation_relative_error: float | None
    """The same over the rows that were held out."""
    n_rows: int
    """Rows that were fitted."""
    n_read: int
    """Tokens of theirs that were fitted."""
    record: TrainingRecord
    """Curves and cost."""
    fingerprint: Fingerprint | None
    """The base's, where it was looked at."""
    settings: Mapping[str, Any]
    """Settings of the adapter and of the training, and the dtype of the base's weights."""

    @property
    def curve(self) -> LossCurve:
        """``loss``, and ``relative_error`` as a column, over the updates."""
        return self.record.curve

    @property
    def validation_curve(self) -> LossCurve | None:
        """The same over the held-out rows: before the first update, at checkpoints and at the end."""
        return self.record.validation_curve

    @property
    def cost(self) -> Cost:
        """What the fit took; where the base was read once, that pass is in it."""
        return self.record.cost

    def open(
        self,
        base: str | Path | None = None,
        *,
        merge: bool = True,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
    ) -> PlainModel:
        """The whole base with this adapter, as a plain model.

        Args:
            base: where the base is now; None: where it was.
            merge: add the adapter to the weights, which gives the same function without its cost.
            dtype: of the weights.
            device: where it goes; CUDA if there is one and None is given, else the CPU.

        Raises:
            ModelError: the base cannot be read.
        """
        from peft import PeftModel

        plain = open_plain(base or self.base, dtype=dtype, device=device)
        with warnings.catch_warnings():
            # peft asks transformers for what has been renamed there.
            warnings.filterwarnings("ignore", category=FutureWarning)
            model = PeftModel.from_pretrained(plain.model, str(self.folder)).eval()
        return replace(plain, model=model.merge_and_unload() if merge else model)

    def to_dict(self) -> dict[str, Any]:
        """All but the folder, as plain JSON values."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "folder"}
        own = None if self.fingerprint is None else self.fingerprint.to_dict()
        return values | {
            "hook_points": list(self.hook_points),
            "record": self.record.to_dict(),
            "fingerprint": own,
            "settings": dict(self.settings),
        }

    @classmethod
    def load(cls, folder: str | Path) -> "FittedAdapter":
        """Read what :func:`~contrans_lens.rahf.fit.fit_adapter` left in a folder; no weights are read.

        Raises:
            ArtifactError: no finished fit is there, or it is damaged.
        """
        folder = Path(folder)
        body = read_manifest(folder, KIND)["body"]
        if not (folder / "adapter_config.json").exists():
            raise ArtifactError(f"{folder} has no adapter_config.json beside its manifest; fit the adapter again.")
        try:
            own = body["fingerprint"]
            parts = {
                "hook_points": tuple(body["hook_points"]),
                "record": TrainingRecord.from_dict(body["record"]),
                "fingerprint": None if own is None else Fingerprint.from_dict(own),
            }
            return cls(folder=folder, **(body | parts))
        except (KeyError, TypeError, AttributeError, ContransLensError) as error:
            raise ArtifactError(f"the manifest of {folder} is not that of a fit: {error!r}; fit again.") from error
