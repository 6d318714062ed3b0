"""Steered models for other programs: as a model of lm-evaluation-harness, and its tasks with and without steering.

The programs are optional and loaded when they are asked for.
"""

from typing import TYPE_CHECKING, Any

from contrans_lens.exports.tasks import evaluate_tasks

if TYPE_CHECKING:
    from contrans_lens.exports.harness import SteeredLM as SteeredLM

__all__ = ["SteeredLM", "evaluate_tasks"]


def __getattr__(name: str) -> Any:
    """Load :class:`~contrans_lens.exports.harness.SteeredLM`, whose base class is lm-evaluation-harness'."""
    if name == "SteeredLM":
        from contrans_lens.exports.harness import SteeredLM

        return SteeredLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
