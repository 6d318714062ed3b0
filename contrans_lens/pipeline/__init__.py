"""The whole path: read, carry, write, measure against controls, judge. In one call, or step by step."""

from contrans_lens.pipeline.bench import Bench, Scores
from contrans_lens.pipeline.choice import Choice, choose
from contrans_lens.pipeline.corpus import Corpus, build_corpus
from contrans_lens.pipeline.layers import LayerSettings, select_layers
from contrans_lens.pipeline.reading import (
    ConceptReading,
    PairReading,
    StateReading,
    fit_pair,
    read_concept,
    read_states,
    split_concept,
)
from contrans_lens.pipeline.result import CurvePoint, Row, Share, TransplantResult
from contrans_lens.pipeline.settings import Settings
from contrans_lens.pipeline.transplant import read_pair, transplant

__all__ = [
    "Bench",
    "Choice",
    "ConceptReading",
    "Corpus",
    "CurvePoint",
    "LayerSettings",
    "PairReading",
    "Row",
    "Scores",
    "Settings",
    "Share",
    "StateReading",
    "TransplantResult",
    "build_corpus",
    "choose",
    "fit_pair",
    "read_concept",
    "read_pair",
    "read_states",
    "select_layers",
    "split_concept",
    "transplant",
]
