"""Why is lying harder to remove: opposite atoms left alone, too small a step, or a concept that comes back?

Three things are looked at for every unwanted concept. Does it help to flag the atoms of the opposite meaning too, whose
negative coefficients carry the concept as well, or to overshoot? How much of the difference between the bad and the
good cue is left right after an edit, and how much at the last block, to which the tokens that were not edited
have spoken again? And does the whole difference, added at one block, do it?
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from removal_methods import Choice, Methods
from torch import Tensor

from contrans_lens.evaluation import Cell, scaled
from contrans_lens.evaluation.behaviours import PairedAnswers
from contrans_lens.interventions import CONTINUATION, Intervention, steer
from contrans_lens.pace.removal import Mode
from contrans_lens.pace.solvers.elastic_net import ElasticNet
from contrans_lens.pace.solvers.projection import OrthogonalProjection
from contrans_lens.pace.solvers.solver import Solver
from contrans_lens.residuals import capture

STRENGTHS = (1, 2, 4)
WINDOWS = ((1,), (2,), (1, 2, 3), (0, 1, 2, 3, 4))
PLACES = ((0,), (1,), (2,), (3,), (4,), (0, 1, 2, 3, 4))
N_ITEMS = 40
NET = ElasticNet(0.05)
Numbers = dict[str, Any]


def explain(methods: Mapping[str, Methods]) -> Numbers:
    """All of it, by unwanted concept."""
    return {name: {"flags": flags(each), "left": left(each)} for name, each in methods.items()}


def flags(methods: Methods) -> list[Numbers]:
    """Own atoms flagged, or the opposite's too, at several strengths and windows: behaviour and damage."""
    setup = methods.setup
    asked = setup.asked("test", setup.bad_cue(), most=N_ITEMS)
    own = setup.topic_atoms
    sides = {"own": own, "own and opposite": (*own, *setup.target.topic(setup.unwanted.opposite))}
    rows, cells = [], []
    for blocks in WINDOWS:
        for flagged, names in sides.items():
            cell = methods.cell(Choice(NET.to_dict(), blocks), names)
            for strength in STRENGTHS:
                rows.append({"blocks": list(blocks), "flagged": flagged, "strength": strength})
                cells.append(scaled(cell, strength))
    values = asked.measure(setup.target.model, cells).means().tolist()
    costs = setup.neutral().measure(setup.target.model, cells).means("kl").tolist()
    return [{**row, "value": value, "kl": kl} for row, value, kl in zip(rows, values, costs, strict=True)]


def left(methods: Methods) -> list[Numbers]:
    """What an edit leaves of the difference between the cues, at its last block and at the model's last block."""
    setup = methods.setup
    points = setup.target.dictionary.hook_points
    bad, good = (setup.asked("test", cue, most=N_ITEMS) for cue in (setup.bad_cue(), setup.good_cue()))
    plain, aim = _states(methods, bad, (), points), _states(methods, good, (), points)
    rows = []
    solvers: dict[str, Solver] = {"elastic net 0.05": NET, "projection": OrthogonalProjection()}
    edits: list[tuple[str, Mode, tuple[int, ...], Cell]] = [
        (name, mode, blocks, methods.cell(Choice(solver.to_dict(), blocks), mode=mode))
        for blocks in PLACES
        for name, solver in solvers.items()
        for mode in ("per_prompt", "per_token")
    ]
    for block in range(len(points) - 1):
        away = (aim - plain)[:, block].mean(0)
        whole = Intervention(points[block], away, unit="absolute", positions=CONTINUATION)
        edits.append(("whole difference", "per_prompt", (block,), (whole,)))
    values = bad.measure(setup.target.model, [cell for *_, cell in edits]).means().tolist()
    for (name, mode, blocks, cell), value in zip(edits, values, strict=True):
        edited = _states(methods, bad, cell, points)
        shares = _shares(edited, plain, aim)
        row = {"method": name, "mode": mode, "blocks": list(blocks), "value": value}
        rows.append({**row, "left_here": shares[blocks[-1]], "left_at_end": shares[-1]})
    return rows


def _states(
    methods: Methods, asked: PairedAnswers, cell: Cell, points: Sequence[str]
) -> Float[Tensor, "item layer d_model"]:
    """Residuals at the end of the prompts, under an edit."""
    model = methods.setup.target.model
    with steer(model, cell):
        return capture(model, [item.prompt for item in asked.items], points).tensor().float()


def _shares(
    edited: Float[Tensor, "item layer d_model"],
    plain: Float[Tensor, "item layer d_model"],
    aim: Float[Tensor, "item layer d_model"],
) -> list[float]:
    """By block, how far the edited states lie on the way from the good cue (0) to the bad one (1), along the mean."""
    difference = (plain - aim).mean(0)
    moved = ((edited - aim).mean(0) * difference).sum(1)
    shares: list[float] = (moved / difference.square().sum(1)).tolist()
    return shares
