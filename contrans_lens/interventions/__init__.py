"""What to do to a residual stream, as data; turned into hooks; steered generation; the audit."""

from contrans_lens.interventions.audit import Audit, Change, Finding
from contrans_lens.interventions.edit import Edit, PassOperation
from contrans_lens.interventions.generation import Generation, generate
from contrans_lens.interventions.intervention import Intervention, load_interventions, save_interventions
from contrans_lens.interventions.positions import (
    ALL,
    CONTINUATION,
    GENERATED,
    PROMPT,
    All,
    Between,
    Continuation,
    FromMarker,
    Generated,
    Positions,
    Prompt,
    positions_from_dict,
    positions_to_dict,
)
from contrans_lens.interventions.steering import SteeringSession, add_rows, steer

__all__ = [
    "ALL",
    "CONTINUATION",
    "GENERATED",
    "PROMPT",
    "All",
    "Audit",
    "Between",
    "Change",
    "Continuation",
    "Edit",
    "Finding",
    "FromMarker",
    "Generated",
    "Generation",
    "Intervention",
    "PassOperation",
    "Positions",
    "Prompt",
    "SteeringSession",
    "add_rows",
    "generate",
    "load_interventions",
    "positions_from_dict",
    "positions_to_dict",
    "save_interventions",
    "steer",
]
