"""Building a dictionary on tiny models and on the embedded ones."""

import sys
from types import SimpleNamespace

import pytest
import torch

from contrans_lens.errors import ArtifactError, FingerprintMismatchError, HookPointError, PaceError, TextError
from contrans_lens.models import HookedModel, hooks, open_model, residual_hook_points, tokenize
from contrans_lens.pace import build as room
from contrans_lens.pace.build import build_dictionary, middle_hook_points
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.residuals import capture as capture_function
from contrans_lens.residuals import writer
from contrans_lens.testbed import model_path
from contrans_lens.texts.stimuli import ConceptStimuli, fill
from contrans_lens.texts.stimuli_frames import frame_stimuli
from tests.pace.dictionaries import SHORT_TEMPLATE, small_concepts
from tests.tiny_models import N_LAYERS, open_tiny

# The package's attribute of that name is the function.
CAPTURE_MODULE = sys.modules["contrans_lens.residuals.capture"]
LAYERS = ["blocks.1.hook_resid_post", "blocks.3.hook_resid_post"]


@pytest.fixture(scope="module")
def model():
    return open_tiny("llama")


def build(model, concepts, hook_points=LAYERS, **options):
    return build_dictionary(model, concepts, hook_points, template=SHORT_TEMPLATE, **options)


def last_residual(model, prompt, hook_point):
    kept = []
    with hooks(model, {hook_point: lambda residual: kept.append(residual[0, -1].double())}), torch.no_grad():
        model(tokenize(model, [prompt]).tokens, return_type=None)
    return kept[0]


def test_atoms_are_those_of_residuals_read_one_by_one(model):
    """With all others drawn there is nothing random left, and an SVD of all differences must agree."""
    concepts = small_concepts()
    found = build(model, concepts, others_per_concept=1000)
    assert found.names == ("sun", "lamp", "dog", "cat")
    assert found.topics == ("light", "light", "pet", "pet")
    assert found.hook_points == tuple(LAYERS)
    for hook_point in LAYERS:
        states = {
            concept.concept: torch.stack(
                [
                    last_residual(model, fill(SHORT_TEMPLATE, concept.concept, text), hook_point)
                    for text in concept.stimuli
                ]
            )
            for concept in concepts
        }
        for name in found.names:
            own, others = states[name], torch.cat([rows for other, rows in states.items() if other != name])
            rows = (own[:, None] - others[None]).flatten(0, 1)
            direction = torch.linalg.svd(rows / rows.norm(dim=1, keepdim=True)).Vh[0]
            direction = direction * torch.sign(direction @ (own.mean(0) - others.mean(0)))
            torch.testing.assert_close(found.at(hook_point)[found.index(name)].double(), direction, atol=2e-5, rtol=0)
            higher = ((own @ direction)[:, None] > (others @ direction)[None]).double().mean()
            at = found.index(name), LAYERS.index(hook_point)
            assert float(found.quality[at]) == pytest.approx(float(higher), abs=1e-6)


def test_order_of_concepts_only_permutes_the_atoms(model):
    concepts = small_concepts()
    found, turned = build(model, concepts, others_per_concept=5), build(model, concepts[::-1], others_per_concept=5)
    for name in found.names:
        for hook_point in LAYERS:
            one, other = (d.at(hook_point)[d.index(name)] for d in (found, turned))
            torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


def test_the_seed_draws_other_stimuli(model):
    one, again, other = (build(model, small_concepts(), others_per_concept=3, seed=seed) for seed in (1, 1, 2))
    assert one.digest == again.digest != other.digest


def test_chunks_and_stores_make_no_difference(model, tmp_path, monkeypatch):
    whole = build(model, small_concepts())
    monkeypatch.setattr(room, "_CHUNK_BYTES", 1)
    monkeypatch.setattr(writer, "SHARD_BYTES", 1024)
    streamed = build(model, small_concepts(), store=tmp_path / "store", batch_size=2)
    assert len(list((tmp_path / "store").glob("shard-*"))) > 3
    for hook_point in LAYERS:
        torch.testing.assert_close(streamed.at(hook_point), whole.at(hook_point), atol=2e-5, rtol=0)
    torch.testing.assert_close(streamed.quality, whole.quality)


def test_every_stimulus_is_run_once_for_all_hook_points(model, monkeypatch):
    calls = []
    monkeypatch.setattr(
        room, "capture", lambda *args, **kwargs: calls.append(args) or capture_function(*args, **kwargs)
    )
    build(model, small_concepts())
    ((_, prompts, hook_points),) = calls
    assert hook_points == LAYERS
    assert len(prompts) == len(set(prompts)) == sum(len(concept.stimuli) for concept in small_concepts())


def test_an_interrupted_build_is_taken_up_again(model, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_BYTES", 1024)
    expected = build(model, small_concepts(), store=tmp_path / "whole", batch_size=2)
    n_shards = len(list((tmp_path / "whole").glob("shard-*")))
    read_shard, n_read = CAPTURE_MODULE._read_shard, []

    def interrupted(*args):
        if len(n_read) == 2:
            raise KeyboardInterrupt
        n_read.append(1)
        return read_shard(*args)

    def counted(*args):
        n_read.append(1)
        return read_shard(*args)

    monkeypatch.setattr(CAPTURE_MODULE, "_read_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(model, small_concepts(), store=tmp_path / "killed", batch_size=2)
    monkeypatch.setattr(CAPTURE_MODULE, "_read_shard", counted)
    resumed = build(model, small_concepts(), store=tmp_path / "killed", batch_size=2)
    assert len(n_read) == n_shards > 3  # two before the interruption, the rest after it
    assert resumed.digest == expected.digest
    with pytest.raises(ArtifactError):  # other stimuli do not belong into this store
        build(model, small_concepts(4), store=tmp_path / "killed", batch_size=2)


def test_equal_names_and_equal_directions_are_dropped_and_named(model):
    concepts = small_concepts()
    twin = ConceptStimuli("hound", concepts[2].stimuli)
    again = ConceptStimuli("  Sun", ("Something else.", "Another one."))
    found = build_dictionary(
        model, [*concepts, again, twin], LAYERS, template="{stimulus} So", others_per_concept=1000, cosine_limit=0.99
    )
    assert found.names == ("sun", "lamp", "dog", "cat")
    assert [(record.name, record.of) for record in found.dropped] == [("  Sun", "sun"), ("hound", "dog")]
    assert found.dropped[0].cosine is None
    assert abs(found.dropped[1].cosine) > 0.99
    assert found.dropped[1].hook_point == LAYERS[0]


def test_residuals_that_do_not_differ_are_named(model):
    """Before the first block a rotary model sees only the last token, which is the template's."""
    with pytest.raises(PaceError, match=r"'sun' and 3 more at blocks\.0\.hook_resid_pre .*no direction"):
        build(model, small_concepts(), ["blocks.3.hook_resid_post", "blocks.0.hook_resid_pre"])


def test_notes_say_how_it_was_made(model):
    concepts = small_concepts()
    concepts[0] = ConceptStimuli("sun", (*concepts[0].stimuli, concepts[0].stimuli[0]), "light")
    found = build(model, concepts, seed=5, others_per_concept=7)
    notes = found.notes
    assert (notes["seed"], notes["others_per_concept"], notes["cosine_limit"]) == (5, 7, 0.999)
    assert (notes["n_concepts"], notes["n_stimuli"], notes["stimuli_per_concept"]) == (4, 18, [4, 5])
    assert (notes["repeated_stimuli"], notes["truncated"], len(notes["text_sha256"])) == (1, 0, 64)
    assert notes["turned"].keys() == set(LAYERS)
    assert all(0 <= count <= 4 for count in notes["turned"].values())
    assert found.template == SHORT_TEMPLATE


def test_bad_input_is_refused(model):
    concepts = small_concepts()
    with pytest.raises(PaceError, match="at least two"):
        build(model, concepts[:1])
    with pytest.raises(TextError, match="no place for the stimulus"):
        build_dictionary(model, concepts, LAYERS, template="{concept}")
    with pytest.raises(HookPointError):
        build(model, concepts, ["blocks.9.hook_resid_post"])
    long = [*concepts, ConceptStimuli("long", ("word " * 200, "b"))]
    with pytest.raises(TextError):
        build(model, long)
    with pytest.warns(UserWarning, match="too long"):
        assert build(model, long, truncate="left").notes["truncated"] == 1


class Depth(HookedModel):
    """As much of a model as the window asks for."""

    def __init__(self, n_layers):
        self.layers = n_layers

    @property
    def cfg(self):
        return SimpleNamespace(n_layers=self.layers)


@pytest.mark.parametrize(
    ("depth", "first", "last"),
    [(32, 3, 21), (1, 0, 0), (2, 0, 0), (4, 0, 2), (12, 1, 7), (40, 4, 27), (80, 8, 54)],
)
def test_the_window_is_that_of_the_paper_as_a_share_of_the_depth(depth, first, last):
    assert middle_hook_points(Depth(depth)) == [f"blocks.{layer}.hook_resid_post" for layer in range(first, last + 1)]


def test_the_window_is_the_default(model):
    found = build_dictionary(model, small_concepts(), template=SHORT_TEMPLATE)
    assert list(found.hook_points) == middle_hook_points(model) == residual_hook_points(model)[: N_LAYERS - 1]


def test_an_embedded_model_gets_a_dictionary_that_is_its_own(tmp_path):
    model = open_model(model_path("gpt2-target"))
    names = {"kindness": "quality", "anger": "emotion", "joy": "emotion", "lying": "act"}
    concepts = [frame_stimuli(name, kind, n=20, topic=kind) for name, kind in names.items()]
    built = build_dictionary(model, concepts)
    assert built.names == tuple(names)
    assert float(built.quality.mean()) > 0.7
    built.save(tmp_path)
    assert ConceptDictionary.open(tmp_path, model).digest == built.digest
    with pytest.raises(FingerprintMismatchError):
        ConceptDictionary.open(tmp_path, open_model(model_path("gpt2-source")))
