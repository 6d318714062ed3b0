import re
from dataclasses import replace
from pathlib import Path

import pytest

from contrans_lens.pace.cautions import point_summaries, weak_points
from contrans_lens.pace.partition import partition as judge
from contrans_lens.pace.scorers import SimilarityScorer
from contrans_lens.reports import pace_html, write_pace_report
from tests.reports.pace_runs import FINDINGS, POINTS, UNDESIRABLE, dictionary, finding, partition, run


def test_the_report_holds_texts_concepts_damage_and_reasons_escaped(tmp_path: Path):
    written = write_pace_report(run(), tmp_path)
    assert {path.name for path in written} == {"audit.png", "partition.png", "report.html"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written if path.suffix == ".png")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in (
        "The &lt;script&gt;boy&lt;/script&gt; said:",
        "go &lt;away&gt;",
        "come &amp; stay",
        "&lt;b&gt;harsh&lt;/b&gt;",
        "less &lt;i&gt;unkindness&lt;/i&gt;",
        "unkind &amp; unloved",
        "tiny &amp; &lt;small&gt;",
        "the &lt;task&gt;",
        "contrans-lens pace --task &#39;&lt;x&gt;&#39;",
        "0.0123",
        "[0.0228, 0.0912]",
        "control 0",
    ):
        assert text in page
    assert not re.search("<script|<away|<task|<b>harsh|<small", page)
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # nothing is loaded from elsewhere


def test_the_fragment_has_texts_side_by_side_and_what_was_removed():
    page = pace_html(run())
    assert page.startswith('<div class="pace">')
    header = re.findall(r'<th class="text">(.*?)</th>', page)[:4]
    assert header == ["prompt", "plain", "edited", "control 0"]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in re.findall(r"<tr.*?</tr>", page, re.S)]
    assert ["She said:", "no", "no", "no"] in cells
    assert ["rude", "+2", "2", ""] in cells
    assert ["&lt;b&gt;harsh&lt;/b&gt;", "-1", "1", "1"] in cells
    assert "edited: 1 of 2 texts changed" in page
    assert "control 0: 0 of 2 texts changed" in page
    assert page == run()._repr_html_()


def test_points_are_summed_up_over_their_tokens():
    first, second = point_summaries(run())
    assert (first.hook_point, first.tokens, second.tokens) == (*POINTS[:1], 2, 1)
    assert (first.explained, first.removed) == (pytest.approx(0.75), pytest.approx(0.3))
    assert first.concepts == (("rude", 2.0, 2, 0), ("<b>harsh</b>", -1.0, 1, 1))
    assert second.concepts == ()
    zero = finding(POINTS[0], (), norm=0.0, residual=0.0, removed_norm=0.0)
    assert point_summaries(run([zero]))[0].explained == 0.0


def about(notes: list[str], words: str) -> list[str]:
    return [note for note in notes if words in note]


def test_negative_coefficients_are_named_where_they_occur():
    [note] = about(weak_points(run()), "negative")
    assert "'<b>harsh</b>' (at 1 of 1 tokens)" in note
    assert POINTS[0] in note
    assert POINTS[1] not in note
    assert "rude" not in note
    positive = [replace(each, removed=tuple(one for one in each.removed if one[1] > 0)) for each in FINDINGS]
    assert not about(weak_points(run(positive)), "negative")
    # Who strengthens concepts wants a positive amount put in; nothing is added against his will.
    assert not about(weak_points(run(strength=-1.0)), "negative")


def test_concepts_that_were_found_nowhere_are_named():
    [note] = about(weak_points(run([finding(POINTS[0], (("rude", 1.0),))])), "found nowhere")
    assert "1 of 2" in note
    assert "'<b>harsh</b>'" in note
    assert not about(weak_points(run()), "found nowhere")
    [note] = about(weak_points(run([])), "Nothing was removed")
    assert not about(weak_points(run([])), "found nowhere")


def test_a_partition_from_few_examples_is_told():
    atoms = dictionary()
    few = judge(atoms, "task", SimilarityScorer(["rude"]), most=2)
    assert few.examples == ("rude",)
    [note] = about(weak_points(run(judged=few)), "few examples")
    assert "'rude'" in note
    many = judge(atoms, "task", SimilarityScorer(["rude", "kind", "hat", "cup"], combine="max"), most=4)
    assert len(many.examples) == 4
    assert not about(weak_points(run(judged=many)), "few examples")
    assert partition().examples == ()


def test_a_cut_between_near_scores_is_told():
    [note] = about(weak_points(run(judged=partition((1.0, 0.9, -0.8, 0.895, 0, 0)))), "near scores")
    assert "'$5 bill' (+0.895)" in note
    assert not about(weak_points(run()), "near scores")


def test_little_explained_and_much_removed_are_told():
    said = weak_points(run([finding(POINTS[1], (("rude", 1.0),), residual=8.0, removed_norm=6.0)]))
    assert "36%" in about(said, "less than half")[0]
    assert "60%" in about(said, "half as long")[0]
    assert POINTS[0] not in about(said, "less than half")[0]  # nothing was decomposed there
    assert not about(weak_points(run()), "half")


def test_controls_that_do_as_much_and_missing_damage_are_told():
    [note] = about(weak_points(run(control=("else", "no"))), "at random")
    assert "changed 1 of 2 texts" in note
    assert not about(weak_points(run()), "at random")
    assert not about(weak_points(run(edited=("go <away>", "no"))), "at random")  # neither changed anything
    assert not about(weak_points(run(control=None)), "at random")
    assert about(weak_points(run(damage=False)), "Damage was not measured")
    assert not about(weak_points(run()), "Damage was not measured")
    assert set(UNDESIRABLE) == set(run().partition.undesirable)


def test_a_run_saves_its_page_beside_its_numbers(tmp_path: Path):
    run().save(tmp_path)
    expected = {"report.html", "audit.png", "partition.png", "result.json", "texts.csv", "concepts.csv", "audit.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == {*expected, "partition.json"}
