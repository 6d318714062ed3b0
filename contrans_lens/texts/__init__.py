"""Texts: contrast sets, preferences, choice items, benchmarks, splits, readers, templates, chats, built-in concepts."""

from contrans_lens.texts.bbq import BBQ, BBQRoles, BBQScores, bbq_bias, read_bbq
from contrans_lens.texts.benchmarks import QUESTION_TEMPLATE, Benchmark, Problem
from contrans_lens.texts.chats import chat_template, without_bos
from contrans_lens.texts.choices import (
    LETTERED_TEMPLATE,
    ChoiceItem,
    choice_items_from_pairs,
    lettered,
    pairs_from_choice_items,
    read_choice_items,
    shuffled,
    with_examples,
    with_prefix,
    word_items,
)
from contrans_lens.texts.contrast_sets import ContrastSet, ContrastSplits
from contrans_lens.texts.cuts import cut_before, cut_texts
from contrans_lens.texts.generic import generic_texts
from contrans_lens.texts.instructions import GENERAL_INSTRUCTIONS, Instructions
from contrans_lens.texts.items import EvaluationItem, PromptCue
from contrans_lens.texts.library import builtin_concepts, load_concept
from contrans_lens.texts.mmlu import read_mmlu
from contrans_lens.texts.preference_files import preferences_from_rows, read_preferences
from contrans_lens.texts.preference_sets import PreferenceSet, PreferenceSplits
from contrans_lens.texts.preferences import Preference, UnusablePair
from contrans_lens.texts.read_report import ReadReport
from contrans_lens.texts.readers import (
    Columns,
    contrast_set_from_dataset,
    contrast_set_from_rows,
    read_contrast_set,
    read_texts,
    texts_from_dataset,
)
from contrans_lens.texts.repe import EMOTIONS, read_repe_emotions
from contrans_lens.texts.stereoset import StereoSetScores, read_stereoset, stereoset_scores, stereotype_pairs
from contrans_lens.texts.stimuli import ConceptStimuli, read_stimuli, write_stimuli
from contrans_lens.texts.stimuli_frames import frame_stimuli
from contrans_lens.texts.templates import EMOTION_TEMPLATE, Template, contrast_from_templates
from contrans_lens.texts.truthfulqa import TRUTHFULQA_TEMPLATE, read_truthfulqa

__all__ = [
    "BBQ",
    "EMOTIONS",
    "EMOTION_TEMPLATE",
    "GENERAL_INSTRUCTIONS",
    "LETTERED_TEMPLATE",
    "QUESTION_TEMPLATE",
    "TRUTHFULQA_TEMPLATE",
    "BBQRoles",
    "BBQScores",
    "Benchmark",
    "ChoiceItem",
    "Columns",
    "ConceptStimuli",
    "ContrastSet",
    "ContrastSplits",
    "EvaluationItem",
    "Instructions",
    "Preference",
    "PreferenceSet",
    "PreferenceSplits",
    "Problem",
    "PromptCue",
    "ReadReport",
    "StereoSetScores",
    "Template",
    "UnusablePair",
    "bbq_bias",
    "builtin_concepts",
    "chat_template",
    "choice_items_from_pairs",
    "contrast_from_templates",
    "contrast_set_from_dataset",
    "contrast_set_from_rows",
    "cut_before",
    "cut_texts",
    "frame_stimuli",
    "generic_texts",
    "lettered",
    "load_concept",
    "pairs_from_choice_items",
    "preferences_from_rows",
    "read_bbq",
    "read_choice_items",
    "read_contrast_set",
    "read_mmlu",
    "read_preferences",
    "read_repe_emotions",
    "read_stereoset",
    "read_stimuli",
    "read_texts",
    "read_truthfulqa",
    "shuffled",
    "stereoset_scores",
    "stereotype_pairs",
    "texts_from_dataset",
    "with_examples",
    "with_prefix",
    "without_bos",
    "word_items",
    "write_stimuli",
]
