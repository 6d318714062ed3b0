import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contrans_lens.errors import ArtifactError, PaceError, TextError
from contrans_lens.pipeline.dictionary_inputs import FRAMES, external_reference, framed_stimuli, stimuli_reference
from contrans_lens.testbed import stimuli
from contrans_lens.texts.stimuli import DEFAULT_TEMPLATE, ConceptStimuli, write_stimuli
from contrans_lens.texts.stimuli_frames import frame_stimuli

POINT = "blocks.1.hook_resid_post"


def test_the_stimuli_of_the_world_stand_alone_unless_a_template_is_given(monkeypatch: pytest.MonkeyPatch):
    world = stimuli_reference("embedded:world")
    assert len(world.concepts) >= 60
    assert world.template == "{stimulus}"
    assert all(len(concept.stimuli) >= 20 for concept in world.concepts)
    monkeypatch.setattr(
        stimuli, "concept_stimuli", lambda seed: [ConceptStimuli(f"seed {seed}", ("A fox ran.", "A goat ran."))]
    )
    reworded = stimuli_reference("embedded:world", "{stimulus}\\nSo", seed=7)
    assert reworded.template == "{stimulus}\nSo"
    assert [each.concept for each in reworded.concepts] == ["seed 7"]
    with pytest.raises(TextError, match="embedded:world"):
        stimuli_reference("embedded:honesty")


def test_a_stimuli_file_has_the_papers_template(tmp_path: Path):
    concepts = [ConceptStimuli("fox", ("A fox ran.", "The fox slept."), "animals")]
    path = write_stimuli(tmp_path / "stimuli.jsonl", concepts)
    found = stimuli_reference(str(path))
    assert (list(found.concepts), found.template) == (concepts, DEFAULT_TEMPLATE)
    assert stimuli_reference(str(path), "{concept}: {stimulus}").template == "{concept}: {stimulus}"
    with pytest.raises(TextError, match="stimulus"):
        stimuli_reference(str(path), "{concept}")
    with pytest.raises(TextError, match="none"):
        stimuli_reference(str(tmp_path / "none.jsonl"))


def test_a_list_of_words_becomes_sentences_of_its_frame(tmp_path: Path):
    (tmp_path / "words.txt").write_text("honesty\n\n  long courage  \n")
    found = framed_stimuli(tmp_path / "words.txt", "quality", n=5, seed=3)
    assert found.concepts == tuple(frame_stimuli(name, "quality", 5, 3) for name in ("honesty", "long courage"))
    assert found.template == DEFAULT_TEMPLATE
    rows = [{"concept": "stealing", "topic": "crime", "frame": "act"}, {"concept": "anger"}]
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mixed = framed_stimuli(tmp_path / "words.jsonl", "emotion", n=4)
    assert mixed.concepts == (frame_stimuli("stealing", "act", 4, topic="crime"), frame_stimuli("anger", "emotion", 4))
    (tmp_path / "words.csv").write_text("concept,topic,frame\nstealing,crime,act\nanger,,emotion\n")
    assert framed_stimuli(tmp_path / "words.csv", None, n=4).concepts == mixed.concepts


@pytest.mark.parametrize(
    ("name", "content", "frame"),
    [
        ("words.txt", "honesty\nHonesty \n", "quality"),
        ("words.txt", "\n\n", "quality"),
        ("words.txt", "honesty\n", None),
        ("words.txt", "honesty\n", "smell"),
        ("words.csv", "word\nhonesty\n", "quality"),
        ("words.jsonl", '{"concept": 3}', "quality"),
        ("words.jsonl", "{", "quality"),
        ("missing.txt", None, "quality"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path: Path, name: str, content: str | None, frame: str | None):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(TextError, match=name):
        framed_stimuli(tmp_path / name, frame)


def test_every_frame_of_the_generator_is_known():
    assert {frame_stimuli("walking", frame, 3).concept for frame in FRAMES} == {"walking"}


def test_foreign_atoms_are_read_as_they_are_named(tmp_path: Path):
    matrix = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    matrix[1] = 0
    np.save(tmp_path / "atoms.npy", matrix)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    given = external_reference(tmp_path / "atoms.npy", tmp_path / "names.txt", [POINT], drop_unusable=True)
    assert given is not None
    found = given.read(None)
    assert (found.names, found.hook_points, found.fingerprint) == (("a", "c"), (POINT,), None)
    with pytest.raises(PaceError, match="'b'"):
        replace(given, drop_unusable=False).read(None)
    with pytest.raises(PaceError, match="names"):
        replace(given, transposed=True).read(None)
    with pytest.raises(ArtifactError):
        replace(given, path=tmp_path / "none.npy").read(None)


def test_foreign_atoms_need_names_and_one_place():
    assert external_reference(None, None, [POINT]) is None
    path = Path("atoms.npy")
    for names, points in ((None, [POINT]), (path, []), (path, [POINT, POINT])):
        with pytest.raises(PaceError, match="--external needs"):
            external_reference(path, names, points)
    for options in ({"tensor": "x"}, {"transposed": False}, {"drop_unusable": True}):
        with pytest.raises(PaceError, match="go with --external"):
            external_reference(None, None, [], **options)
