from pathlib import Path

import pytest

from contrans_lens.artifacts import read_json
from contrans_lens.errors import ArtifactError
from contrans_lens.rahf.claim import claim, claimed_plan, texts_hash

KEY = {"base": "a", "settings": {"steps": 3, "points": ("x", "y")}, "alpha": None}


def test_a_claimed_folder_takes_the_same_run_and_no_other(tmp_path: Path):
    asked = []

    def plan() -> dict[str, list[str]]:
        asked.append(1)
        return {"hook_points": ["x"]}

    claim(tmp_path / "new", KEY, plan)
    written = (tmp_path / "new" / "run.json").read_bytes()
    claim(tmp_path / "new", KEY, plan)
    assert len(asked) == 1
    assert claimed_plan(tmp_path / "new") == {"hook_points": ["x"]}
    other = {**KEY, "settings": {"steps": 4, "points": ("x", "y")}, "alpha": 1.0}
    with pytest.raises(
        ArtifactError, match=r"settings\.steps is 3 there and 4 here; alpha is None there and 1\.0 here"
    ):
        claim(tmp_path / "new", other, plan)
    assert (tmp_path / "new" / "run.json").read_bytes() == written


@pytest.mark.parametrize("name", ["adapter", "result.json", "holiday.jpg"])
def test_folders_of_others_are_refused(tmp_path: Path, name: str):
    (tmp_path / name).mkdir()
    with pytest.raises(ArtifactError, match=f"holds {name}"):
        claim(tmp_path, KEY, dict)
    assert not (tmp_path / "run.json").exists()


def test_a_plan_that_fails_claims_nothing(tmp_path: Path):
    def plan() -> dict[str, str]:
        raise ArtifactError("no")

    with pytest.raises(ArtifactError, match="no"):
        claim(tmp_path / "new", KEY, plan)
    assert not (tmp_path / "new").exists()
    (tmp_path / ".run.json.x.tmp").touch()  # what a kill leaves
    claim(tmp_path, KEY, dict)
    assert read_json(tmp_path / "run.json")["key"]["base"] == "a"


def test_texts_are_told_apart_by_where_they_end():
    assert texts_hash(["ab", "c"]) != texts_hash(["a", "bc"])
    assert texts_hash(["ab", "c"]) == texts_hash(("ab", "c"))
