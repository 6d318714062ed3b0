import pytest

from contrans_lens.errors import TextError
from contrans_lens.texts import Preference, UnusablePair
from contrans_lens.texts.ultrafeedback import ultrafeedback_preference, ultrafeedback_raw_preference


def messages(*contents, roles=("user", "assistant")):
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


ROW = {
    "prompt": "Name a colour.",
    "prompt_id": "3f",
    "chosen": messages("Name a colour.", "Red."),
    "rejected": messages("Name a colour.", "  Seven"),
    "messages": messages("Name a colour.", "Red."),
    "score_chosen": 8.5,
    "score_rejected": 5,
}
RAW = {
    "source": "evol_instruct",
    "instruction": "Name a  colour.",
    "models": ["a", "b", "c"],
    "completions": [
        {"response": "Blue", "overall_score": 7, "fine-grained_score": 4.0},
        {"response": "Red", "overall_score": "8.5", "fine-grained_score": 3.0},
        {"response": "Late red", "overall_score": 8.5, "fine-grained_score": 4.5},
        {"response": "Seven", "overall_score": 2.0, "fine-grained_score": 4.25},
        {"response": "No score", "overall_score": "N/A", "fine-grained_score": 2.5},
    ],
}


class TestBinarized:
    def test_messages_become_a_dialogue(self):
        assert ultrafeedback_preference(ROW) == Preference(
            "\n\nHuman: Name a colour.\n\nAssistant:", " Red.", "  Seven", group="Name a colour.", margin=3.5
        )

    @pytest.mark.parametrize("prompt", ["Name a colour.", messages("Name a colour.")])
    def test_answers_may_stand_apart_from_the_prompt(self, prompt):
        row = ROW | {"prompt": prompt, "chosen": ROW["chosen"][1:], "rejected": ROW["rejected"][1:]}
        assert ultrafeedback_preference(row) == ultrafeedback_preference(ROW)

    def test_turns_before_the_answers_are_the_prompt(self):
        system = {"role": "system", "content": "Be brief."}
        turns = [system, *messages("Hi", "Hello", "And?")]
        row = {side: [*turns, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
        pair = ultrafeedback_preference(row | {"source": "chat"})
        assert pair.prompt == "Be brief.\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And?\n\nAssistant:"
        assert (pair.chosen, pair.group, pair.topic, pair.margin) == (" chosen", "Hi", "chat", None)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"chosen": None}, "missing field"),
            ({"chosen": "Red."}, "wrong type"),
            ({"chosen": []}, "wrong type"),
            ({"chosen": ["Name a colour.", "Red."]}, "not an object"),
            ({"chosen": [{"role": "user"}]}, "missing field"),
            ({"chosen": messages("Name a colour.", 7)}, "wrong type"),
            ({"chosen": messages("Name a colour.", "Red.", roles=("user", "tool"))}, "malformed dialogue"),
            ({"chosen": messages("Name a colour.")}, "does not end with the assistant"),
            ({"chosen": messages("Name a colour.", "Red.", "Thanks")}, "does not end with the assistant"),
            ({"chosen": messages("Name a number.", "Red.")}, "no shared prompt"),
            ({"chosen": messages("Name a colour.", "Seven")}, "equal answers"),
            ({"rejected": messages("Name a colour.", " ")}, "empty answer"),
            ({"score_rejected": 8.5}, "no preference in the scores"),
            ({"score_rejected": 9}, "no preference in the scores"),
            ({"chosen": messages("\n", "a"), "rejected": messages("\n", "b")}, "malformed dialogue"),
            (
                {side: messages("a", side, roles=("assistant", "assistant")) for side in ("chosen", "rejected")},
                "malformed dialogue",
            ),
        ],
    )
    def test_rows_that_are_no_preference_give_their_reason(self, changes, reason):
        with pytest.raises(UnusablePair) as caught:
            ultrafeedback_preference(ROW | changes)
        assert caught.value.reason == reason

    @pytest.mark.parametrize("score", [None, "N/A", float("nan"), True, [1]])
    def test_without_both_scores_there_is_no_margin(self, score):
        assert ultrafeedback_preference(ROW | {"score_rejected": score}).margin is None

    def test_small_margins_may_be_refused(self):
        assert ultrafeedback_preference(ROW, min_margin=3.4).margin == 3.5
        with pytest.raises(UnusablePair, match=r"above 3\.5"):
            ultrafeedback_preference(ROW, min_margin=3.5)

    def test_a_template_that_refuses_is_a_reason(self):
        def refuse(messages):
            raise TextError("only three roles")

        with pytest.raises(UnusablePair, match="refused by the template: only three roles"):
            ultrafeedback_preference(ROW, refuse)

    def test_a_template_that_ends_in_a_line_end_gets_no_space(self):
        pair = ultrafeedback_preference(ROW, lambda messages: f"[{messages[-1]['content']}]\n")
        assert (pair.prompt, pair.chosen, pair.rejected) == ("[Name a colour.]\n", "Red.", "  Seven")


class TestRaw:
    def test_the_best_and_the_worst_completion_are_taken(self):
        assert ultrafeedback_raw_preference(RAW) == Preference(
            "\n\nHuman: Name a  colour.\n\nAssistant:",
            " Red",
            " Seven",
            group="Name a colour.",
            topic="evol_instruct",
            margin=6.5,
        )

    def test_another_score_may_decide(self):
        pair = ultrafeedback_raw_preference(RAW, score="fine-grained_score")
        assert (pair.chosen, pair.rejected, pair.margin) == (" Late red", " No score", 2.0)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"instruction": None}, "missing field"),
            ({"instruction": ["a"]}, "wrong type"),
            ({"completions": {"a": 1}}, "wrong type"),
            ({"completions": ["a", "b"]}, "not an object"),
            ({"completions": [{"overall_score": 1}] * 2}, "missing field"),
            ({"completions": [{"response": 3, "overall_score": 1}]}, "wrong type"),
            ({"completions": RAW["completions"][-2:]}, "too few scored completions"),
            ({"completions": RAW["completions"][1:3]}, "no preference in the scores"),
            ({"completions": [{"response": "a", "overall_score": i} for i in range(3)]}, "equal answers"),
            ({"completions": [{"response": "a" * i, "overall_score": i} for i in range(3)]}, "empty answer"),
        ],
    )
    def test_rows_that_are_no_preference_give_their_reason(self, changes, reason):
        with pytest.raises(UnusablePair) as caught:
            ultrafeedback_raw_preference(RAW | changes)
        assert caught.value.reason == reason
