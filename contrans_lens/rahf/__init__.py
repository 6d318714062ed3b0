"""RAHF: align a model by matching the activity that preferences call up (arXiv 2312.15997).

Step 1, :func:`fine_tune`, makes models that feel the preference. Step 2, :func:`capture_differences`, reads how their
activity differs at every token of an answer. Step 3, :func:`fit_adapter`, fits a LoRA of the base that moves its
residual stream by as much. :func:`align` does all three and scores the result beside its controls;
:func:`carry_differences` brings activity from one model to another.
"""

from contrans_lens.rahf.align import align
from contrans_lens.rahf.contrasts import DualContrast, ScitContrast
from contrans_lens.rahf.controls import constant, negated, random_directions, scaled, shuffled
from contrans_lens.rahf.difference_store import ActivityDifferences
from contrans_lens.rahf.differences import StreamedDifferences, capture_differences, stream_differences
from contrans_lens.rahf.finetuning import FineTuned, fine_tune
from contrans_lens.rahf.fit import fit_adapter
from contrans_lens.rahf.fitted import FittedAdapter
from contrans_lens.rahf.norms import DifferenceNorms
from contrans_lens.rahf.oracle import kl_to_oracle, oracle_logits
from contrans_lens.rahf.protocol import Differences
from contrans_lens.rahf.result import RahfResult
from contrans_lens.rahf.settings import default_hook_points
from contrans_lens.rahf.tokens import AnswerRow, tokenize_answers
from contrans_lens.rahf.training import Cost, LoraSettings, LossCurve, TrainingSettings
from contrans_lens.rahf.transfer import carry_differences, match_norms
from contrans_lens.rahf.transfer_maps import fit_maps, proportional_points, shuffled_maps

__all__ = [
    "ActivityDifferences",
    "AnswerRow",
    "Cost",
    "DifferenceNorms",
    "Differences",
    "DualContrast",
    "FineTuned",
    "FittedAdapter",
    "LoraSettings",
    "LossCurve",
    "RahfResult",
    "ScitContrast",
    "StreamedDifferences",
    "TrainingSettings",
    "align",
    "capture_differences",
    "carry_differences",
    "constant",
    "default_hook_points",
    "fine_tune",
    "fit_adapter",
    "fit_maps",
    "kl_to_oracle",
    "match_norms",
    "negated",
    "oracle_logits",
    "proportional_points",
    "random_directions",
    "scaled",
    "shuffled",
    "shuffled_maps",
    "stream_differences",
    "tokenize_answers",
]
