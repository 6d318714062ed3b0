"""Every error that contrans_lens raises on purpose.

A message says what was wrong, what was expected and what to do about it. All of them derive from
:class:`ContransLensError`, so a notebook can catch one type; those that stand for a bad argument are
``ValueError`` too, so ordinary Python habits keep working.
"""


class ContransLensError(Exception):
    """Base class of every error raised on purpose by this package."""


class ModelError(ContransLensError, ValueError):
    """A model cannot be opened, or cannot do what was asked of it."""


class HookPointError(ModelError):
    """A hook point name does not exist in the model, or names a tensor of the wrong kind."""


class FingerprintMismatchError(ContransLensError):
    """An artifact was made on another model, weight processing or tokenizer than the one it is used on."""


class ArtifactError(ContransLensError):
    """A saved artifact is missing, truncated, corrupt, of another kind or schema, or could not be written."""


class TextError(ContransLensError, ValueError):
    """Texts, contrast sets or evaluation items are empty, one-sided, malformed or do not fit the model."""


class CaptureError(ContransLensError):
    """Residuals could not be captured: non-finite values, an unusable position, or too little memory."""


class ConceptError(ContransLensError, ValueError):
    """A concept vector cannot be estimated, refined or combined as asked."""


class MapError(ContransLensError, ValueError):
    """A map between residual streams cannot be fitted or applied: widths, counts or values do not fit."""


class InterventionError(ContransLensError, ValueError):
    """An intervention does not fit the model or the run it is used on."""


class EvaluationError(ContransLensError, ValueError):
    """A score, interval or strength budget cannot be computed from what was given."""


class TradeoffError(ContransLensError, ValueError):
    """A tradeoff curve cannot be swept, fitted or judged from what was given."""


class LayerError(ContransLensError):
    """Probes or similarities that cannot be computed from what was given."""


class PaceError(ContransLensError, ValueError):
    """A concept dictionary, a partition or a sparse decomposition cannot be made or used as asked."""


class RahfError(ContransLensError, ValueError):
    """Preferences cannot be learnt, read as activity, or fitted into an adapter as asked."""


class SelectionError(ContransLensError, ValueError):
    """No layer or strength can be chosen from what was given."""


class TestbedError(ContransLensError):
    """The embedded family is incomplete, or an unknown model or concept of it was asked for."""

    __test__ = False  # the name begins with "Test": pytest must not collect it
