import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from contrans_lens.errors import ArtifactError, FingerprintMismatchError, HookPointError, PaceError, TextError
from contrans_lens.models import fingerprint
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.external import read_external
from tests.pace.dictionaries import made_up_fingerprint
from tests.tiny_models import D_MODEL, open_tiny

HOOK = "blocks.1.hook_resid_post"
NAMES = [f"c{number}" for number in range(7)]


def matrix(n=7, width=5, seed=0):
    return (3 + 20 * np.random.default_rng(seed).random((n, 1))) * np.random.default_rng(seed).standard_normal(
        (n, width)
    )


def write(path, values):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({"d": torch.from_numpy(np.ascontiguousarray(values))}, path)
    elif path.suffix == ".npz":
        np.savez(path, d=values)
    else:
        np.save(path, values)
    return path


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", ">f4"])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_every_form_reads_the_same(tmp_path, suffix, columns, dtype):
    values = matrix().astype(dtype)
    if dtype == ">f4" and suffix == ".safetensors":
        values = values.astype("float32")
    path = write(tmp_path / f"d{suffix}", values.T if columns else values)
    found = read_external(path, NAMES, HOOK)
    assert found.names == tuple(NAMES)
    assert found.hook_points == (HOOK,)
    np.testing.assert_allclose(found.at(HOOK).numpy(), unit(values.astype("float64")), atol=1e-6)
    assert found.at(HOOK).dtype == torch.float32


def test_bfloat16_is_read(tmp_path):
    values = torch.from_numpy(matrix()).to(torch.bfloat16)
    safetensors.torch.save_file({"d": values}, tmp_path / "d.safetensors")
    found = read_external(tmp_path / "d.safetensors", NAMES, HOOK)
    np.testing.assert_allclose(found.at(HOOK).numpy(), unit(values.double().numpy()), atol=1e-6)


def test_more_atoms_than_are_read_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("contrans_lens.pace.external._BLOCK", 3)
    for values in (matrix(), matrix().T):
        found = read_external(write(tmp_path / "d.npy", values), NAMES, HOOK)
        np.testing.assert_allclose(found.at(HOOK).numpy(), unit(matrix()), atol=1e-6)


def test_a_square_matrix_must_be_told(tmp_path):
    values = matrix(5, 5)
    path = write(tmp_path / "d.npy", values)
    with pytest.raises(PaceError, match=r"square.*transposed=False"):
        read_external(path, NAMES[:5], HOOK)
    for transposed, expected in ((False, values), (True, values.T)):
        found = read_external(path, NAMES[:5], HOOK, transposed=transposed)
        np.testing.assert_allclose(found.at(HOOK).numpy(), unit(expected), atol=1e-6)


def test_names_that_fit_neither_side_are_refused(tmp_path):
    path = write(tmp_path / "d.npy", matrix())
    with pytest.raises(PaceError, match=r"shape \[7, 5\] and there are 6 names"):
        read_external(path, NAMES[:6], HOOK)
    with pytest.raises(PaceError, match="7 names"):
        read_external(path, NAMES, HOOK, transposed=True)


@pytest.mark.parametrize(
    ("file", "text", "topic"),
    [
        ("n.txt", "\n".join(NAMES) + "\n\n", ""),
        ("n.json", json.dumps(NAMES), ""),
        ("n.json", json.dumps([{"concept": name, "topic": "t"} for name in NAMES]), "t"),
        ("n.jsonl", "\n".join(json.dumps({"concept": name, "topic": "t", "more": 1}) for name in NAMES), "t"),
        ("n.csv", "topic,concept\n" + "\n".join(f"t,{name}" for name in NAMES), "t"),
        ("n.csv", "concept\n" + "\n".join(NAMES), ""),
    ],
)
def test_names_are_read_from_files(tmp_path, file, text, topic):
    (tmp_path / file).write_text(text)
    found = read_external(write(tmp_path / "d.npy", matrix()), tmp_path / file, HOOK)
    assert found.names == tuple(NAMES)
    assert found.topics == (topic,) * 7


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("n.txt", "a\n\nb", "row 2"),
        ("n.json", '{"a": 1}', "a list was expected"),
        ("n.json", '["a", 3]', "row 2"),
        ("n.jsonl", '{"name": "a"}', "row 1"),
        ("n.csv", "name\na", "row 1"),
        ("n.xml", "a", "not a file of names"),
    ],
)
def test_bad_names_are_refused(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(TextError, match=message):
        read_external(write(tmp_path / "d.npy", matrix()), tmp_path / file, HOOK)


def test_atoms_without_a_direction_are_named_and_refused_or_dropped(tmp_path):
    values = matrix()
    values[1], values[3, 2], values[5, 0] = 0, np.nan, np.inf
    path = write(tmp_path / "d.npy", values)
    with pytest.raises(PaceError, match=r"3 atoms .* 'c1', 'c3', 'c5'"):
        read_external(path, NAMES, HOOK)
    found = read_external(path, NAMES, HOOK, unusable="drop")
    assert found.names == ("c0", "c2", "c4", "c6")
    assert found.notes["unusable"] == ["c1", "c3", "c5"]
    np.testing.assert_allclose(found.at(HOOK).numpy(), unit(values[[0, 2, 4, 6]]), atol=1e-6)
    with pytest.raises(PaceError, match="no atom"):
        read_external(write(tmp_path / "z.npy", np.zeros((7, 5))), NAMES, HOOK, unusable="drop")


def test_duplicates_are_dropped_and_named(tmp_path):
    values = matrix()
    values[4] = -7 * values[2]
    found = read_external(write(tmp_path / "d.npy", values), [*NAMES[:6], "C1 "], HOOK)
    assert found.names == ("c0", "c1", "c2", "c3", "c5")
    assert [(record.name, record.of) for record in found.dropped] == [("c4", "c2"), ("C1", "c1")]
    assert found.dropped[0].cosine == pytest.approx(-1)


def test_one_of_several_tensors_must_be_chosen(tmp_path):
    first, second = (torch.from_numpy(matrix(seed=seed)) for seed in (1, 2))
    safetensors.torch.save_file({"a": first, "b": second}, tmp_path / "d.safetensors")
    np.savez(tmp_path / "d.npz", a=first, b=second)
    for path in (tmp_path / "d.safetensors", tmp_path / "d.npz"):
        np.testing.assert_allclose(
            read_external(path, NAMES, HOOK, tensor="b").at(HOOK).numpy(), unit(second.numpy()), atol=1e-6
        )
        with pytest.raises(PaceError, match="'a', 'b'; say which"):
            read_external(path, NAMES, HOOK)
        with pytest.raises(PaceError, match="'c' is not among them"):
            read_external(path, NAMES, HOOK, tensor="c")


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def test_pickles_are_never_read(tmp_path):
    for suffix in (".pt", ".pkl", ".bin"):
        (tmp_path / f"d{suffix}").write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(ArtifactError, match="weights_only=True"):
            read_external(tmp_path / f"d{suffix}", NAMES, HOOK)
    (tmp_path / "d.npy").write_bytes(pickle.dumps(Bomb()))
    np.save(tmp_path / "o.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    for name in ("d.npy", "o.npy"):
        with pytest.raises(ArtifactError, match="cannot be read"):
            read_external(tmp_path / name, NAMES, HOOK)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_truncated_missing_and_odd_files_are_refused(tmp_path, suffix):
    path = write(tmp_path / f"d{suffix}", matrix())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match="truncated"):
        read_external(path, NAMES, HOOK)
    with pytest.raises(ArtifactError, match="does not exist"):
        read_external(tmp_path / f"none{suffix}", NAMES, HOOK)
    for values in (np.arange(35).reshape(7, 5), np.zeros((7, 5, 2)), np.zeros(7)):
        with pytest.raises(ArtifactError, match="floating-point numbers"):
            read_external(write(path, values), NAMES, HOOK)


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"\.safetensors, \.npy or \.npz"):
        read_external(tmp_path / "d.mat", NAMES, HOOK)


def test_a_model_makes_it_a_dictionary_of_its_own(tmp_path):
    model = open_tiny("gpt2")
    path = write(tmp_path / "d.npy", matrix(width=D_MODEL))
    found = read_external(path, NAMES, HOOK, model=model)
    found.require_model(model)
    assert ConceptDictionary.open(found.save(tmp_path / "saved"), model).digest == found.digest
    assert read_external(path, NAMES, HOOK, fingerprint=fingerprint(model)).fingerprint == fingerprint(model)
    assert read_external(path, NAMES, HOOK).fingerprint is None
    with pytest.raises(HookPointError):
        read_external(path, NAMES, "blocks.9.hook_resid_post", model=model)
    with pytest.raises(PaceError, match="the model's width is 32"):
        read_external(write(tmp_path / "w.npy", matrix()), NAMES, HOOK, model=model)
    with pytest.raises(FingerprintMismatchError):
        read_external(path, NAMES, HOOK, model=model, fingerprint=made_up_fingerprint(D_MODEL))
