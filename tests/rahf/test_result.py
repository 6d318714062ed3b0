import json
from dataclasses import replace
from pathlib import Path

import pytest

from contrans_lens.errors import ArtifactError
from contrans_lens.rahf.result import RahfResult
from tests.rahf.made_results import norms, result, trials


@pytest.mark.parametrize("residual_norms", [(10.0, 20.0), None])
def test_a_result_comes_back_as_it_was_saved(tmp_path: Path, residual_norms: tuple[float, float] | None):
    made = result(
        tmp_path,
        trials=trials((1.0, 0.8, False), (2.0, 0.95, True), (5.0, 0.9, False)),
        norms=replace(norms(), residual_norms=residual_norms),
    )
    made.save()
    back = RahfResult.load(tmp_path)
    assert back.summary() == made.summary()
    assert (back.rows, back.norms, back.trials, back.curves) == (made.rows, made.norms, made.trials, made.curves)
    assert back.folder == tmp_path
    assert {path.name for path in tmp_path.iterdir()} == {
        "fit.png",
        "norms.png",
        "report.html",
        "result.json",
        "scores.csv",
        "scores.png",
        "tuning.png",
    }


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(ArtifactError, match="does not exist"):
        RahfResult.load(tmp_path)
    (tmp_path / "result.json").write_text('{"schema": "contrans-lens/pace/1"}')
    with pytest.raises(ArtifactError, match="pace"):
        RahfResult.load(tmp_path)
    short = result().summary()
    del short["norms"]
    (tmp_path / "result.json").write_text(json.dumps(short))
    with pytest.raises(ArtifactError, match="norms"):
        RahfResult.load(tmp_path)


def test_costs_are_summed_over_steps():
    total = result().total_cost
    assert (total.seconds, total.n_steps, total.n_tokens, total.block_tokens) == (11.0, 20, 1200, 6600)


def test_the_table_has_a_line_for_each_row():
    table = result().table()
    assert list(table.index)[:4] == ["base", "prompt", "scit", "aligned"]
    assert table.loc["aligned", "probability"] == 0.9
    assert table.loc["aligned", "change_low"] == pytest.approx(0.38)
    assert table.loc["random 0", "kl"] == 0.5
    assert table["kl"].isna().to_dict()["prompt"]


def test_text_names_numbers_and_verdict():
    text = str(result())
    assert "verdict: aligns" in text
    assert "0.900   [0.880, 0.920]" in text
    assert repr(result()) == "RahfResult(tiny <b>model</b>, scit on good & kind: aligns)"
    assert result().row("scit").kind == "step 1"
    with pytest.raises(KeyError, match="aligned"):
        result().row("nothing")
