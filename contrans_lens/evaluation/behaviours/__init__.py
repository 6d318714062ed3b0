"""Behaviours: what a model does, measured item by item under many cells at once."""

from contrans_lens.evaluation.behaviours.answers import PairedAnswers
from contrans_lens.evaluation.behaviours.behaviour import Behaviour, Measurement
from contrans_lens.evaluation.behaviours.bias import BBQBias, StereoSetBias
from contrans_lens.evaluation.behaviours.choice_reading import ChoiceReading, read_choices
from contrans_lens.evaluation.behaviours.choices import Choices, Words
from contrans_lens.evaluation.behaviours.generations import Generations, Judge
from contrans_lens.evaluation.behaviours.neutral import NeutralText
from contrans_lens.evaluation.behaviours.shift import LogitShift

__all__ = [
    "BBQBias",
    "Behaviour",
    "ChoiceReading",
    "Choices",
    "Generations",
    "Judge",
    "LogitShift",
    "Measurement",
    "NeutralText",
    "PairedAnswers",
    "StereoSetBias",
    "Words",
    "read_choices",
]
