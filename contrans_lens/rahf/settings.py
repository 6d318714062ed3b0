"""Settings of a whole run of RAHF, and where the residual stream is read when nothing is said."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any, Literal, get_args

import torch

from contrans_lens.errors import RahfError
from contrans_lens.models import resid_post
from contrans_lens.rahf.losses import ActivityLoss
from contrans_lens.rahf.tokens import Answers, InstructionsByTopic, Where
from contrans_lens.rahf.training import LoraSettings, TrainingSettings, dtype_name
from contrans_lens.texts import Instructions

AlignMethod = Literal["scit", "dual", "cues"]
"""How activity differences come about: ``"scit"`` and ``"dual"`` as in RAHF, ``"cues"`` without step 1: the differences
are those of the base under p+ and p-, which a model that obeys instructions has of its own."""

Keep = Literal["float32", "float16", "bfloat16", "nothing"]
"""How activity differences are kept: on disk in a dtype (half of float32 takes half the space), or not at all. Then
they are computed whenever a fit asks for them, which takes two more passes each time, and the models that they are read
in stay in memory."""

ALPHAS = (0.5, 1.0, 2.0, 5.0)
"""What ``alpha="auto"`` tries."""

_NAMES = {"method": AlignMethod, "loss": ActivityLoss, "where": Where, "answers": Answers, "keep": Keep}
_PAPER_BLOCKS = 32
_PAPER_LAYERS = {"scit": (10, 12, 14, 16, 18), "dual": (10, 12, 14, 16, 18, 20), "cues": (10, 12, 14, 16, 18)}


@dataclass(frozen=True)
class AlignSettings:
    """Everything that decides a run besides model, preferences, instructions and neutral texts.

    Raises:
        RahfError: a value is unknown or out of its range.
    """

    method: AlignMethod = "scit"
    """How activity differences come about."""
    alpha: float | int | Literal["auto"] = 5.0
    """How many times v the residual stream moves, RAHF's 5 by default; ``"auto"``: the best of :data:`ALPHAS` on the
    validation pairs."""
    loss: ActivityLoss = "norm"
    """Of the fit."""
    where: Where = "predicting"
    """At which tokens activities are read and moved."""
    answers: Answers = "chosen"
    """Which answers of the pairs they are read on."""
    hook_points: tuple[str, ...] | None = None
    """Where the residual stream is read; None: :func:`default_hook_points`."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """The adapters of step 1 and of the fit."""
    tuning: TrainingSettings = field(default_factory=TrainingSettings)
    """Training of step 1."""
    fitting: TrainingSettings = field(default_factory=TrainingSettings)
    """Training of the fit. Its limits of tokens are those of the answers that differences are read on, too."""
    epsilon: float | int = 0.2
    """Label smoothing of SCIT's contrastive term."""
    controls: int = 1
    """Runs of each kind of control."""
    keep: Keep = "float32"
    """How activity differences are kept."""
    dtype: torch.dtype = torch.float32
    """Of the weights of all models, float32 or bfloat16. Adapters are trained in float32."""
    seed: int = 0
    """Of the split, both trainings, the controls and the bootstraps."""

    def __post_init__(self) -> None:
        for name, kind in _NAMES.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(map(repr, get_args(kind)))
                raise RahfError(f"{name}={getattr(self, name)!r}; one of {known} was expected.")
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool) and isfinite(self.alpha)
        if self.alpha != "auto" and not (number and self.alpha):
            raise RahfError(f"alpha={self.alpha!r}; a number other than 0 was expected, or 'auto'.")
        if not 0 <= self.epsilon <= 1:
            raise RahfError(f"epsilon={self.epsilon}; a number from 0 to 1 was expected.")
        if self.controls < 0:
            raise RahfError(f"controls={self.controls}; none or more were expected.")
        if self.hook_points is not None and len(set(self.hook_points)) < max(1, len(self.hook_points)):
            raise RahfError(f"hook_points={self.hook_points}; different names, at least one, were expected.")
        dtype_name(self.dtype)
        for name in ("tuning", "fitting"):
            object.__setattr__(self, name, replace(getattr(self, name), seed=self.seed))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        points = None if self.hook_points is None else list(self.hook_points)
        return {**asdict(self), "hook_points": points, "dtype": dtype_name(self.dtype)}


def default_hook_points(n_blocks: int, method: AlignMethod = "scit") -> tuple[str, ...]:
    """The layers of RAHF in a model of another depth: after the same shares of its blocks, each once.

    The paper reads ``hidden_states`` 10, 12, 14, 16, 18 of 32 blocks (Dual: 20, too), which are the outputs of blocks
    9, 11, 13, 15, 17 (19).

    Args:
        n_blocks: depth of the model, 1 or more.
        method: Dual has one layer more.

    Raises:
        RahfError: there are no blocks, or no such method.
    """
    if n_blocks < 1 or method not in _PAPER_LAYERS:
        raise RahfError(
            f"{n_blocks} blocks and method={method!r}; 1 block or more and one of {', '.join(_PAPER_LAYERS)} were "
            "expected."
        )
    after = (max(1, int(layer * n_blocks / _PAPER_BLOCKS + 0.5)) for layer in _PAPER_LAYERS[method])
    return tuple(resid_post(n - 1) for n in dict.fromkeys(after))


def spelled_instructions(instructions: InstructionsByTopic) -> dict[str, Any]:
    """Instructions as plain JSON values, by topic where they differ; an empty topic stands for all."""
    by_topic: Mapping[str, Instructions] = (
        {"": instructions} if isinstance(instructions, Instructions) else instructions
    )
    return {topic: {"positive": each.positive, "negative": each.negative} for topic, each in by_topic.items()}


def checked_neutral(texts: Sequence[str]) -> tuple[str, ...]:
    """Neutral texts as they are measured on: none, or at least two.

    Raises:
        RahfError: there is one.
    """
    if len(texts) == 1:
        raise RahfError("one neutral text gives no interval; give two or more, or none.")
    return tuple(texts)
