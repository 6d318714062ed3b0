from contrans_lens.rahf.keys import key_differences

KEY = {"steps": 3, "lora": {"rank": 8, "modules": ("a", "b")}, "device": None}


def test_equal_keys_have_no_differences_also_after_json():
    assert key_differences(KEY, KEY) == []
    assert key_differences({**KEY, "lora": {"rank": 8, "modules": ["a", "b"]}}, KEY) == []
    assert key_differences({"steps": 3, "lora": KEY["lora"]}, KEY) == []  # what is not there is None


def test_differences_are_named_by_their_path():
    other = {"steps": 4, "lora": {"rank": 9, "modules": ("a", "b")}, "more": "x" * 50}
    assert key_differences(KEY, other) == [
        "steps is 3 there and 4 here",
        "lora.rank is 8 there and 9 here",
        f"more is None there and '{'x' * 29}... here",
    ]
    assert key_differences(KEY, {**KEY, "lora": None})[0].startswith("lora is {")
