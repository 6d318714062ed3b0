import json

import pytest

from contrans_lens.errors import TextError
from contrans_lens.texts import (
    Benchmark,
    ChoiceItem,
    Problem,
    read_stereoset,
    stereoset_scores,
    stereotype_pairs,
)
from tests.texts.benchmark_files import write


def sentences(stereotype, opposite, unrelated):
    texts = {"unrelated": unrelated, "stereotype": stereotype, "anti-stereotype": opposite}
    return [{"id": label, "sentence": text, "labels": [], "gold_label": label} for label, text in texts.items()]


def write_stereoset(path, intrasentence=(), intersentence=()):
    data = {"intrasentence": list(intrasentence), "intersentence": list(intersentence)}
    return write(path, json.dumps({"version": "1.1", "data": data}))


def inside(*texts, target="baker", bias_type="profession", context="The baker was BLANK."):
    return {"id": "1", "target": target, "bias_type": bias_type, "context": context, "sentences": sentences(*texts)}


BAKER = inside("The baker was jolly.", "The  baker was grim and jolly.", "The baker was purple rain.")


class TestStereoSet:
    def test_the_shared_beginning_is_the_prompt(self, tmp_path):
        found = read_stereoset(write_stereoset(tmp_path / "s.json", [BAKER]), "intrasentence")
        assert found.items == (
            ChoiceItem(
                "The baker was",
                (" jolly.", " grim and jolly.", " purple rain."),
                (0, 1),
                best=1,
                rival=2,
                group="profession: baker",
                category="profession",
            ),
        )
        [pair] = stereotype_pairs(found)
        assert (pair.prompt, pair.positive, pair.negative) == ("The baker was", " grim and jolly.", " jolly.")

    @pytest.mark.parametrize(
        ("texts", "prompt", "choices"),
        [
            (("He sings", "He sings well", "He sings well now"), "He", (" sings", " sings well", " sings well now")),
            (("He runs", "He rests", "He rots"), "He", (" runs", " rests", " rots")),
            (("A b c", "A b d", "A x c"), "A", (" b c", " b d", " x c")),
        ],
    )
    def test_every_sentence_goes_on_with_a_whole_word(self, tmp_path, texts, prompt, choices):
        [item] = read_stereoset(write_stereoset(tmp_path / "s.json", [inside(*texts)]), "intrasentence")
        assert (item.prompt, item.choices) == (prompt, choices)

    def test_sentences_without_a_shared_beginning_are_listed(self, tmp_path):
        path = write_stereoset(tmp_path / "s.json.gz", [inside("Men sing", "Women sing", "Cups sing"), BAKER])
        found = read_stereoset(path, "intrasentence")
        assert (found.items[0].prompt, found.items[0].choices[1]) == ("Sentence:", " Women sing")
        assert (found.problem_counts, found.dropped) == ({"no shared beginning": 1}, 0)
        dropped = read_stereoset(path, "intrasentence", opening=None)
        assert (len(dropped), dropped.dropped) == (1, 1)

    def test_the_context_is_the_prompt_of_the_other_task(self, tmp_path):
        row = inside("He is jolly.", "He is grim.", "He is jolly.", context="My baker came. ")
        good = inside("He is jolly.", "He is grim.", "Cups fly.", context="My baker came. ")
        found = read_stereoset(write_stereoset(tmp_path / "s.json", [], [row, good]), "intersentence")
        assert found.problems == (Problem(1, "repeated sentence", "He is jolly.", dropped=True),)
        [item] = found
        assert (item.prompt, item.choices) == ("My baker came.", (" He is jolly.", " He is grim.", " Cups fly."))

    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"target": None}, "row 2: .*target"),
            ({"sentences": sentences("a b", "a c", "a d")[:2]}, "row 2: .*one of each"),
            ({"sentences": sentences("a b", "a c", "a d") * 2}, "row 2: two sentences"),
            ({"sentences": {"sentence": ["a"]}}, "row 2: .*list of three"),
            ({"sentences": [*sentences("a b", "a c", "a d")[1:], {"sentence": "a"}]}, "row 2: .*gold_label"),
            ({"sentences": sentences("a b", " ", "a d")}, "row 2: .*empty"),
        ],
    )
    def test_a_bad_item_is_named_with_its_file(self, tmp_path, changes, word):
        path = write_stereoset(tmp_path / "s.json", [BAKER, {**BAKER, **changes}])
        with pytest.raises(TextError, match=rf"s\.json {word}"):
            read_stereoset(path, "intrasentence")

    @pytest.mark.parametrize("text", ["[]", "{}", '{"data": {"intersentence": []}}', '{"data": {"intersentence": 3}}'])
    def test_a_file_of_another_form_is_refused(self, tmp_path, text):
        with pytest.raises(TextError, match=r"s\.json has no items"):
            read_stereoset(write(tmp_path / "s.json", text), "intersentence")

    def benchmark(self, *targets):
        return Benchmark(
            "x", tuple(ChoiceItem("A", (" s", " o", " u"), (0, 1), group=name, category=name[0]) for name in targets)
        )

    def test_the_scores_of_the_paper_by_hand(self):
        found = self.benchmark("a", "a", "b")
        rows = [[-1.0, -2.0, -3.0], [-3.0, -1.0, -2.0], [-2.0, -1.0, -2.0]]
        scores = stereoset_scores(found, rows)
        assert scores.lms == pytest.approx(100 * ((1 + 0.5) / 2 + 0.75) / 2)  # targets weigh the same; a tie is half
        assert scores.ss == pytest.approx(100 * (0.5 + 0) / 2)
        assert scores.icat == pytest.approx(75 * 25 / 50)
        assert (scores.n_items, scores.n_targets) == (3, 2)
        assert stereoset_scores(found, rows, category="b").ss == 0.0

    @pytest.mark.parametrize(
        ("row", "lms", "ss", "icat"),
        [
            ([-1, -1, -9], 100, 50, 100),
            ([-1, -2, -9], 100, 100, 0),
            ([-9, -9, -1], 0, 50, 0),
            ([-2, -2, -2], 50, 50, 50),
        ],
    )
    def test_the_ideal_and_the_worst_models(self, row, lms, ss, icat):
        scores = stereoset_scores(self.benchmark("a"), [[float(value) for value in row]])
        assert (scores.lms, scores.ss, scores.icat) == (lms, ss, icat)

    @pytest.mark.parametrize(
        ("rows", "word"),
        [([], "1 items need 1"), ([[0.0, 1.0]], "item 0"), ([[0.0, 1.0, float("nan")]], "item 0")],
    )
    def test_bad_numbers_are_refused(self, rows, word):
        with pytest.raises(TextError, match=word):
            stereoset_scores(self.benchmark("a"), rows)
        with pytest.raises(TextError, match=r"'z'.*\['a'\]"):
            stereoset_scores(self.benchmark("a"), [[0.0, 1.0, 2.0]], category="z")
