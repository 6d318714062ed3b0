"""The loop itself, on tiny runs: packing, determinism, resuming, and that the rule of the choice is kept."""

import json
import random
from dataclasses import replace
from itertools import islice

import pytest
import torch

from contrans_lens.errors import TestbedError as NoSeedError
from contrans_lens.testbed.__main__ import main
from contrans_lens.testbed.architecture import hidden_matrices, new_model, other_parameters
from contrans_lens.testbed.build import choose, run_folder
from contrans_lens.testbed.documents import DocumentGenerator
from contrans_lens.testbed.packing import Packer
from contrans_lens.testbed.recipe import LEARN, SHAPES, Phase, Recipe, Shape
from contrans_lens.testbed.tokenizer import train_tokenizer
from contrans_lens.testbed.training import Trainer
from contrans_lens.testbed.world import build_world

TINY = {
    "gpt2": Shape("gpt2", width=16, layers=2, heads=2, mlp=32, vocab=400),
    "rotary": Shape("rotary", width=16, layers=2, heads=2, mlp=32, vocab=400),
}
PHASES = (
    Phase("learn", LEARN, steps=3),
    Phase("settle", LEARN, steps=3, decay=True),
)
RECIPE = Recipe(PHASES, rows=2)


@pytest.fixture(scope="module", params=["gpt2", "rotary"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(family):
    return train_tokenizer(family, 400, documents=300)


def test_tokenizers_are_a_function_of_their_arguments(family, tokenizer):
    again = train_tokenizer(family, 400, documents=300)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_packed_documents_do_not_see_each_other(family, tokenizer):
    batch = Packer(tokenizer, 2, 128, 20.0).batch(DocumentGenerator(build_world()), random.Random(0))
    model = new_model(TINY[family], seed=0).eval()
    with torch.no_grad():
        packed = model(batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False).logits
        start = (batch.ids[0] == tokenizer.bos_token_id).nonzero().flatten().tolist()[1]
        end = (batch.ids[0] == tokenizer.eos_token_id).nonzero().flatten().tolist()[1] + 1
        alone = model(batch.ids[:1, start:end]).logits
    torch.testing.assert_close(packed[:1, start:end], alone, atol=1e-5, rtol=1e-4)


def test_segments_tokenise_as_the_whole_text_does(tokenizer):
    stream = DocumentGenerator(build_world()).stream(random.Random(1))
    packer = Packer(tokenizer, 2, 10_000, 20.0)
    for document in islice(stream, 200):
        assert packer.encode(document)[0] == [*tokenizer(document.text)["input_ids"], tokenizer.eos_token_id]


def test_decided_tokens_weigh_more(tokenizer):
    generator, rng = DocumentGenerator(build_world()), random.Random(1)
    document = next(one for one in generator.stream(rng) if one.kind == "questions")
    ids, weights = Packer(tokenizer, 2, 10_000, 20.0).encode(document)
    heavy = tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight == 20.0])
    assert heavy == "".join(segment.text for segment in document.segments if segment.decided)


def test_every_parameter_has_exactly_one_optimizer(family):
    model = new_model(TINY[family], seed=0)
    owned = [id(parameter) for parameter in hidden_matrices(model) + other_parameters(model)]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())


def train(folder, family, tokenizer, recipe=RECIPE):
    model = new_model(TINY[family], seed=0)
    trainer = Trainer("tiny", 0, recipe, model, tokenizer, folder)
    return trainer.run(), model.state_dict()


def test_training_is_deterministic(tmp_path, family, tokenizer):
    first, second = (train(tmp_path / side, family, tokenizer) for side in "ab")
    assert first[0]["loss"] == second[0]["loss"]
    assert all(torch.equal(first[1][key], second[1][key]) for key in first[1])


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, family, tokenizer, monkeypatch):
    monkeypatch.setattr("contrans_lens.testbed.training.CHECKPOINT_EVERY", 2)
    whole_log, whole = train(tmp_path / "whole", family, tokenizer)
    step = Trainer._step

    def killed_at_five(self, phase, generator):
        if self.progress.step == 5:
            raise KeyboardInterrupt
        step(self, phase, generator)

    monkeypatch.setattr(Trainer, "_step", killed_at_five)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", family, tokenizer)
    monkeypatch.setattr(Trainer, "_step", step)
    assert json.loads((tmp_path / "killed" / "progress.json").read_text())["step"] == 4
    resumed_log, resumed = train(tmp_path / "killed", family, tokenizer)
    assert resumed_log["step"] == whole_log["step"] == 6
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_seeds_give_other_weights(family):
    first, second = (new_model(TINY[family], seed).state_dict() for seed in (0, 1))
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_the_shipped_seed_is_the_lowest_that_passes(tmp_path):
    for seed, passed in enumerate([False, True, True]):
        folder = run_folder(tmp_path, "gpt2-target", seed)
        folder.mkdir(parents=True)
        (folder / "log.json").write_text(json.dumps({"gates": {"passed": passed}}))
    assert choose(tmp_path, "gpt2") == 1


def test_no_passing_seed_is_an_error(tmp_path):
    for seed in range(3):
        folder = run_folder(tmp_path, "gpt2-target", seed)
        folder.mkdir(parents=True)
        (folder / "log.json").write_text(json.dumps({"gates": {"passed": False}}))
    with pytest.raises(NoSeedError, match="no seed of gpt2-target"):
        choose(tmp_path, "gpt2")


def test_targets_are_wider_and_deeper_than_sources():
    for family in ("gpt2", "rotary"):
        source, target = SHAPES[f"{family}-source"], SHAPES[f"{family}-target"]
        assert (source.width, source.layers) < (target.width, target.layers)
        assert replace(source, width=1).family == target.family


def test_the_command_line_needs_a_folder(capsys):
    with pytest.raises(SystemExit):
        main(["train"])
    assert "--out" in capsys.readouterr().err
