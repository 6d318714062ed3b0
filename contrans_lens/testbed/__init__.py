"""The embedded family: a seeded world, its training recipe, and the small trained models."""

from contrans_lens.testbed.capability import capability_items, knowledge_items
from contrans_lens.testbed.concepts import concept, concept_names, map_texts, neutral_texts
from contrans_lens.testbed.family import model_names, model_path
from contrans_lens.testbed.preferences import SCIT_INSTRUCTIONS, preference_set
from contrans_lens.testbed.stimuli import STIMULI_TEMPLATE, concept_stimuli

__all__ = [
    "SCIT_INSTRUCTIONS",
    "STIMULI_TEMPLATE",
    "capability_items",
    "concept",
    "concept_names",
    "concept_stimuli",
    "knowledge_items",
    "map_texts",
    "model_names",
    "model_path",
    "neutral_texts",
    "preference_set",
]
