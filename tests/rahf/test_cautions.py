from dataclasses import replace
from typing import Any

import pytest

from contrans_lens.rahf.cautions import cut_caution, weak_points
from contrans_lens.rahf.settings import AlignSettings
from tests.rahf.made_results import norms, result, rows, scored, span, trials


def changed(name: str, **other: Any) -> tuple[Any, ...]:
    return tuple(replace(row, **other) if row.name == name else row for row in rows())


def test_a_run_without_faults_gives_no_caution():
    assert weak_points(result()) == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"settings": AlignSettings(where="answer").to_dict(), "norms": norms(2)}, "the longest has 2"),
        ({"settings": AlignSettings(where="answer").to_dict()}, "as in the paper"),
        ({"rows": changed("aligned", probability=span(0.9, n_groups=4))}, "of 4 groups only"),
        ({"rows": changed("aligned", probability=span(0.9, n=9, n_groups=4))}, "Only 9 pairs of 4 groups"),
        ({"preferences": {**result().preferences, "left_out": 3}}, "3 test pairs were not scored: they are"),
        ({"preferences": {**result().preferences, "left_out": 1}}, "1 test pair was not scored: it is"),
        ({"preferences": {**result().preferences, "left_out": 41}}, "More than half of the test pairs, 41 of 81"),
        (
            {"preferences": {**result().preferences, "cut": {"step 2": {"prompts": 2, "answers": 1, "rows": 80}}}},
            "step 2: Of 80 rows, 2 prompts lost their first tokens and 1 answer lost its last tokens",
        ),
        ({"rows": rows()[:4]}, "No controls were run"),
        ({"rows": changed("shuffled 0", change=span(-0.2))}, "shuffled 0 moves P(chosen) too, by -0.200"),
        ({"rows": changed("shuffled 0", change=span(-0.2))}, "other reasons than the preference"),
        ({"rows": changed("random 0 at equal KL", change=span(0.2))}, "to a side that chance decides"),
        (
            {"rows": changed("prompt", lead=span(-0.435))},
            "does more: the aligned model is behind it by 0.435 [0.415, 0.4",
        ),
        (
            {"rows": changed("prompt", lead=span(-0.01))},
            "does as much, as far as these pairs tell: the aligned model is b",
        ),
        (
            {"rows": changed("prompt", lead=span(0.01))},
            "ahead by 0.010, and the interval of the difference [-0.010, +0.0",
        ),
        ({"rows": changed("aligned", matched=None)}, "Too few scored pairs"),
        ({"rows": changed("aligned", matched=span(0.5, n=12))}, "the rise may be one of length"),
        ({"relative_error": 0.8, "validation_relative_error": 0.8}, "left 80% of the way"),
        ({"relative_error": 0.6, "validation_relative_error": 1.2}, "than the base: it misses 120% of the way there"),
        (
            {"relative_error": 1.03, "validation_relative_error": 1.4},
            "no nearer to its targets than the base: it has left 1",
        ),
        ({"relative_error": 0.996, "validation_relative_error": 0.99}, "no nearer to its targets than the base"),
        ({"validation_relative_error": 0.6}, "by heart"),
        ({"trials": trials((1.0, 0.8, False), (2.0, 0.95, True))}, "at their end; larger ones may be better"),
        ({"trials": trials((2.0, 0.95, True), (5.0, 0.8, False))}, "at their end; smaller ones may be better"),
        ({"rows": changed("aligned", damage=None)}, "Damage was not measured"),
        ({"rows": changed("aligned", damage={"kl": 0.2})}, "0.200 nats per token away"),
    ],
)
def test_each_weak_point_is_said_where_it_occurs(other: dict[str, Any], words: str):
    [note] = weak_points(result(**other))
    assert words in note


def test_controls_that_hardly_move_are_passed_over():
    # An interval that leaves zero out says that something was moved, not that it was much.
    assert weak_points(result(rows=changed("shuffled 0", change=span(0.049, 0.005)))) == []
    # Nor is anything said of -0.000 where the aligned model has not moved either.
    still = replace(scored("aligned", "aligned", 0.5), change=span(-0.0002, 0.0001))
    nothing = tuple(
        replace(row, change=span(-0.0003, 0.0001)) if "random" in row.kind or row.kind == "shuffled" else row
        for row in rows()
    )
    assert weak_points(result(rows=tuple(still if row.kind == "aligned" else row for row in nothing))) == []


def test_words_that_do_no_less_by_nothing_are_passed_over():
    for lead in (span(0.0, 0.0001), span(-0.0001, 0.0001), span(-0.0004, 0.0003)):
        assert weak_points(result(rows=changed("prompt", lead=lead))) == []


def test_without_a_rise_none_is_one_of_length():
    fallen = {"change": span(-0.3), "matched": span(0.2, n=12)}
    assert weak_points(result(rows=changed("aligned", **fallen))) == []
    assert weak_points(result(rows=changed("aligned", **{**fallen, "matched": None}))) == []


def test_an_alpha_between_others_is_no_end():
    tried = trials((1.0, 0.8, False), (2.0, 0.95, True), (5.0, 0.9, False))
    assert weak_points(result(trials=tried)) == []


@pytest.mark.parametrize(
    "tried",
    [
        # The cheapest of equals is the lowest by the rule, whether another is the best by a hair or it is itself.
        trials((2.0, 0.94, True), (5.0, 0.95, False)),
        trials((2.0, 0.95, True), (5.0, 0.94, False)),
        # Of equals, the highest may cost least; it is not the best.
        trials((1.0, 0.95, False), (2.0, 0.94, True)),
    ],
)
def test_an_end_that_the_rule_has_taken_says_nothing_of_what_is_beyond(tried: tuple[Any, ...]):
    assert weak_points(result(trials=tried)) == []


@pytest.mark.parametrize("change", [span(0.01, 0.3), span(0.015, 0.001)])
def test_alphas_without_effect_are_said_to_have_none(change: Any):
    tried = trials((1.0, 0.94, False), (2.0, 0.95, True))
    [note] = weak_points(result(trials=tried, rows=changed("aligned", change=change)))
    assert note.startswith("No alpha from 1 to 2 had an effect")
    assert f"moved it by {change.value:+.3f}" in note
    # One that is far behind has had an effect.
    moved = trials((1.0, 0.5, False), (2.0, 0.95, True))
    assert all(
        "No alpha" not in each for each in weak_points(result(trials=moved, rows=changed("aligned", change=change)))
    )


@pytest.mark.parametrize(
    ("prompts", "answers", "words"),
    [
        (3, 0, "Of 80 rows, 3 prompts lost their first tokens, because"),
        (0, 1, "Of 80 rows, 1 answer lost its last tokens, because"),
        (1, 2, "Of 80 rows, 1 prompt lost its first tokens and 2 answers lost their last tokens, because"),
    ],
)
def test_what_was_cut_is_counted(prompts: int, answers: int, words: str):
    note = cut_caution(prompts, answers, 80)
    assert note is not None
    assert note.startswith(words)


def test_nothing_is_said_where_nothing_was_cut():
    assert cut_caution(0, 0, 80) is None
