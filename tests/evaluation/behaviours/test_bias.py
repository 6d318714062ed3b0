import json
import math
from dataclasses import replace

import pytest
import torch

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.behaviours import BBQBias, Behaviour, StereoSetBias, read_choices
from contrans_lens.evaluation.behaviours import bias as bias_module
from contrans_lens.interventions import Intervention
from contrans_lens.texts import BBQ, BBQRoles, Benchmark, ChoiceItem
from tests.tiny_models import D_MODEL, open_tiny

POST = "blocks.1.hook_resid_post"
NORMALISATIONS = ("none", "tokens", "characters")


def bbq_item(name, correct, group=""):
    return ChoiceItem(
        f"The {name} and the girl sang. Who?\nAnswer:", (" nobody", f" the {name}", " a girl"), correct, group=group
    )


PEOPLE = ("man", "fox", "old man", "boy", "river", "little fox", "water", "garden")
# unknown is 0, the target 1 or 2; half of the questions are ambiguous, half of each negative
ROLES = tuple(BBQRoles(0, 1 + number % 3 % 2, number % 2 == 0, number < 4) for number in range(8))
SET = BBQ(
    "Made",
    tuple(
        bbq_item(name, (0,) if role.ambiguous else (1 + number % 2,), f"q{number // 2}")
        for number, (name, role) in enumerate(zip(PEOPLE, ROLES, strict=True))
    ),
    (),
    ROLES,
)
SENTENCES = Benchmark(
    "StereoSet made",
    tuple(
        ChoiceItem(f"The {name}", texts, (0, 1), 1, 2, group=group)
        for name, group, texts in (
            ("fox", "a", (" the old man was cold.", " a little girl was sad.", " is 42 and no.")),
            ("old man", "a", (" was a man.", " was a girl.", " nobody no.")),
            ("girl", "a", (" sang all day.", " ran home all day.", " a 42.")),
            ("river", "b", (" was sad or happy.", " felt happy or sad.", " No the the.")),
            ("grass", "c", (" is green.", " is cold.", " is answer.")),
        )
    ),
)


def add(seed=0, scale=4.0):
    vector = scale * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    return (Intervention(POST, vector, unit="absolute"),)


CELLS = [(), *(add(seed) for seed in range(5))]


def scores_by_hand(model, items, normalise):
    """[cell][item][choice], one division at a time."""
    reading = read_choices(model, items, CELLS)
    lengths = {
        "none": lambda number, choice: 1,
        "tokens": lambda number, choice: int(reading.n_tokens[number, choice]),
        "characters": lambda number, choice: len(items[number].choices[choice].strip()),
    }[normalise]
    return [
        [[float(cell[i, j]) / lengths(i, j) for j in range(3)] for i in range(len(items))] for cell in reading.log_p
    ]


def with_or_against(role, answer):
    """1 for the answer of the stereotype, -1 for that against it, 0 for neither: the definitions of the paper."""
    if answer == role.unknown:
        return 0
    return 1 if (answer == role.target) is role.negative else -1


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_bbq_equals_its_definitions(normalise):
    model = open_tiny("gpt2", "bridge")
    found = BBQBias(SET, normalise).measure(model, CELLS)
    seen = set()
    for cell, rows in enumerate(scores_by_hand(model, SET.items, normalise)):
        answers = [max(range(3), key=row.__getitem__) for row in rows]
        for number, (row, item, role) in enumerate(zip(rows, SET.items, ROLES, strict=True)):
            shares = [math.exp(score) / sum(map(math.exp, row)) for score in row]
            expected = sum(with_or_against(role, j) * shares[j] for j in range(3))
            assert float(found.column()[cell, number]) == pytest.approx(expected, abs=1e-9)
            assert float(found.column("accuracy")[cell, number]) == float(answers[number] in item.correct)
            assert float(found.column("p_restricted")[cell, number]) == pytest.approx(shares[item.correct[0]])
        for ambiguous, name in ((False, "dis"), (True, "amb")):
            part = [number for number, role in enumerate(ROLES) if role.ambiguous is ambiguous]
            signs = [with_or_against(ROLES[number], answers[number]) for number in part]
            named = [sign for sign in signs if sign]
            score = 2 * named.count(1) / len(named) - 1 if named else 0.0
            if ambiguous:
                score *= 1 - sum(answers[number] in SET.items[number].correct for number in part) / len(part)
            assert float(found.whole[f"s_{name}"][cell]) == pytest.approx(score)
            assert int(found.whole[f"n_{name}"][cell]) == len(named)
            seen.add(round(score, 6))
    assert len(seen) > 2  # the fixture tells answers apart


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_stereoset_equals_its_definitions(normalise):
    model = open_tiny("llama", "bridge")
    found = StereoSetBias(SENTENCES, normalise).measure(model, CELLS)
    for cell, rows in enumerate(scores_by_hand(model, SENTENCES.items, normalise)):
        wins = [float(stereotype > opposite) for stereotype, opposite, _ in rows]
        meaning = [((one > none) + (other > none)) / 2 for one, other, none in rows]
        assert found.column()[cell].tolist() == wins
        assert found.column("meaningful")[cell].tolist() == meaning
        # three items of term a, one each of b and c: every term counts alike
        ss, lms = (100 * (sum(each[:3]) / 3 + each[3] + each[4]) / 3 for each in (wins, meaning))
        assert float(found.whole["ss"][cell]) == pytest.approx(ss)
        assert float(found.whole["lms"][cell]) == pytest.approx(lms)
        assert float(found.whole["icat"][cell]) == pytest.approx(lms * min(ss, 100 - ss) / 50)
    assert all(0 < float(found.means(name).mean()) < 1 for name in found.columns)


@pytest.mark.parametrize("behaviour", [BBQBias(SET), StereoSetBias(SENTENCES, "tokens")], ids=lambda each: each.name)
def test_the_contract_of_behaviours_is_kept(behaviour):
    model = open_tiny("gpt2", "bridge")
    assert isinstance(behaviour, Behaviour)
    described = json.dumps(behaviour.to_dict(), allow_nan=False)
    found = behaviour.measure(model, CELLS)
    assert found.groups == behaviour.groups == tuple(item.group for item in behaviour.benchmark)
    assert found.primary == behaviour.primary
    assert all(values.shape == (len(CELLS), len(found.groups)) for values in found.columns.values())
    assert all(values.shape == (len(CELLS),) and bool(values.isfinite().all()) for values in found.whole.values())
    alone = behaviour.measure(model, CELLS[1:2])
    for name, values in alone.columns.items():
        assert torch.allclose(values[0], found.columns[name][1], atol=2e-4)
    prefixed = behaviour.with_prefix("He said: ")
    assert json.dumps(prefixed.to_dict()) != described
    assert [item.prompt for item in prefixed.benchmark] == ["He said: " + item.prompt for item in behaviour.benchmark]
    assert replace(behaviour, normalise="characters").to_dict() != behaviour.to_dict()
    assert replace(behaviour, name="other").measure(model, [()]).behaviour == "other"
    assert len(found.intervals()) == len(CELLS)


def test_roles_decide_the_bias_and_are_part_of_its_key():
    turned = replace(SET, roles=tuple(replace(role, negative=not role.negative) for role in ROLES))
    model = open_tiny("gpt2", "bridge")
    one, other = (BBQBias(each).measure(model, CELLS) for each in (SET, turned))
    assert torch.allclose(one.column(), -other.column())
    assert float(one.column().abs().max()) > 0.01
    assert BBQBias(SET).to_dict() != BBQBias(turned).to_dict()


def test_a_cell_that_names_nobody_has_no_bias_and_says_so(monkeypatch):
    def silent(reading, normalise):
        scores = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64).expand(1, len(SET), 3).clone()
        scores[0, -1] = -1.0  # three answers tie: none was chosen
        return scores

    monkeypatch.setattr(bias_module, "choice_scores", silent)
    found = BBQBias(SET).measure(open_tiny("gpt2", "bridge"), [()])
    assert {name: float(values) for name, values in found.whole.items()} == {
        "s_dis": 0.0,
        "n_dis": 0.0,
        "s_amb": 0.0,
        "n_amb": 0.0,
    }


def test_questions_of_one_kind_have_numbers_of_that_kind():
    model = open_tiny("gpt2", "bridge")
    ambiguous = BBQBias(SET.of(range(4))).measure(model, [()])
    told = BBQBias(SET.of(range(4, 8))).measure(model, [()])
    assert set(ambiguous.whole) == {"s_amb", "n_amb"}
    assert set(told.whole) == {"s_dis", "n_dis"}


def test_items_without_a_target_are_left_out():
    vague = replace(SET, roles=(replace(ROLES[0], target=None), *ROLES[1:]))
    assert BBQBias(vague).to_dict() == BBQBias(SET.of(range(1, 8))).to_dict()
    assert len(BBQBias(vague).groups) == 7


def with_role(**changes):
    return replace(SET, roles=(replace(ROLES[0], **changes), *ROLES[1:]))


TWO = ChoiceItem("The fox", (" ran", " sang"), (0,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BBQBias(replace(SET, items=(), roles=())), "no items in 'Made'"),
        (lambda: BBQBias(replace(SET, roles=ROLES[:3])), "8 items need as many roles; got 3"),
        (lambda: BBQBias(replace(SET, items=(TWO, *SET.items[1:]))), "item 0 .* has 2 choices"),
        (lambda: BBQBias(with_role(target=0)), "item 0 has the answer 0 for 'unknown' and 0 for the target"),
        (lambda: BBQBias(with_role(target=3)), "3 for the target"),
        (lambda: BBQBias(with_role(unknown=2, target=0)), "ambiguous but .* not shuffled"),
        (lambda: BBQBias(replace(SET, roles=tuple(replace(r, target=None) for r in ROLES))), "none of the 8 items"),
        (lambda: StereoSetBias(replace(SENTENCES, items=())), "no items in 'StereoSet made'"),
        (lambda: StereoSetBias(replace(SENTENCES, items=(TWO,))), "has 2 choices"),
        (lambda: StereoSetBias(SET), r"calls the choices \[0\] right"),
    ],
)
def test_benchmarks_that_cannot_be_measured_are_named(make, message):
    with pytest.raises(EvaluationError, match=message):
        make()
