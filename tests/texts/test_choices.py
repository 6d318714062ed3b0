import gzip
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import TextError
from contrans_lens.texts import (
    EMOTIONS,
    ChoiceItem,
    EvaluationItem,
    Template,
    choice_items_from_pairs,
    lettered,
    pairs_from_choice_items,
    read_choice_items,
    read_repe_emotions,
    shuffled,
    with_examples,
    with_prefix,
    word_items,
)

ROW = {
    "prompt": "Q: What do cows drink?\nA:",
    "choices": [" Water", " Milk", " Rain", " Tea"],
    "correct": [0, 2],
    "best": 2,
    "rival": 1,
    "group": "cows",
    "split": "test",
    "category": "Animals",
}


def item(**changes):
    return ChoiceItem.from_dict({**ROW, **changes})


def texts_of(each):
    """What an item says, whatever the order of its choices."""
    said = each.choices
    rival = None if each.rival is None else said[each.rival]
    return set(said), {said[at] for at in each.correct}, said[each.best_index], rival


def test_an_item_survives_a_round_trip_and_leaves_out_what_is_empty():
    assert item().to_dict() == ROW
    assert ChoiceItem.from_dict(item().to_dict()) == item()
    bare = ChoiceItem("Which?", (" a", " b"), (1,))
    assert bare.to_dict() == {"prompt": "Which?", "choices": [" a", " b"], "correct": [1]}
    assert ChoiceItem.from_dict({"prompt": "Which?", "choices": [" a", " b"], "correct": 1}) == bare


def test_the_first_right_choice_is_best_unless_another_is_named():
    assert item().best_index == 2
    assert item(best=None).best_index == 0
    assert item().wrong == (1, 3)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"prompt": " \n"}, "prompt of a choice item is empty"),
        ({"choices": [" Water"]}, "at least two"),
        ({"choices": " Water"}, "list was expected"),
        ({"choices": [" a", " ", " b", " c"]}, "choice 1 of a choice item is empty"),
        ({"choices": [" a", " b", " c", " a"]}, "' a' stands twice"),
        ({"correct": []}, "at least one must be right"),
        ({"correct": [0, 1, 2, 3], "rival": None}, "at least one wrong"),
        ({"correct": [0, 4]}, "holds 4"),
        ({"correct": [-1]}, "holds -1"),
        ({"correct": [True]}, "holds True"),
        ({"correct": [0, 0, 2]}, "name each choice once"),
        ({"best": 1}, "not among the right"),
        ({"best": 9}, "'best'.*holds 9"),
        ({"rival": 0}, "must be a wrong one"),
        ({"split": "dev"}, "dev"),
    ],
)
def test_a_bad_item_is_refused_with_the_reason(changes, word):
    with pytest.raises(TextError, match=word):
        item(**changes)


def test_values_of_another_type_are_refused_without_type_checks_too():
    """In a fresh interpreter, as users run: the tests' own type checks would come first here."""
    program = f"""
import re
from contrans_lens.errors import TextError
from contrans_lens.texts import ChoiceItem, with_prefix
row = {ROW!r}
cases = [
    ({{"prompt": 3}}, "int"),
    ({{"choices": [" a", None, " b", " c"]}}, "NoneType"),
    ({{"correct": [0.0]}}, "holds 0.0"),
    ({{"correct": ["A"]}}, "holds 'A'"),
    ({{"rival": "1"}}, "'rival'.*holds '1'"),
    ({{"group": 3}}, "group of a choice item is 3"),
    ({{"category": ["x"]}}, "category"),
]
calls = [(lambda change=change: ChoiceItem.from_dict({{**row, **change}}), word) for change, word in cases]
calls.append((lambda: with_prefix(ChoiceItem.from_dict(row), 3), "prefix is a int"))
for call, word in calls:
    try:
        call()
    except TextError as error:
        if re.search(word, str(error)):
            continue
    raise SystemExit(word)
assert ChoiceItem("Which?", [" a", " b"], [1]) == ChoiceItem("Which?", (" a", " b"), (1,))
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_key_is_named():
    with pytest.raises(TextError, match=r"lacks \['choices'\]"):
        ChoiceItem.from_dict({"prompt": "Which?", "correct": [0]})


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "jsonl.gz"])
def test_the_same_items_come_from_every_kind_of_file(tmp_path, ending):
    rows = [ROW, {"prompt": "Which, then?", "choices": [" a", ' "b"'], "correct": [1]}]
    path = tmp_path / f"items.{ending}"
    if ending == "json":
        path.write_text(json.dumps(rows))
    elif ending == "csv":
        cells = [["prompt", "choices", "correct", "best", "rival", "group", "split", "category"]]
        for row in rows:
            cells.append([row[key] if key == "prompt" else as_cell(row.get(key)) for key in cells[0]])
        path.write_text("\n".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells))
    else:
        data = "\n".join(map(json.dumps, rows)).encode()
        path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    assert read_choice_items(path) == [ChoiceItem.from_dict(row) for row in rows]


def as_cell(value):
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        (
            "a.jsonl",
            json.dumps(ROW) + '\n{"prompt": "Which?", "choices": [" a", " b"], "correct": [2]}',
            "row 2.*holds 2",
        ),
        ("a.jsonl", '{"prompt": "Which?", "choices": [" a", " b"]}', r"row 1.*lacks \['correct'\]"),
        ("a.jsonl", '["Which?"]', "row 1.*object"),
        ("a.json", '{"prompt": "Which?"}', "JSON dict"),
        ("a.json", "[]", "no rows"),
        ("a.csv", "prompt,choices,correct\nWhich?,a;b,0\n", "row 1.*JSON was expected"),
        ("a.txt", "Which?", "should end in"),
    ],
)
def test_a_bad_file_is_refused_with_path_row_and_reason(tmp_path, name, content, word):
    (tmp_path / name).write_text(content)
    with pytest.raises(TextError, match=word) as caught:
        read_choice_items(tmp_path / name)
    assert name in str(caught.value)


def test_pairs_become_choice_items_and_come_back():
    pairs = [EvaluationItem("Today it is", " warm", " cold", "today", "test"), EvaluationItem("It is", " on", " off")]
    items = choice_items_from_pairs(pairs)
    assert items[0] == ChoiceItem("Today it is", (" warm", " cold"), (0,), 0, 1, "today", "test")
    assert pairs_from_choice_items(items) == pairs
    assert pairs_from_choice_items([item()])[0].to_dict() == {
        "prompt": ROW["prompt"],
        "positive": " Rain",
        "negative": " Milk",
        "group": "cows",
        "split": "test",
    }
    with pytest.raises(TextError, match=r"item 1 .*no rival"):
        pairs_from_choice_items([item(), item(rival=None)])


def test_lettered_answers_stand_in_the_prompt_and_letters_are_chosen():
    found = lettered(item(prompt="What do cows drink? "))
    assert found.prompt == "What do cows drink?\nA. Water\nB. Milk\nC. Rain\nD. Tea\nAnswer:"
    assert found.choices == (" A", " B", " C", " D")
    assert replace(found, prompt=ROW["prompt"], choices=tuple(ROW["choices"])) == item()


def test_the_layout_of_letters_may_be_chosen():
    template = Template("Choose.\n{answers}\n{question}\n->")
    found = lettered(
        item(prompt="Cows {drink}"), letters="1234", template=template, option=Template("({letter}) {answer}")
    )
    assert found.prompt == "Choose.\n(1) Water\n(2) Milk\n(3) Rain\n(4) Tea\nCows {drink}\n->"
    assert found.choices == (" 1", " 2", " 3", " 4")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"letters": "ABC"}, "4 answers for 3 letters"),
        ({"letters": "ABCA"}, "different"),
        ({"letters": "AB C"}, "white space"),
        ({"template": Template("{question}")}, "values without a gap"),
        ({"option": Template("{letter}")}, "values without a gap"),
    ],
)
def test_letters_that_do_not_fit_are_refused(arguments, word):
    with pytest.raises(TextError, match=word):
        lettered(item(), **arguments)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 6), st.data())
def test_shuffling_moves_choices_and_says_the_same(n, data):
    right = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n - 1, unique=True))
    best = data.draw(st.sampled_from([None, *right]))
    rival = data.draw(st.sampled_from([None, *(k for k in range(n) if k not in right)]))
    each = ChoiceItem("Which?", tuple(f" answer {k}" for k in range(n)), tuple(right), best, rival)
    moved = shuffled(each, seed=data.draw(st.integers(0, 9)))
    assert texts_of(moved) == texts_of(each)
    assert replace(moved, choices=each.choices, correct=each.correct, best=best, rival=rival) == each


def test_shuffling_spreads_the_right_answer_evenly():
    places = [shuffled(ChoiceItem(f"Question {k}?", (" a", " b", " c", " d"), (0,))).correct[0] for k in range(400)]
    assert all(70 < places.count(place) < 130 for place in range(4))
    assert len({shuffled(item(), seed=seed).choices for seed in range(40)}) > 12


def test_a_prefix_stands_right_before_the_prompt():
    assert with_prefix(item(), "Be frank.\n") == item(prompt="Be frank.\n" + ROW["prompt"])


def test_examples_are_answered_with_their_best_choice_and_stand_in_front():
    example = ChoiceItem("Q: One and one?\nA:", (" Three", " Two", " 2"), (1, 2), best=2)
    [found] = with_examples([item()], [example, replace(example, best=None)], header="Answer.")
    assert found.prompt == "Answer.\n\nQ: One and one?\nA: 2\n\nQ: One and one?\nA: Two\n\n" + ROW["prompt"]
    assert replace(found, prompt=ROW["prompt"]) == item()
    assert with_examples([item()], []) == [item()]


def test_an_example_that_is_asked_itself_is_refused():
    with pytest.raises(TextError, match=r"1 example.*another split"):
        with_examples([item()], [item(prompt="Q:  What do cows drink?\nA:")])


SCENARIOS = {"happiness": ["You win.", "You see  a friend."], "fear": ["You see a friend."], "anger": []}


def test_scenarios_become_items_of_words():
    items = word_items(SCENARIOS)
    assert items[0] == ChoiceItem(
        "Scenario: You win.\nThe emotion of the above scenario is",
        (" happiness", " fear", " anger"),
        (0,),
        group="You win.",
        category="happiness",
    )
    assert [each.correct for each in items] == [(0,), (0,), (1,)]
    # One text under two words: its two items contradict each other, so they must stay together.
    assert items[1].group == items[2].group


def test_the_words_may_be_more_than_the_scenarios_and_the_template_another():
    [found] = word_items({"fear": ["You run."]}, EMOTIONS, template=Template("{text} I feel"))
    assert found.choices == tuple(f" {word}" for word in EMOTIONS)
    assert (found.prompt, found.correct) == ("You run. I feel", (3,))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"scenarios": {"joy": ["You win."]}, "words": EMOTIONS}, "joy"),
        ({"scenarios": {"fear": ["You run."]}}, "at least two"),
        ({"scenarios": {"fear": ["You run."]}, "words": ["fear", "fear"]}, "stands twice"),
        ({"scenarios": {"fear": [], "anger": []}}, "no scenarios"),
        ({"scenarios": {"fear": [" "], "anger": []}}, "empty"),
        ({"scenarios": SCENARIOS, "template": Template("{a} {b}")}, "exactly one"),
    ],
)
def test_scenarios_that_make_no_items_are_refused(arguments, word):
    with pytest.raises(TextError, match=word):
        word_items(**arguments)


def test_the_real_emotion_protocol(shared_dir):
    scenarios = read_repe_emotions(shared_dir / "data/repe/emotions")
    items = word_items(scenarios, EMOTIONS)
    assert len(items) == sum(map(len, scenarios.values()))
    for each in items:
        assert each.choices[each.best_index] == f" {each.category}"
        assert each.prompt.endswith("\nThe emotion of the above scenario is")
        assert len(each.choices) == 6
