from dataclasses import replace
from typing import Any

import pytest

from contrans_lens.rahf.cautions import weak_points
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
        ({"preferences": {**result().preferences, "left_out": 3}}, "3 test pairs were not scored"),
        ({"rows": rows()[:4]}, "No controls were run"),
        ({"rows": changed("shuffled 0", change=span(-0.2))}, "shuffled 0 moves P(chosen) too, by -0.200"),
        ({"rows": changed("prompt", lead=span(-0.1))}, "Saying p+ before the prompt does as much"),
        ({"rows": changed("aligned", matched=None)}, "Too few scored pairs"),
        ({"rows": changed("aligned", matched=span(0.5, n=12))}, "the rise may be one of length"),
        ({"relative_error": 0.8, "validation_relative_error": 0.8}, "left 80% of the way"),
        ({"validation_relative_error": 0.6}, "by heart"),
        ({"trials": trials((1.0, 0.8, False), (2.0, 0.95, True))}, "at the end of those that were tried"),
        ({"rows": changed("aligned", damage=None)}, "Damage was not measured"),
        ({"rows": changed("aligned", damage={"kl": 0.2})}, "0.200 nats per token away"),
    ],
)
def test_each_weak_point_is_said_where_it_occurs(other: dict[str, Any], words: str):
    [note] = weak_points(result(**other))
    assert words in note


def test_controls_that_hardly_move_are_passed_over():
    # An interval that leaves zero out says that something was moved, not that it was much.
    slight = replace(scored("shuffled 0", "shuffled", 0.51), change=span(0.01, 0.005))
    assert weak_points(result(rows=changed("shuffled 0", change=slight.change))) == []


def test_an_alpha_between_others_is_no_end():
    tried = trials((1.0, 0.8, False), (2.0, 0.95, True), (5.0, 0.9, False))
    assert weak_points(result(trials=tried)) == []
