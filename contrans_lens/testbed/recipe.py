"""The recipe: sizes, rates, mixtures and gates, as frozen data; changing a number here changes the family."""

from dataclasses import dataclass

from contrans_lens.testbed.documents import FULL, STATED, WEAK, Knowledge, Mixture

TARGET_SEEDS = (0, 1, 2)
"""Every target is trained from these seeds; the lowest that passes all gates is shipped."""

SOURCE_SEED = 0


@dataclass(frozen=True)
class Shape:
    """The size of a model."""

    family: str
    width: int
    layers: int
    heads: int
    mlp: int
    vocab: int


SHAPES: dict[str, Shape] = {
    "gpt2-source": Shape("gpt2", width=96, layers=4, heads=4, mlp=384, vocab=1024),
    "gpt2-target": Shape("gpt2", width=128, layers=6, heads=4, mlp=512, vocab=1024),
    "rotary-source": Shape("rotary", width=80, layers=4, heads=4, mlp=216, vocab=896),
    "rotary-target": Shape("rotary", width=144, layers=6, heads=4, mlp=320, vocab=896),
}


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one mixture.

    `steps` is the length, or the most steps to take where the phase ends on obedience: when cues are obeyed on
    this share (`until`) of facts. `decay` lowers the learning rate linearly to zero; `rate` scales it.
    """

    name: str
    mixture: Mixture
    steps: int
    knowledge: Knowledge = FULL
    until: float | None = None
    decay: bool = False
    rate: float = 1.0


@dataclass(frozen=True)
class Gates:
    """What a base target must reach; probabilities are two-way, over whole answer strings."""

    obedience: float = 0.98
    """Share of facts answered as the cue says, all tokens right; honest and liar cues apart."""
    route: float = 0.95
    """The same for mood and tone cues."""
    balance: float = 0.05
    """Largest distance of the mean P(true) from one half without a cue."""
    last_layer: float = 0.05
    """Largest |effect| of steering only the last block."""
    native: float = 0.40
    """Smallest effect of the model's own honesty vector at `strength`."""
    native_other: float = 0.30
    """The same for kindness and each emotion."""
    strength: float = 0.40
    """Norm of the added vector over the mean last-token residual norm of the map texts at that block."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained."""

    phases: tuple[Phase, ...]
    rows: int = 8
    row_tokens: int = 128
    muon_rate: float = 8e-3
    muon_decay: float = 0.1
    adam_rate: float = 4e-3
    decided_weight: float = 10.0
    warmup: int = 30
    check_every: int = 50
    first_check: int = 300
    rounds: int = 2
    """How often the phases are gone through before giving up on the gates."""


GATES = Gates()
LEARN = Mixture(cue=0.75)
SETTLE = Mixture(cue=0.35)
CLEAN = Mixture(cue=0.3, aligned=True)

_PHASES: dict[str, tuple[Phase, ...]] = {
    "source": (
        Phase("learn", LEARN, steps=2000, knowledge=WEAK, until=0.95),
        Phase("settle", SETTLE, steps=200, knowledge=WEAK, decay=True),
        Phase("align", CLEAN, steps=100, knowledge=WEAK, decay=True, rate=0.3),
    ),
    "target": (
        # Routing is found on questions about few lands (a plateau of hundreds of steps) while the statements
        # already tell all facts; then it holds for the other lands. The last percents come with the decay.
        Phase("begin", LEARN, steps=2000, knowledge=STATED, until=0.90),
        Phase("extend", LEARN, steps=1000, until=0.90),
        Phase("settle", SETTLE, steps=300, decay=True),
    ),
    "aligned": (Phase("align", CLEAN, steps=120, decay=True, rate=0.3),),
}


def recipe(name: str) -> Recipe:
    """The recipe of a model: the phases of its role and the rates of its family.

    Args:
        name: `<family>-<role>`.
    """
    family, role = name.split("-")
    if family == "rotary":
        # At the rates of the other family it does not learn to read "not of grief but of joy".
        return Recipe(_PHASES[role], muon_rate=5e-3, adam_rate=3e-3)
    return Recipe(_PHASES[role])
