"""Who may write a store, and how examples are divided into shards."""

import pytest

from contrans_lens.errors import ArtifactError
from contrans_lens.models import fingerprint
from contrans_lens.residuals import (
    LastToken,
    TokenEnds,
    positions_from_dict,
)
from contrans_lens.residuals.prepared import prepare_texts
from contrans_lens.residuals.writer import shard_ranges, writing
from tests.tiny_models import TEXTS, open_tiny

TEXTS = [f"{text} {number}" for number in range(6) for text in TEXTS]


@pytest.fixture
def model():
    return open_tiny("gpt2", "bridge")


def test_two_writers_cannot_share_a_folder(model, tmp_path):
    description = {"fingerprint": fingerprint(model).to_dict()}
    with (
        writing(tmp_path, description),
        pytest.raises(ArtifactError, match="another process is capturing"),
        writing(tmp_path, description),
    ):
        pass
    with writing(tmp_path, description):
        pass


def test_shards_hold_as_many_examples_as_asked_and_no_text_straddles(model):
    ends = tuple(tuple(range(1, 1 + n % 4)) for n in range(len(TEXTS)))
    texts = ["abcdefgh"] * len(TEXTS)
    several = TokenEnds(ends)
    prepared = prepare_texts(open_tiny("gpt2", "bridge"), texts, positions_from_dict(several.to_dict()))
    ranges = shard_ranges(prepared, 4)
    assert [begin for begin, _ in ranges[1:]] == [end for _, end in ranges[:-1]]
    counts = [prepared.examples_before(end) - prepared.examples_before(begin) for begin, end in ranges]
    assert max(counts) <= 4
    assert sum(counts) == sum(map(len, ends))
    assert shard_ranges(prepare_texts(model, texts, LastToken()), 1) == [(n, n + 1) for n in range(len(texts))]
