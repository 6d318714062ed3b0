import json
from dataclasses import replace

import pytest
import torch

from contrans_lens.errors import ArtifactError, FingerprintMismatchError, HookPointError, PaceError
from contrans_lens.models import fingerprint
from contrans_lens.pace import saving
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.duplicates import Dropped
from tests.pace.dictionaries import HOOK_POINTS, made_up_fingerprint, random_dictionary, unit_rows
from tests.tiny_models import D_MODEL, open_tiny


@pytest.fixture(scope="module")
def model():
    return open_tiny("gpt2")


@pytest.fixture
def dictionary():
    return random_dictionary(
        fingerprint=made_up_fingerprint(),
        template="{stimulus}",
        dropped=(Dropped("felines", "concept 3", 0.9995, HOOK_POINTS[1]), Dropped("Concept 0", "concept 0", None)),
        notes={"seed": 3, "turned": {HOOK_POINTS[0]: 4}},
    )


def same(one, other):
    return (
        (one.names, one.topics, one.hook_points, one.fingerprint, one.template, one.dropped, one.notes)
        == (other.names, other.topics, other.hook_points, other.fingerprint, other.template, other.dropped, other.notes)
        and all(torch.equal(one.at(name), other.at(name)) for name in one.hook_points)
        and torch.equal(one.quality, other.quality)
    )


@pytest.mark.parametrize("verify", [True, False])
def test_what_was_saved_is_opened(dictionary, tmp_path, verify):
    opened = ConceptDictionary.open(dictionary.save(tmp_path / "d"), verify=verify)
    assert same(opened, dictionary)
    assert opened.digest == dictionary.digest
    assert (opened.n_atoms, opened.d_model, len(opened)) == (12, 8, 12)


def test_a_dictionary_without_quality_or_model_is_saved_too(tmp_path):
    opened = ConceptDictionary.open(random_dictionary(quality=None).save(tmp_path))
    assert opened.quality is None
    assert opened.fingerprint is None
    assert opened.to_frame()["quality"].isna().all()


def test_atoms_stay_on_disk_until_they_are_read(tmp_path):
    """Numbers that change in the file after it was opened without reading change in the mapped tensor."""
    dictionary = random_dictionary(64, 256, quality=None)
    opened = ConceptDictionary.open(dictionary.save(tmp_path), verify=False)
    path = next(tmp_path.glob("atoms-000-*.safetensors"))
    with path.open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(b"\0\0\0\0")
    assert float(opened.at(HOOK_POINTS[0])[-1, -1]) == 0
    assert torch.equal(opened.at(HOOK_POINTS[1]), dictionary.at(HOOK_POINTS[1]))


def test_one_layer_is_opened_without_the_files_of_the_others(dictionary, tmp_path):
    dictionary.save(tmp_path)
    next(tmp_path.glob("atoms-000-*")).unlink()
    opened = ConceptDictionary.open(tmp_path, hook_points=HOOK_POINTS[1:])
    assert same(opened, dictionary.select(HOOK_POINTS[1:]))
    assert opened.digest == dictionary.select(HOOK_POINTS[1:]).digest
    with pytest.raises(ArtifactError, match="missing although the manifest names it"):
        ConceptDictionary.open(tmp_path)
    with pytest.raises(HookPointError, match=r"no atoms at 'x'; it has blocks\.1"):
        ConceptDictionary.open(tmp_path, hook_points=["x"])


def test_digest_depends_on_names_atoms_and_hook_points_alone(dictionary):
    atoms = {name: rows.clone() for name, rows in dictionary.atoms.items()}
    atoms[HOOK_POINTS[1]][5] = -atoms[HOOK_POINTS[1]][5]
    others = [
        replace(dictionary, atoms=atoms),
        replace(dictionary, names=("renamed", *dictionary.names[1:])),
        dictionary.select(HOOK_POINTS[:1]),
        dictionary.select(HOOK_POINTS[::-1]),
        dictionary.subset(dictionary.names[::-1]),
    ]
    assert len({dictionary.digest, *(other.digest for other in others)}) == 6
    assert replace(dictionary, topics=("",) * 12, notes={}).digest == dictionary.digest


def test_a_digest_that_was_read_is_not_carried_to_other_atoms(dictionary, tmp_path):
    opened = ConceptDictionary.open(dictionary.save(tmp_path))
    assert opened.subset(opened.names[:3]).digest == dictionary.subset(dictionary.names[:3]).digest != opened.digest


def test_saving_over_an_older_dictionary_replaces_it_whole(dictionary, tmp_path):
    dictionary.save(tmp_path)
    other = random_dictionary(5, seed=9, hook_points=HOOK_POINTS[:1])
    other.save(tmp_path)
    assert same(ConceptDictionary.open(tmp_path), other)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_an_opened_dictionary_can_be_saved_where_it_lies(dictionary, tmp_path):
    opened = ConceptDictionary.open(dictionary.save(tmp_path))
    opened.save(tmp_path)
    assert same(ConceptDictionary.open(tmp_path), dictionary)
    opened.subset(opened.names[2:]).save(tmp_path)
    assert ConceptDictionary.open(tmp_path).names == dictionary.names[2:]


@pytest.mark.parametrize("failing", ["safetensors", "manifest", "notes"])
def test_a_save_that_fails_leaves_the_older_one_whole(dictionary, tmp_path, monkeypatch, failing):
    dictionary.save(tmp_path)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    other = random_dictionary(5, seed=9, notes={"x": float("nan")} if failing == "notes" else {})
    if failing == "safetensors":
        monkeypatch.setattr(saving.safetensors.torch, "save_file", fail)
    elif failing == "manifest":
        monkeypatch.setattr("contrans_lens.artifacts.os.fsync", fail)
    with pytest.raises(ArtifactError):
        other.save(tmp_path)
    monkeypatch.undo()
    assert same(ConceptDictionary.open(tmp_path), dictionary)


def edit_manifest(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(kind="concept_vectors"), "'concept_dictionary' was expected"),
        (lambda manifest: manifest.update(schema=99), "schema version 99"),
        (lambda manifest: manifest.pop("layers"), "does not fit"),
        (lambda manifest: manifest["layers"][0].pop("file"), "does not fit"),
        (lambda manifest: manifest["layers"].clear(), "does not fit"),
        (lambda manifest: manifest["body"].pop("topics"), "does not fit"),
        (lambda manifest: manifest["body"]["names"].pop(), "does not fit"),
        (lambda manifest: manifest["body"]["names"].reverse(), "names .* were altered"),
        (lambda manifest: manifest["layers"][1].update(atoms_sha256="0" * 64), "do not match the checksum"),
    ],
)
def test_a_manifest_that_is_not_as_written_is_refused(dictionary, tmp_path, change, message):
    dictionary.save(tmp_path)
    edit_manifest(tmp_path, change)
    with pytest.raises(ArtifactError, match=message):
        ConceptDictionary.open(tmp_path)


@pytest.mark.parametrize("place", ["head", "atoms", "quality"])
def test_one_altered_byte_is_noticed(dictionary, tmp_path, place):
    dictionary.save(tmp_path)
    path = next(tmp_path.glob("atoms-001-*"))
    data = bytearray(path.read_bytes())
    header = int.from_bytes(data[:8], "little")
    start = json.loads(data[8 : 8 + header])[place if place != "head" else "atoms"]["data_offsets"][0]
    data[2 if place == "head" else 8 + header + start] ^= 0x11
    path.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=r"whole safetensors|checksum"):
        ConceptDictionary.open(tmp_path)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_a_truncated_file_is_noticed_even_without_reading_it(dictionary, tmp_path, verify, left):
    dictionary.save(tmp_path)
    path = next(tmp_path.glob("atoms-001-*"))
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ArtifactError, match="Build or save the dictionary again"):
        ConceptDictionary.open(tmp_path, verify=verify)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        ConceptDictionary.open(tmp_path)


def test_atoms_that_were_damaged_before_they_were_saved_are_refused(tmp_path):
    """A writer that skipped the check: the checksum is right and the atoms are not."""
    broken = random_dictionary()
    broken.atoms[HOOK_POINTS[1]][7, 2] = float("nan")
    broken.save(tmp_path)
    with pytest.raises(ArtifactError, match=r"'concept 7' at blocks\.2"):
        ConceptDictionary.open(tmp_path)


def test_another_model_is_refused(model, tmp_path):
    own = random_dictionary(width=D_MODEL, fingerprint=fingerprint(model))
    own.save(tmp_path / "own")
    assert ConceptDictionary.open(tmp_path / "own", model).n_atoms == 12
    with pytest.raises(FingerprintMismatchError, match="concept dictionary belongs to another model"):
        ConceptDictionary.open(tmp_path / "own", open_tiny("llama"))
    with pytest.raises(FingerprintMismatchError, match="records no model"):
        random_dictionary(width=D_MODEL).require_model(model)
    elsewhere = random_dictionary(
        width=D_MODEL, hook_points=["blocks.9.hook_resid_post"], fingerprint=fingerprint(model)
    )
    with pytest.raises(HookPointError):
        elsewhere.require_model(model)


def test_concepts_are_found_by_name(dictionary):
    assert dictionary.index("concept 7") == 7
    with pytest.raises(PaceError, match="Did you mean 'concept 1"):
        dictionary.index("concpt 1")
    with pytest.raises(PaceError, match="dropped as a duplicate of 'concept 3'"):
        dictionary.index("felines")
    with pytest.raises(HookPointError, match=r"no atoms at .blocks\.3"):
        dictionary.at("blocks.3.hook_resid_post")


def test_a_subset_is_in_the_order_asked_for(dictionary):
    names = ("concept 8", "concept 0", "concept 5")
    part = dictionary.subset(names)
    assert part.names == names
    assert part.topics == ("topic 2", "topic 0", "topic 1")
    for hook_point in HOOK_POINTS:
        assert torch.equal(part.at(hook_point), dictionary.at(hook_point)[[8, 0, 5]])
    assert torch.equal(part.quality, dictionary.quality[[8, 0, 5]])
    for names in (["concept 1", "concept 1"], [], ["none"], "concept 1"):
        with pytest.raises(PaceError):
            dictionary.subset(names)


def test_two_dictionaries_become_one_without_duplicates(dictionary):
    other = random_dictionary(5, seed=4, prefix="other", fingerprint=made_up_fingerprint())
    other.atoms[HOOK_POINTS[1]][2] = -dictionary.at(HOOK_POINTS[1])[6]
    other = replace(other, names=(*other.names[:3], " CONCEPT 4", other.names[4]))
    merged = dictionary.merged(other)
    assert merged.names == (*dictionary.names, "other 0", "other 1", "other 4")
    assert [(record.name, record.of) for record in merged.dropped[2:]] == [
        ("other 2", "concept 6"),
        (" CONCEPT 4", "concept 4"),
    ]
    assert torch.equal(
        merged.at(HOOK_POINTS[0]), torch.cat([dictionary.at(HOOK_POINTS[0]), other.at(HOOK_POINTS[0])[[0, 1, 4]]])
    )
    assert torch.equal(merged.quality, torch.cat([dictionary.quality, other.quality[[0, 1, 4]]]))
    assert merged.topics[-1] == "topic 1"
    assert dictionary.merged(dictionary).names == dictionary.names


def test_dictionaries_of_other_models_or_hook_points_do_not_merge(dictionary):
    other = replace(made_up_fingerprint(), weights="7f" * 8)
    with pytest.raises(FingerprintMismatchError):
        dictionary.merged(random_dictionary(prefix="other", fingerprint=other))
    with pytest.raises(PaceError, match="bring them together"):
        dictionary.merged(random_dictionary(prefix="other").select(HOOK_POINTS[:1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("concept 1",) * 12}, "different, non-empty names"),
        ({"names": ("", *(str(n) for n in range(11)))}, "different, non-empty names"),
        ({"topics": ("",)}, "1 topics for 12 atoms"),
        ({"hook_points": HOOK_POINTS[:1]}, "the same, each once"),
        ({"hook_points": (*HOOK_POINTS, HOOK_POINTS[0])}, "the same, each once"),
        ({"atoms": {name: unit_rows(11, 8) for name in HOOK_POINTS}, "quality": None}, "12 names need 12 atoms"),
        ({"atoms": {name: 1.01 * unit_rows(12, 8) for name in HOOK_POINTS}}, "'concept 0' .* has norm 1.01"),
        ({"atoms": {name: torch.zeros(12, 8) for name in HOOK_POINTS}}, "has norm 0"),
        ({"quality": torch.ones(12, 3)}, "the quality has shape"),
    ],
)
def test_parts_that_do_not_fit_are_refused(dictionary, change, message):
    with pytest.raises(PaceError, match=message):
        replace(dictionary, **change)


def test_the_summary_says_what_matters(dictionary):
    for shown in (str(dictionary), repr(dictionary), dictionary._repr_html_()):
        for word in ("12", "2, blocks.1.hook_resid_post to blocks.2", "made up"):
            assert word in shown
        assert len(shown) < 1000
    frame = dictionary.to_frame()
    assert list(frame.columns) == ["name", "topic", "quality"]
    assert frame["quality"][0] == pytest.approx(float(dictionary.quality[0].mean()))
    assert "<b>" not in replace(dictionary, fingerprint=made_up_fingerprint(name="<b>"))._repr_html_()
