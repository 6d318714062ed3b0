import gzip
import json
import re
from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.texts import Preference, UnusablePair, read_preferences
from contrans_lens.texts.dialogues import dialogue_messages, dialogue_prompt
from contrans_lens.texts.hh_rlhf import hh_rlhf_preference

OPENING = "\n\nHuman: May I?\n\nAssistant: What?\n\nHuman: Ask  you\nthis.\n\nAssistant:"
ROW = {"chosen": f"{OPENING} You may.", "rejected": f"{OPENING} You may not."}

text = st.text(max_size=30)
turn = st.tuples(st.sampled_from(("\n\nHuman:", "\n\nAssistant:")), text).map("".join)
ending = st.lists(turn, max_size=3).map("".join)


def test_the_prompt_ends_where_the_answers_begin():
    assert hh_rlhf_preference(ROW) == Preference(OPENING, " You may.", " You may not.", group="May I?")


@pytest.mark.parametrize(
    ("opening", "answers"),
    [
        # The answers have a beginning in common, or one is the other's beginning.
        ("\n\nHuman: a", (" Yes, b", " Yes, c")),
        ("\n\nHuman: a", (" b", " b c")),
        # The human says a mark of the assistant without its blank line; no space; line separators inside.
        ("\n\nHuman: x\nAssistant: y", ("b", "c")),
        ("\n\nHuman: a\u2028\r\n", (" b\u2029\n", " c\x85")),
        # The head was stripped, or padded.
        ("Human: a", (" b", " c")),
        (" Human: a", (" b", " c")),
    ],
)
def test_every_character_stays_where_it_was(opening, answers):
    prompt = f"{opening}\n\nAssistant:"
    pair = hh_rlhf_preference({"chosen": prompt + answers[0], "rejected": prompt + answers[1]})
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, *answers)
    assert pair.group == " ".join(opening.split()[1:])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["chosen", "rejected"], "not an object"),
        ({"chosen": ROW["chosen"]}, "missing field"),
        (ROW | {"rejected": None}, "missing field"),
        (ROW | {"rejected": [ROW["rejected"]]}, "wrong type"),
        (ROW | {"rejected": " You may not."}, "malformed dialogue"),
        (ROW | {"rejected": "\n\nAssistant: Hello"}, "malformed dialogue"),
        (ROW | {"chosen": "", "rejected": "a"}, "malformed dialogue"),
        (ROW | {"rejected": ROW["chosen"]}, "equal answers"),
        (ROW | {"rejected": ROW["chosen"] + " "}, "equal answers"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: c", "rejected": "\n\nHuman: b\n\nAssistant: c"}, "no shared prompt"),
        (ROW | {"chosen": ROW["chosen"] + "\n\nHuman: Thanks."}, "does not end with the assistant"),
        ({"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: b"}, "does not end with the assistant"),
        ({"chosen": "Human: a", "rejected": "Human: b"}, "does not end with the assistant"),
        (ROW | {"chosen": ROW["chosen"] + "\n\nHuman: Oh?\n\nAssistant: Yes."}, "further turns in an answer"),
        (ROW | {"rejected": ROW["rejected"] + "\n\nAssistant: Yes."}, "further turns in an answer"),
        (ROW | {"chosen": OPENING + " \n"}, "empty answer"),
        (ROW | {"rejected": OPENING}, "empty answer"),
        (ROW | {"rejected": OPENING + " \udc00"}, "not Unicode"),
    ],
)
def test_rows_that_are_no_preference_give_their_reason(row, reason):
    with pytest.raises(UnusablePair) as caught:
        hh_rlhf_preference(row)
    assert caught.value.reason == reason


@given(before=ending, chosen=ending, rejected=ending, first=text)
@settings(max_examples=300)
def test_whatever_is_read_adds_up_to_the_dialogues(before, chosen, rejected, first):
    row = {side: f"\n\nHuman:{first}{before}{end}" for side, end in (("chosen", chosen), ("rejected", rejected))}
    try:
        pair = hh_rlhf_preference(row)
    except UnusablePair:
        return
    assert {"chosen": pair.prompt + pair.chosen, "rejected": pair.prompt + pair.rejected} == row
    assert pair.prompt.endswith("\n\nAssistant:")
    assert not re.search(r"\n\n(Human|Assistant):", pair.chosen + "." + pair.rejected)


@given(first=text, turns=st.lists(st.tuples(text, text), max_size=2), answers=st.tuples(text, text))
@settings(max_examples=60)
def test_any_text_survives_a_file(first, turns, answers, tmp_path_factory):
    opening = f"\n\nHuman: {first}" + "".join(f"\n\nAssistant: {a}\n\nHuman: {h}" for a, h in turns) + "\n\nAssistant:"
    row = {"chosen": f"{opening} a{answers[0]}", "rejected": f"{opening} b{answers[1]}"}
    path = tmp_path_factory.mktemp("hh") / "a.jsonl.gz"
    for ascii_only in (True, False):
        path.write_bytes(gzip.compress((json.dumps(row, ensure_ascii=ascii_only) + "\r\n").encode()))
        [pair] = read_preferences(path)
        assert (pair.prompt, pair.chosen, pair.rejected) == (opening, f" a{answers[0]}", f" b{answers[1]}")


def test_turns_are_messages_and_back():
    messages = [
        {"role": "user", "content": "May I?"},
        {"role": "assistant", "content": "What?"},
        {"role": "user", "content": "Ask  you\nthis."},
    ]
    assert dialogue_messages(OPENING) == messages
    assert dialogue_prompt(messages) == OPENING
    assert dialogue_prompt([{"role": "system", "content": "Be kind."}, messages[0]]) == (
        "Be kind.\n\nHuman: May I?\n\nAssistant:"
    )


def test_a_prompt_may_be_rendered_anew():
    def lines(messages, end):
        return "".join(f"<{message['role'][0]}>{message['content']}" for message in messages) + end

    pair = hh_rlhf_preference(ROW, partial(lines, end="<a>"))
    assert pair == Preference("<u>May I?<a>What?<u>Ask  you\nthis.<a>", " You may.", " You may not.", group="May I?")
    assert hh_rlhf_preference(ROW, partial(lines, end="<a>\n")).chosen == "You may."


@pytest.fixture(scope="module")
def path(shared_dir):
    path = shared_dir / "data/hh_rlhf/harmless-base/test.jsonl.gz"
    if not path.is_file():
        pytest.skip("the folder ../shared beside this checkout has no hh_rlhf data")
    return path


@pytest.fixture(scope="module")
def rows(path):
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        return [json.loads(line) for line in stream]


class TestRealFile:
    def test_every_row_is_read_or_counted(self, path, rows):
        """Each dialogue is cut at its own last mark here, without looking for what both share."""
        data = read_preferences(path)
        expected, reasons = {}, {}
        for number, row in enumerate(rows, start=1):
            (before, mark, chosen), (other, _, rejected) = (
                row[side].rpartition("\n\nAssistant:") for side in ("chosen", "rejected")
            )
            if before != other:
                reasons.setdefault("further turns in an answer", []).append(number)
            elif not chosen.strip() or not rejected.strip():
                reasons.setdefault("empty answer", []).append(number)
            else:
                expected[number] = (before + mark, chosen, rejected)
        assert [(pair.prompt, pair.chosen, pair.rejected) for pair in data] == list(expected.values())
        assert reasons == {reason: list(lines) for reason, lines in data.report.lines.items()}
        assert data.report.dropped == {"further turns in an answer": 5, "empty answer": 4}
        assert (data.report.read, data.report.kept, data.report.left_out) == (2312, 2303, 0)
        assert data.report.format == "hh-rlhf"

    def test_groups_are_the_first_words_of_the_human(self, path, rows):
        data = read_preferences(path)
        first = {" ".join(row["chosen"].split("\n\nAssistant:")[0].split("\n\nHuman:")[1].split()) for row in rows}
        assert set(data.groups()) <= first
        assert (len(first), len(data.groups())) == (2178, 2169)
        sizes = Counter(pair.group for pair in data)
        assert (max(sizes.values()), sum(size > 1 for size in sizes.values())) == (3, 130)

    def test_parts_share_no_conversation(self, path):
        parts = list(read_preferences(path).split((0.8, 0.1, 0.1), seed=1))
        assert sum(map(len, parts)) == 2303
        assert [abs(len(part) - share * 2303) <= 3 for part, share in zip(parts, (0.8, 0.1, 0.1), strict=True)] == [
            True
        ] * 3
        seen = [{pair.group for pair in part} for part in parts]
        assert not (seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2])

    def test_rejected_answers_are_longer_here_and_matching_evens_it_out(self, path):
        data = read_preferences(path)
        longer = sum(len(pair.rejected) > len(pair.chosen) for pair in data)
        assert longer / len(data) > 0.52  # a preference for short answers alone would be right so often
        matched = data.length_matched(0.1)
        assert len(matched) > 100
        assert all(0.89 < len(pair.chosen) / len(pair.rejected) < 1.12 for pair in matched)
