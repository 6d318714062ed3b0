import gzip
import json
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import TextError
from contrans_lens.texts import Preference, PreferenceSet, ReadReport, UnusablePair

PAIR = Preference("How are you?\nShe said:", " Well, and you?", " Go away.", "greeting", "train", "kindness", 1.5)

words = st.text(min_size=1).filter(str.strip)
# Equal answers are refused, whatever the words are.
pairs_drawn = st.builds(
    Preference,
    words,
    words.map(lambda text: f"{text}+"),
    words.map(lambda text: f"{text}-"),
    st.text(),
    st.sampled_from((None, "train", "validation", "test")),
    st.text(),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)


def some(n=12, **fields):
    """Pairs in groups of two; answers get longer with their number, the rejected ones three times as fast."""
    return PreferenceSet(
        tuple(
            Preference(f"question {i}:", " yes" + "!" * i, " no" + "?" * (3 * i), f"group {i // 2}", **fields)
            for i in range(n)
        ),
        "some",
    )


class TestPreference:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"prompt": " \n"}, "empty prompt"),
            ({"chosen": ""}, "empty answer"),
            ({"rejected": "\u2028 "}, "empty answer"),
            ({"rejected": 3}, "wrong type"),
            ({"chosen": "Go away.  "}, "equal answers"),
            ({"group": ["a"]}, "wrong type"),
            ({"split": "dev"}, "unknown split"),
            ({"margin": float("nan")}, "margin not a number"),
            ({"margin": True}, "margin not a number"),
            ({"swapped": "yes"}, "wrong type"),
            ({"chosen": " half \ud83d"}, "not Unicode"),
        ],
    )
    def test_what_is_no_preference_is_refused_with_its_reason(self, changes, reason):
        with pytest.raises(UnusablePair) as caught:
            Preference.from_dict(PAIR.to_dict() | changes)
        assert caught.value.reason == reason
        assert isinstance(caught.value, TextError)

    @pytest.mark.parametrize("name", ["prompt", "chosen", "rejected"])
    def test_a_missing_text_is_named(self, name):
        row = {key: value for key, value in PAIR.to_dict().items() if key != name}
        with pytest.raises(UnusablePair, match=rf"missing field: it lacks \['{name}'\]"):
            Preference.from_dict(row)

    def test_indentation_makes_two_answers(self):
        assert Preference("code:", "if a:\n    b", "if a:\n  b").chosen != "if a:\n  b"

    def test_what_is_empty_is_left_out_of_the_row(self):
        assert Preference("a", "b", "c").to_dict() == {"prompt": "a", "chosen": "b", "rejected": "c"}

    def test_numbers_may_name_groups(self):
        assert Preference.from_dict(
            {"prompt": "a", "chosen": "b", "rejected": "c", "group": 7, "topic": 0}
        ) == Preference("a", "b", "c", group="7", topic="0")

    def test_reversed_exchanges_the_labels_and_nothing_else(self):
        other = PAIR.reversed()
        assert (other.chosen, other.rejected, other.margin, other.swapped) == (PAIR.rejected, PAIR.chosen, -1.5, True)
        assert (other.prompt, other.group, other.split, other.topic) == (
            PAIR.prompt,
            PAIR.group,
            PAIR.split,
            PAIR.topic,
        )
        assert other.reversed() == PAIR

    def test_as_an_evaluation_item_the_chosen_answer_is_the_positive_one(self):
        item = PAIR.item()
        assert (item.prompt, item.positive, item.negative) == (PAIR.prompt, PAIR.chosen, PAIR.rejected)
        assert (item.group, item.split) == ("greeting", "train")

    @given(pair=pairs_drawn)
    def test_rows_read_back_as_the_same_pair(self, pair):
        assert Preference.from_dict(json.loads(json.dumps(pair.to_dict()))) == pair


class TestSet:
    def test_no_pairs_other_things_and_no_name_are_refused(self):
        with pytest.raises(TextError, match="no preference pairs"):
            PreferenceSet((), "none")
        with pytest.raises(TextError, match="empty"):
            PreferenceSet((PAIR,), " ")

    def test_groups_are_named_once_and_a_pair_without_one_counts_by_its_prompt(self):
        pairs = (PAIR, Preference("a  b", "c", "d"), Preference("a\nb", "d", "c"), PAIR.reversed())
        assert PreferenceSet(pairs, "x").groups() == ("greeting", "a b")

    @pytest.mark.parametrize("seed", range(5))
    def test_no_group_and_no_prompt_straddles_a_split(self, seed):
        rng = random.Random(seed)
        pairs = tuple(
            Preference(
                f"prompt {rng.randrange(60)}", f" a{i}", f" b{i}", rng.choice(["", f"group {rng.randrange(40)}"])
            )
            for i in range(90)
        )
        parts = list(PreferenceSet(pairs, "x").split(seed=seed))
        assert sorted(pair.chosen for part in parts for pair in part) == sorted(pair.chosen for pair in pairs)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            for key in (lambda pair: pair.prompt, lambda pair: pair.group):
                assert not ({key(p) for p in parts[one]} & {key(p) for p in parts[other]}) - {""}

    def test_pairs_of_two_groups_have_no_three_parts(self):
        pairs = tuple(Preference(f"p {n}", " a", " b", group=f"g{n % 2}") for n in range(8))
        with pytest.raises(TextError, match="8 pairs are of 2 group"):
            PreferenceSet(pairs, "few").split()

    def test_a_split_keeps_shares_order_and_pins(self):
        data = some(200)
        train, validation, test = data.split((0.6, 0.2, 0.2), seed=3)
        assert (len(train), len(validation), len(test)) == (120, 40, 40)
        assert [p for p in data if p in set(train)] == list(train)
        assert data.split((0.6, 0.2, 0.2), seed=3).test == test != data.split((0.6, 0.2, 0.2), seed=4).test
        pinned = PreferenceSet((*data.preferences, Preference("x", "y", "z", "group 7", "test")), "x")
        assert {"group 7"} <= set(pinned.split().test.groups())

    def test_pins_that_contradict_a_group_and_too_few_groups_are_refused(self):
        torn = (Preference("a", "b", "c", "g", "train"), Preference("d", "b", "c", "g", "test"), *some())
        with pytest.raises(TextError, match="straddle"):
            PreferenceSet(torn, "x").split()
        with pytest.raises(TextError, match="cannot be split"):
            some(4).split()

    def test_parts_are_what_is_pinned(self):
        data = PreferenceSet((*some(4, split="train"), *some(6, split="test")), "x")
        assert (len(data.part("train")), len(data.part("test"))) == (4, 6)
        with pytest.raises(TextError, match="'validation'"):
            data.part("validation")
        with pytest.raises(TextError, match="no part 'dev'"):
            data.part("dev")

    def test_a_sample_is_drawn_by_seed_in_order(self):
        data = some(50)
        drawn = data.sample(20, seed=1)
        assert len(set(drawn)) == 20
        assert [pair for pair in data if pair in set(drawn)] == list(drawn)
        assert data.sample(20, seed=1) == drawn != data.sample(20, seed=2)
        assert data.sample(500) == data
        with pytest.raises(TextError, match="at least 1"):
            data.sample(0)

    @given(share=st.floats(0, 1), n=st.integers(1, 60), seed=st.integers(0, 9))
    @settings(max_examples=60)
    def test_a_share_of_the_labels_is_exchanged_and_known(self, share, n, seed):
        data = some(n)
        other = data.swapped(share, seed)
        assert abs(sum(pair.swapped for pair in other) - share * n) <= 0.5 + 1e-9
        for before, after in zip(data, other, strict=True):
            assert after == (before.reversed() if after.swapped else before)

    @pytest.mark.parametrize("seed", range(4))
    def test_shuffled_labels_are_half_exchanged_in_every_topic_and_part(self, seed):
        pairs = [
            replace(pair, split=("train", "test")[i % 5 < 2], topic=("a", "b", "")[i % 3])
            for i, pair in enumerate(some(203))
        ]
        data = PreferenceSet(tuple(pairs), "x")
        swapped, total = Counter(), Counter()
        for pair in data.shuffled(seed):
            total[pair.split, pair.topic] += 1
            swapped[pair.split, pair.topic] += pair.swapped
        assert len(total) == 6
        assert max(abs(swapped[key] - total[key] / 2) for key in total) <= 1
        assert data.shuffled(seed) == data.shuffled(seed) != data.shuffled(seed + 1)

    def test_all_labels_exchanged_twice_are_the_labels(self):
        assert some().swapped().swapped() == some()

    def test_singletons_of_topics_are_exchanged_too(self):
        pairs = tuple(Preference("a", f"b{i}", f"c{i}", topic=f"topic {i}") for i in range(40))
        assert sum(pair.swapped for pair in PreferenceSet(pairs, "x").shuffled()) == 20

    def test_a_share_outside_zero_and_one_is_refused(self):
        for share in (-0.1, 1.1, float("nan")):
            with pytest.raises(TextError, match="from 0 to 1"):
                some().swapped(share)

    def test_length_matched_keeps_what_is_about_as_long(self):
        data = some(6)  # lengths 4, 5, 6, ... against 3, 6, 9, ...
        assert [pair.prompt for pair in data.length_matched(0.25)] == ["question 0:", "question 1:"]
        assert len(data.length_matched(0.34)) == 3
        by_words = data.length_matched(0, count=lambda text: len(text.split()))
        assert by_words == data
        with pytest.raises(TextError, match="matched in length"):
            some().only(lambda pair: pair.prompt == "question 9:").length_matched()
        with pytest.raises(TextError, match="tolerance"):
            data.length_matched(-1)

    def test_the_hash_is_of_the_pairs_their_order_and_labels(self):
        data = some()
        assert PreferenceSet(data.preferences, "another").content_hash == data.content_hash
        assert PreferenceSet(data.preferences[::-1], "some").content_hash != data.content_hash
        assert data.shuffled().content_hash != data.content_hash
        assert some().content_hash == data.content_hash

    @given(pairs=st.lists(pairs_drawn, min_size=1, max_size=5), name=words)
    @settings(max_examples=50)
    def test_dicts_and_files_read_back_as_the_same_set(self, pairs, name, tmp_path_factory):
        report = ReadReport("f.jsonl", "triples", 9, len(pairs), {"equal answers": 2}, {"equal answers": (3, 5)}, 1)
        data = PreferenceSet(tuple(pairs), name, report)
        back = PreferenceSet.from_dict(json.loads(json.dumps(data.to_dict())))
        assert (back, back.report) == (data, report)
        for ending in ("jsonl", "jsonl.gz"):
            path = data.save(tmp_path_factory.mktemp("set") / f"pairs.{ending}")
            assert PreferenceSet.load(path, name) == data
            assert PreferenceSet.load(path).name == "pairs"

    def test_equal_sets_make_equal_files_that_others_can_read(self, tmp_path):
        paths = [some().save(tmp_path / f"{i}.jsonl.gz") for i in range(2)]
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert paths[0].read_bytes()[4:8] == bytes(4)  # no time of writing
        rows = [json.loads(line) for line in gzip.decompress(paths[0].read_bytes()).decode().splitlines()]
        assert [set(row) for row in rows] == [{"prompt", "chosen", "rejected", "group"}] * 12

    def test_a_bad_row_of_a_saved_file_is_named(self, tmp_path):
        path = some(2).save(tmp_path / "a.jsonl")
        path.write_text(path.read_text() + '{"prompt": "a", "chosen": "b", "rejected": "b"}\n')
        with pytest.raises(TextError, match=r"a\.jsonl row 3: equal answers"):
            PreferenceSet.load(path)

    def test_dicts_of_another_kind_are_refused(self):
        with pytest.raises(TextError, match="a list of pairs"):
            PreferenceSet.from_dict({"name": "x"})
        with pytest.raises(TextError, match="object with named fields"):
            PreferenceSet.from_dict({"name": "x", "preferences": ["a"]})
        with pytest.raises(TextError, match="read report"):
            PreferenceSet.from_dict({"name": "x", "preferences": [PAIR.to_dict()], "report": {"read": 3}})

    def test_the_summary_counts(self):
        data = PreferenceSet((*some(3, split="train", topic="<b>"), PAIR, PAIR.reversed()), "x")
        assert data.summary()["pairs"] == "5"
        assert data.summary()["parts"] == "train 5"
        assert data.summary()["topics"] == "<b> 3, kindness 2"
        assert data.summary()["labels exchanged"] == "1"
        assert "longer in 40%, shorter in 60%" in str(data)
        assert "&lt;b&gt; 3" in data._repr_html_()
        assert "<b>" not in data._repr_html_()
