import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import TextError
from contrans_lens.texts import ContrastSet, EvaluationItem

PARTS = ("train", "validation", "test")
settings.register_profile("texts", max_examples=40, deadline=None)
settings.load_profile("texts")


@st.composite
def contrast_sets(draw):
    """Fields of sets whose texts and items share groups, pairs and prompts at random."""
    n = draw(st.integers(6, 30))
    names = [f"group {k}" for k in range(draw(st.integers(3, 12)))]
    group = st.sampled_from(names)
    paired = draw(st.booleans())
    positive_groups = draw(st.lists(group, min_size=n, max_size=n))
    negative_groups = positive_groups if paired else draw(st.lists(group, min_size=n, max_size=n))
    if not draw(st.booleans()):
        positive_groups, negative_groups = [], []
    items = draw(
        st.lists(
            st.tuples(st.sampled_from([*names, "", "other"]), st.sampled_from(["p 1", "p 2", "p 3", "p 4"])),
            max_size=12,
        )
    )
    return {
        "name": "random",
        "positives": tuple(f"positive {draw(st.integers(0, 2 * n))}" for _ in range(n)),
        "negatives": tuple(f"negative {draw(st.integers(0, 2 * n))}" for _ in range(n)),
        "paired": paired,
        "positive_groups": tuple(positive_groups),
        "negative_groups": tuple(negative_groups),
        "evaluation": tuple(EvaluationItem(prompt, " a", " b", group) for group, prompt in items),
    }


def marks(part):
    """Everything that must not stand in two parts."""
    texts = {("text", text) for text in (*part.positives, *part.negatives)}
    groups = {("group", group) for group in (*part.positive_groups, *part.negative_groups) if group}
    items = {("prompt", item.prompt) for item in part.evaluation}
    item_groups = {("group", item.group) for item in part.evaluation if item.group}
    return texts | groups | items | item_groups


def components(contrast):
    """By brute force: which (side, index) belong together, by merging until nothing changes."""
    sets = []
    for side, texts, groups in (
        (0, contrast.positives, contrast.positive_groups),
        (1, contrast.negatives, contrast.negative_groups),
        (2, [item.prompt for item in contrast.evaluation], [item.group for item in contrast.evaluation]),
    ):
        for index, text in enumerate(texts):
            keys = {("text", text), ("side", side)}
            keys |= {("group", groups[index])} if groups and groups[index] else set()
            keys |= {("pair", index)} if contrast.paired and side < 2 else set()
            sets.append(keys)
    changed = True
    while changed:
        changed = False
        for one in sets:
            for other in sets:
                if one is not other and any(key[0] != "side" for key in one & other):
                    one |= other
                    sets = [keys for keys in sets if keys is not other]
                    changed = True
                    break
            if changed:
                break
    return sets


@given(contrast_sets(), st.integers(0, 5))
def test_nothing_straddles_nothing_is_lost_and_every_part_has_both_sides(fields, seed):
    contrast = ContrastSet(**fields)
    sides = [(("side", 0) in keys, ("side", 1) in keys) for keys in components(contrast)]
    possible = sides.count((True, True)) + min(sides.count((True, False)), sides.count((False, True))) >= 3
    if not possible:
        with pytest.raises(TextError, match="cannot be split"):
            contrast.split(seed=seed)
        return
    splits = contrast.split(seed=seed)
    parts = list(splits)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not marks(parts[one]) & marks(parts[other])
    for field in ("positives", "negatives", "evaluation", "positive_groups"):
        together = [value for part in parts for value in getattr(part, field)]
        assert sorted(map(str, together)) == sorted(map(str, getattr(contrast, field)))
    if contrast.paired:
        pairs = {pair for part in parts for pair in part.pairs()}
        assert pairs == set(contrast.pairs())


@given(st.integers(5, 60), st.integers(0, 10**6))
def test_shares_are_met_to_within_one_text_when_every_text_is_its_own_group(n, seed):
    contrast = ContrastSet("many", tuple(f"yes {k}" for k in range(n)), tuple(f"no {k}" for k in range(n)), paired=True)
    sizes = [len(part.positives) for part in contrast.split(seed=seed)]
    for size, share in zip(sizes, (0.6, 0.2, 0.2), strict=True):
        assert abs(size - share * n) <= 1


def test_the_seed_decides_and_only_the_seed():
    contrast = ContrastSet(
        "many", tuple(f"yes {k}" for k in range(20)), tuple(f"no {k}" for k in range(20)), paired=True
    )
    assert contrast.split(seed=3) == contrast.split(seed=3)
    assert len({contrast.split(seed=seed).train.positives for seed in range(8)}) > 4


def grouped(items=()):
    groups = tuple(name for name in "abcdef" for _ in range(3))
    return ContrastSet(
        "grouped",
        tuple(f"yes {k}" for k in range(18)),
        tuple(f"no {k}" for k in range(18)),
        paired=True,
        positive_groups=groups,
        negative_groups=groups,
        evaluation=tuple(items),
    )


def test_an_explicit_split_is_kept_and_takes_its_group_along():
    items = [
        EvaluationItem("one", " a", " b", group="c", split="test"),
        EvaluationItem("two", " a", " b", group="c"),
        EvaluationItem("three", " a", " b", group="elsewhere", split="validation"),
        EvaluationItem("four", " a", " b", split="train"),
    ]
    for seed in range(6):
        splits = grouped(items).split(seed=seed)
        assert {item.prompt for item in splits.test.evaluation} >= {"one", "two"}
        assert "c" in splits.test.positive_groups
        assert "three" in {item.prompt for item in splits.validation.evaluation}
        assert "four" in {item.prompt for item in splits.train.evaluation}


def test_contradicting_explicit_splits_are_refused():
    items = [
        EvaluationItem("one", " a", " b", group="c", split="test"),
        EvaluationItem("two", " a", " b", group="c", split="train"),
    ]
    with pytest.raises(TextError, match="would straddle"):
        grouped(items).split()


def test_item_fractions_keep_free_items_out_of_train():
    items = [EvaluationItem(f"prompt {k}", " a", " b", group=f"topic {k // 2}") for k in range(24)]
    splits = grouped(items).split(item_fractions=(0.0, 0.5, 0.5))
    assert [len(part.evaluation) for part in splits] == [0, 12, 12]


def test_too_few_groups_are_refused_with_the_part_that_lacks_texts():
    groups = ("a", "a", "b", "b")
    contrast = ContrastSet(
        "two groups",
        tuple(f"yes {k}" for k in range(4)),
        tuple(f"no {k}" for k in range(4)),
        positive_groups=groups,
        negative_groups=groups,
    )
    with pytest.raises(TextError, match="test part would have no positive"):
        contrast.split()


@pytest.mark.parametrize("fractions", [(0.8, 0.0, 0.2), (1.0, -0.5, 0.5), (0.0, 0.0, 0.0)])
def test_shares_that_cannot_be_met_are_refused(fractions):
    with pytest.raises(TextError, match="fractions"):
        grouped().split(fractions)


def test_one_positive_and_one_negative_group_a_part_are_enough():
    contrast = ContrastSet(
        "one-sided groups",
        ("p1", "p2", "p3"),
        ("n1", "n2", "n3"),
        positive_groups=("a", "b", "c"),
        negative_groups=("d", "e", "f"),
    )
    assert [(len(part.positives), len(part.negatives)) for part in contrast.split()] == [(1, 1)] * 3
