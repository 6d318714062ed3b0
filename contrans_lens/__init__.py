"""Read a concept in one language model, carry it across an affine map, write it into another."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contrans_lens.pipeline import Settings as Settings
    from contrans_lens.pipeline import TransplantResult as TransplantResult
    from contrans_lens.pipeline import transplant as transplant

__version__ = "0.1.0"
__all__ = ["Settings", "TransplantResult", "transplant"]


def __getattr__(name: str) -> Any:
    """Load the pipeline when it is first asked for: most rooms do not need it, and torch takes its time."""
    if name in __all__:
        from contrans_lens import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
