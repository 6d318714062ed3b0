import csv
import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import TextError
from contrans_lens.texts import Preference, PreferenceSet, ReadReport, preferences_from_rows, read_preferences
from tests.texts.benchmark_files import write, write_jsonl

TRIPLES = [
    {"prompt": f"Question {i}:", "chosen": f" yes {i}", "rejected": f" no {i}", "group": f"g{i // 2}"} for i in range(6)
]
HH = {side: f"\n\nHuman: Hello\n\nAssistant: {side}" for side in ("chosen", "rejected")}
BINARIZED = {
    side: [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": side}]
    for side in ("chosen", "rejected")
}
RAW = {
    "instruction": "Hello",
    "completions": [{"response": "rejected", "overall_score": 1}, {"response": "chosen", "overall_score": 2}],
}
GREETING = ("\n\nHuman: Hello\n\nAssistant:", " chosen", " rejected")


def triples_of(data):
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in data]


class TestFormats:
    @pytest.mark.parametrize(
        ("row", "form"), [(HH, "hh-rlhf"), (BINARIZED, "ultrafeedback"), (RAW, "ultrafeedback-raw")]
    )
    def test_formats_are_recognised_or_named(self, tmp_path, row, form):
        path = write_jsonl(tmp_path / "a.jsonl", {"info": 1}, row)
        for asked in ("auto", form):
            data = read_preferences(path, format=asked)
            assert triples_of(data) == [GREETING]
            assert data.report.format == form
            assert sum(data.report.dropped.values()) == 1

    def test_the_first_row_that_shows_a_format_decides(self, tmp_path):
        data = read_preferences(write_jsonl(tmp_path / "a.jsonl", 7, HH, RAW, TRIPLES[0]))
        assert data.report.dropped == {"unknown format": 1, "missing field": 1, "malformed dialogue": 1}
        assert data.report.lines == {"unknown format": (1,), "missing field": (3,), "malformed dialogue": (4,)}

    @pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "ndjson", "json", "json.gz", "csv", "csv.gz"])
    def test_triples_come_from_every_kind_of_file(self, tmp_path, ending):
        path = tmp_path / f"triples.{ending}"
        if "csv" in ending:
            plain = tmp_path / "plain.csv"
            with plain.open("w", encoding="utf-8-sig", newline="") as stream:
                writer = csv.DictWriter(stream, [*TRIPLES[0], "split", "margin"])
                writer.writeheader()
                writer.writerows(TRIPLES)
            data = plain.read_bytes()
            path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        elif ending.startswith("json") and "jsonl" not in ending:
            write(path, json.dumps(TRIPLES))
        else:
            write_jsonl(path, *TRIPLES)
        data = read_preferences(path)
        assert data == PreferenceSet(tuple(Preference(**row) for row in TRIPLES), "triples")
        assert data.report.format == "triples"
        assert data.report.unit == ("line" if ending in ("jsonl", "jsonl.gz", "ndjson") else "row")

    def test_the_other_fields_of_triples_are_read(self, tmp_path):
        row = TRIPLES[0] | {"split": "test", "topic": "t", "margin": 2, "swapped": True, "source": "elsewhere"}
        [pair] = read_preferences(write_jsonl(tmp_path / "a.jsonl", row))
        assert pair == Preference("Question 0:", " yes 0", " no 0", "g0", "test", "t", 2, True)
        path = write(
            tmp_path / "a.csv", "prompt,chosen,rejected,split,margin\na,b,c,test,1.5\nd,e,f,,\ng,,h,,\ni,j,k,,x\n"
        )
        data = read_preferences(path)
        assert data.preferences == (Preference("a", "b", "c", split="test", margin=1.5), Preference("d", "e", "f"))
        assert data.report.lines == {"empty answer": (3,), "margin not a number": (4,)}

    def test_a_rendered_triple_is_one_message(self, tmp_path):
        path = write_jsonl(tmp_path / "a.jsonl", {"prompt": "Hi", "chosen": "a", "rejected": " b"})
        for end, space in (("|", " "), ("|\n", "")):
            [pair] = read_preferences(path, render=lambda messages, end=end: f"{messages[0]['content']}{end}")
            assert pair == Preference(f"Hi{end}", f"{space}a", f"{space}b", group="Hi")

    @given(texts=st.tuples(st.text(), st.text(), st.text()), group=st.text())
    @settings(max_examples=50)
    def test_saved_sets_are_triples(self, texts, group, tmp_path_factory):
        pair = Preference(*(f"{mark}{text}" for mark, text in zip("abc", texts, strict=True)), group)
        path = PreferenceSet((pair,), "x").save(tmp_path_factory.mktemp("saved") / "x.jsonl")
        assert read_preferences(path) == PreferenceSet((pair,), "x")
        whole = path.with_suffix(".json")
        whole.write_text(json.dumps(PreferenceSet((pair,), "x").to_dict()))
        assert read_preferences(whole) == PreferenceSet((pair,), "x")

    def test_rows_of_a_data_set_are_read(self):
        datasets = pytest.importorskip("datasets")
        rows = datasets.Dataset.from_list([HH, HH])
        data = preferences_from_rows(rows, "hello")
        assert (triples_of(data), data.name) == ([GREETING], "hello")
        assert data.report == ReadReport(
            "hello", "hh-rlhf", 2, 1, {"duplicate pair": 1}, {"duplicate pair": (2,)}, 0, "row"
        )
        with pytest.raises(TextError, match=r"keys \['train'\]"):
            preferences_from_rows(datasets.DatasetDict({"train": rows}), "hello")


class TestCounts:
    def test_reasons_are_counted_with_their_first_lines(self, tmp_path):
        bad = {"prompt": "a", "chosen": "b", "rejected": "b"}
        lines = [json.dumps(row) for row in (TRIPLES[0], bad, TRIPLES[0], "x", TRIPLES[1])]
        lines[1:1] = ["", '{"prompt": "a', *([json.dumps(bad)] * 12)]
        data = read_preferences(write(tmp_path / "a.jsonl", "\n".join(lines)))
        assert triples_of(data) == [tuple(row.values())[:3] for row in TRIPLES[:2]]
        report = data.report
        assert report.dropped == {"equal answers": 13, "not JSON": 1, "duplicate pair": 1, "not an object": 1}
        assert report.lines == {
            "equal answers": tuple(range(4, 14)),
            "not JSON": (3,),
            "duplicate pair": (17,),
            "not an object": (18,),
        }
        assert report.read == 18 == report.kept + sum(report.dropped.values())
        assert str(report).splitlines()[:2] == [
            "a.jsonl (triples): 18 read, 2 kept",
            "  13 dropped: equal answers (line 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, ...)",
        ]
        assert ReadReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report

    def test_strict_refuses_at_the_first(self, tmp_path):
        path = write_jsonl(tmp_path / "a.jsonl", HH, HH | {"rejected": HH["chosen"]}, 7)
        with pytest.raises(TextError, match=r"a\.jsonl line 2: equal answers"):
            read_preferences(path, strict=True)
        assert len(read_preferences(path)) == 1

    def test_a_file_without_usable_pairs_says_why(self, tmp_path):
        path = write_jsonl(tmp_path / "a.jsonl", {"a": 1}, {"a": 2})
        with pytest.raises(TextError, match=r"no usable pair(.|\n)*2 dropped: unknown format \(line 1, 2\)"):
            read_preferences(path)

    def test_reports_that_are_none_are_refused(self):
        for row in ({}, {"lines": 1, "dropped": {}}, {"lines": {}, "dropped": {}, "colour": 1}):
            with pytest.raises(TextError, match="read report"):
                ReadReport.from_dict(row)


class TestFiles:
    def test_windows_files_are_read(self, tmp_path):
        row = {"prompt": "a\u2028b\r\n", "chosen": " c\x0b", "rejected": " d\x85"}
        text = "\ufeff" + "\r\n".join(json.dumps(each, ensure_ascii=False) for each in (row, TRIPLES[0])) + "\r\n\r\n"
        for path in (tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"):
            data = read_preferences(write(path, text), strict=True)
            assert data.preferences[0] == Preference(**row)
            assert len(data) == 2

    @pytest.mark.parametrize(
        ("name", "content", "word"),
        [
            ("a.jsonl", b"", "has no rows"),
            ("a.jsonl", b" \r\n\n", "has no rows"),
            ("a.json", b"", "has no rows"),
            ("a.csv", b"", "has no rows"),
            ("a.jsonl.gz", gzip.compress(b"", mtime=0), "has no rows"),
            ("a.jsonl.gz", b"", "has no rows"),
            ("a.jsonl.gz", gzip.compress(json.dumps(HH).encode(), mtime=0)[:-12], "cannot be read"),
            ("a.jsonl.gz", gzip.compress(json.dumps(HH).encode(), mtime=0)[:10] + b"\xff" * 40, "cannot be unpacked"),
            ("a.jsonl.gz", json.dumps(HH).encode(), "cannot be read"),
            ("a.jsonl", bytes(range(256)), "not UTF-8"),
            ("a.jsonl", json.dumps(HH).encode("utf-16"), "not UTF-8"),
            ("a.jsonl", b"\x00\x01\x02\n\x03", "not JSON"),
            ("a.jsonl", b"[" * 100_000, "not JSON"),
            ("a.jsonl", b"9" * 10_000, "not JSON"),
            ("a.json", b"[" * 100_000, "not JSON"),
            ("a.json", b'{"a": 1}', "a list of rows"),
            ("a.csv", b'prompt,chosen,rejected\na,"b\n', "csv"),
            ("a.parquet", b"PAR1", "should end in"),
        ],
    )
    def test_files_that_cannot_be_read_say_so(self, tmp_path, name, content, word):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(TextError, match=rf"a\.\w+(.|\n)*{word}"):
            read_preferences(path)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(TextError, match=r"b\.jsonl does not exist"):
            read_preferences(tmp_path / "b.jsonl")


class TestOptions:
    def test_a_limit_takes_the_first_or_a_sample_by_seed(self, tmp_path):
        rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "a" if i % 3 == 0 else "b"} for i in range(60)]
        path = write_jsonl(tmp_path / "a.jsonl", *rows)
        usable = triples_of(read_preferences(path))
        first = read_preferences(path, limit=10)
        assert triples_of(first) == usable[:10]
        assert (first.report.read, first.report.left_out, first.report.dropped) == (15, 0, {"equal answers": 5})
        drawn = read_preferences(path, limit=10, seed=4)
        assert triples_of(drawn) == sorted(triples_of(drawn), key=usable.index)
        assert len(drawn) == 10
        assert drawn == read_preferences(path, limit=10, seed=4) != read_preferences(path, limit=10, seed=5)
        assert (drawn.report.read, drawn.report.kept, drawn.report.left_out) == (60, 10, 30)
        assert "30 left out by the limit" in str(drawn.report)
        assert read_preferences(path, limit=100, seed=1) == read_preferences(path)

    def test_all_pairs_may_be_pinned(self, tmp_path):
        path = write_jsonl(tmp_path / "a.jsonl", TRIPLES[0], TRIPLES[1] | {"split": "test"})
        assert [pair.split for pair in read_preferences(path)] == [None, "test"]
        assert [pair.split for pair in read_preferences(path, split="train")] == ["train", "train"]

    def test_scores_may_ask_for_a_margin(self, tmp_path):
        path = write_jsonl(tmp_path / "a.jsonl", RAW, BINARIZED | RAW)
        assert len(read_preferences(path)) == 1
        with pytest.raises(TextError, match="no preference in the scores"):
            read_preferences(path, min_margin=1)
        with pytest.raises(TextError, match="too few scored"):
            read_preferences(path, score="quality")

    @pytest.mark.parametrize("options", [{"limit": 0}, {"split": "dev"}])
    def test_options_that_mean_nothing_are_refused(self, tmp_path, options):
        with pytest.raises(TextError, match=next(iter(options))):
            read_preferences(write_jsonl(tmp_path / "a.jsonl", HH), **options)
