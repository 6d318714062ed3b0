from dataclasses import replace

import pytest

from contrans_lens.pipeline import Row, Share
from contrans_lens.pipeline.verdict import DOES_NOT, IN_PART, TRANSFERS, judge


def row(name: str, effect: float, low: float, **more: object) -> Row:
    base = Row(name, 0.5, (0.4, 0.6), effect, (low, effect + 0.1), 0.0, 0.01, 2.0, 10, 0.4)
    return replace(base, **more)


def rows(native_low: float = 0.5, moved_low: float = 0.4, p_value: float = 1 / 21) -> list[Row]:
    control = row("shuffled_map", 0.0, -0.2, draws=(0.0,) * 20, p_value=p_value)
    return [control, row("native", 0.6, native_low), row("transplanted", 0.55, moved_low)]


@pytest.mark.parametrize(
    ("given", "share_low", "verdict", "word"),
    [
        (rows(), 0.85, TRANSFERS, "85%"),
        (rows(), 0.5, IN_PART, "50%"),
        (rows(), None, IN_PART, "undefined"),
        (rows(native_low=-0.01), 0.9, DOES_NOT, "no ceiling"),
        (rows(moved_low=0.0), 0.9, DOES_NOT, "not above zero"),
        (rows(p_value=2 / 21), 0.9, DOES_NOT, "shuffled_map"),
    ],
)
def test_each_clause_decides(given: list[Row], share_low: float | None, verdict: str, word: str):
    found, reason = judge(given, Share(0.9, (share_low, 1.0)))
    assert found == verdict
    assert word in reason
