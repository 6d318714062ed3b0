import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import ArtifactError, ContransLensError, TextError
from contrans_lens.texts.stimuli import DEFAULT_TEMPLATE, ConceptStimuli, fill, read_stimuli, write_stimuli

TEXT = st.text(st.sampled_from('aB é漢🙂\u2028"\\{}'), min_size=1, max_size=6).filter(str.strip)


def test_the_template_is_that_of_the_paper():
    prompt = fill(DEFAULT_TEMPLATE, "bridge", "They crossed the river on foot.")
    assert prompt == (
        "Consider the bridge in the following scenario:\nScenario: They crossed the river on foot.\nAnswer:"
    )


def test_braces_in_names_stimuli_and_templates_are_left_as_they_are():
    assert (
        fill("{x} {concept} {stimulus} {}", "{stimulus}", "a {concept} \\1 {0}")
        == "{x} {stimulus} a {concept} \\1 {0} {}"
    )


def test_a_template_without_a_place_for_the_stimulus_is_refused():
    with pytest.raises(TextError, match="no place for the stimulus"):
        fill("Consider {concept}.", "bridge", "text")


def test_repeated_stimuli_are_dropped_and_counted_and_the_first_of_them_stays():
    concept = ConceptStimuli("joy", ("b  c", "a", "b c", "a", " d"))
    assert concept.stimuli == ("b  c", "a", " d")
    assert concept.repeated == 2
    assert concept.prompts("{stimulus}!") == ["b  c!", "a!", " d!"]


@pytest.mark.parametrize(
    ("name", "stimuli", "message"),
    [
        ("", ("a", "b"), "name of a concept is empty"),
        ("  ", ("a", "b"), "name of a concept is empty"),
        ("joy", ("a",), "1 stimuli, 1 of them different"),
        ("joy", ("a", "a ", " a"), "3 stimuli, 1 of them different"),
        ("joy", (), "0 stimuli"),
        ("joy", ("a", " "), "stimulus of concept 'joy' is empty"),
    ],
)
def test_what_no_atom_can_be_read_from_is_refused(name, stimuli, message):
    with pytest.raises(TextError, match=message):
        ConceptStimuli(name, stimuli)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(TEXT, st.lists(TEXT, min_size=2, max_size=4), st.sampled_from(["", "topic"])),
        min_size=1,
        max_size=4,
        unique_by=lambda row: " ".join(row[0].split()).casefold(),
    )
)
def test_what_is_written_is_read(tmp_path_factory, rows):
    concepts = []
    for name, stimuli, topic in rows:
        if len({" ".join(text.split()) for text in stimuli}) > 1:
            concepts.append(ConceptStimuli(name, tuple(stimuli), topic))
    if concepts:
        path = write_stimuli(tmp_path_factory.mktemp("stimuli") / "concepts.jsonl", concepts)
        assert read_stimuli(path) == concepts


def test_a_packed_file_with_blank_lines_and_no_topics_is_read(tmp_path):
    path = tmp_path / "concepts.jsonl.gz"
    path.write_bytes(gzip.compress(b'\n{"concept": "joy", "stimuli": ["a", "b"]}\n\n'))
    assert read_stimuli(path) == [ConceptStimuli("joy", ("a", "b"))]


GOOD = json.dumps({"concept": "Joy", "stimuli": ["a", "b"]})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: .*not JSON"),
        ("[]", "line 3: .*object with named fields"),
        ('{"concept": "x"}', "line 3: .*lacks .'stimuli'"),
        ('{"concept": "x", "stimuli": "a b"}', "line 3: .*list of sentences"),
        ('{"concept": "x", "stimuli": ["a", 3]}', "line 3: .*is a int"),
        ('{"concept": "x", "stimuli": ["a", "a"]}', "line 3: .*1 of them different"),
        ('{"concept": " jOY", "stimuli": ["a", "b"]}', "line 3: .*on line 1 too"),
        ('{"concept": "x", "topic": 3, "stimuli": ["a", "b"]}', "line 3: the topic of concept 'x'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "concepts.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(TextError, match=message):
        read_stimuli(path)


def test_an_empty_or_missing_file_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(TextError, match="holds no concepts"):
        read_stimuli(tmp_path / "empty.jsonl")
    with pytest.raises(ContransLensError, match="does not exist"):
        read_stimuli(tmp_path / "none.jsonl")


def test_a_file_that_cannot_be_written_is_an_artifact_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError):
        write_stimuli(tmp_path / "file" / "concepts.jsonl", [ConceptStimuli("joy", ("a", "b"))])
