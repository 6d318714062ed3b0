import json
from pathlib import Path

import pytest

from contrans_lens.pipeline.demo import HEADLINE, PAIRS, concepts_of, run_demo, thinned
from contrans_lens.testbed import concept, concept_names
from contrans_lens.texts import ContrastSet


def test_scopes_grow():
    for pair in PAIRS:
        quick, default, full = (set(concepts_of(pair, scope)) for scope in ("quick", "default", "full"))
        assert quick <= default <= full == set(concept_names())
        assert "honesty" in default
    assert concepts_of(HEADLINE, "quick") == ("honesty",)


@pytest.mark.parametrize("n", [5, 48, 10_000])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_thinning_spreads_over_the_items(n: int, part: str):
    full = ContrastSet.from_dict(concept("kindness"))
    thin = thinned(full, n)
    before, after = ([i for i in s.evaluation if i.split == part] for s in (full, thin))
    assert len(after) == min(n, len(before))
    assert set(after) <= set(before)
    assert len({item.group for item in after}) >= min(n, len({item.group for item in before})) // 2


def test_the_quick_demo_transplants_honesty(tmp_path: Path):
    summary = run_demo(tmp_path, scope="quick", command="contrans-lens demo --scope quick")
    assert json.loads((tmp_path / "result.json").read_text()) == summary
    assert len(summary["runs"]) == 1
    assert summary["concept"] == "honesty"
    assert summary["verdict"] == "transfers"
    rows = {row["name"]: row for row in summary["rows"]}
    assert rows["transplanted"]["effect_ci"][0] > 0.3
    assert summary["recovered_share"]["ci"][0] > 0.9
    for name in ("random", "random_covariance", "random_source", "shuffled_map"):
        assert len(rows[name]["draws"]) >= 20
        assert abs(rows[name]["effect"]) < 0.25 * rows["transplanted"]["effect"]
    assert abs(rows["last_layer"]["effect"]) < 0.05
    assert (tmp_path / "index.html").exists()
    assert (tmp_path / "gpt2-source-to-gpt2-target" / "honesty" / "report.html").exists()
