"""Texts: contrast sets, splits, readers, templates, chat templates, generic corpora, built-in concepts."""

from contrans_lens.texts.chats import chat_template, without_bos
from contrans_lens.texts.contrast_sets import ContrastSet, ContrastSplits
from contrans_lens.texts.cuts import cut_before, cut_texts
from contrans_lens.texts.generic import generic_texts
from contrans_lens.texts.items import EvaluationItem, PromptCue
from contrans_lens.texts.library import builtin_concepts, load_concept
from contrans_lens.texts.readers import (
    Columns,
    contrast_set_from_dataset,
    contrast_set_from_rows,
    read_contrast_set,
    read_texts,
    texts_from_dataset,
)
from contrans_lens.texts.repe import EMOTIONS, read_repe_emotions
from contrans_lens.texts.templates import EMOTION_TEMPLATE, Template, contrast_from_templates

__all__ = [
    "EMOTIONS",
    "EMOTION_TEMPLATE",
    "Columns",
    "ContrastSet",
    "ContrastSplits",
    "EvaluationItem",
    "PromptCue",
    "Template",
    "builtin_concepts",
    "chat_template",
    "contrast_from_templates",
    "contrast_set_from_dataset",
    "contrast_set_from_rows",
    "cut_before",
    "cut_texts",
    "generic_texts",
    "load_concept",
    "read_contrast_set",
    "read_repe_emotions",
    "read_texts",
    "texts_from_dataset",
    "without_bos",
]
