from contrans_lens.rahf.scoring import decisive_controls
from contrans_lens.rahf.verdict import verdict_of
from tests.rahf.made_results import rows, scored


def test_what_rises_above_base_and_controls_aligns():
    verdict = verdict_of(rows())
    assert verdict.word == "aligns"
    assert "by +0.400 [+0.380, +0.420]" in verdict.reason
    assert "above every control by at least +0.370 [+0.350, +0.390]" in verdict.reason


def test_random_directions_count_at_equal_damage():
    assert [row.name for row in decisive_controls(rows())] == ["shuffled 0", "random 0 at equal KL"]
    unequal = tuple(row for row in rows() if row.kind != "random at equal KL")
    assert [row.name for row in decisive_controls(unequal)] == ["shuffled 0", "random 0"]
    verdict = verdict_of(unequal)
    assert verdict.word == "does not align"
    assert "random 0 (by -0.050 [-0.070, -0.030])" in verdict.reason


def test_a_rise_that_a_control_has_too_is_none():
    verdict = verdict_of(rows(shuffled=0.89))
    assert verdict.word == "does not align"
    assert "shuffled 0" in verdict.reason


def test_without_a_rise_controls_do_not_matter():
    verdict = verdict_of(rows(aligned=0.515, shuffled=0.4, equal=0.4))
    assert verdict.word == "does not align"
    assert "not clearly above the base's (+0.015 [-0.005, +0.035])" in verdict.reason


def test_without_controls_nothing_is_decided():
    without = tuple(row for row in rows() if not row.kind.startswith(("random", "shuffled")))
    assert verdict_of(without).word == "undecided"
    assert "shuffled, random" in verdict_of(without).reason
    one = verdict_of((*without, scored("shuffled 0", "shuffled", 0.5)))
    assert one.word == "undecided"
    assert one.reason.endswith("no control of the kind random was run")
