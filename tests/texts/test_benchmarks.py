from contrans_lens.texts import (
    Benchmark,
    Problem,
)


def test_a_benchmark_counts_its_problems():
    problems = (Problem(1, "a", ""), Problem(1, "b", "", True), Problem(2, "b", "", True), Problem(2, "b", "", True))
    found = Benchmark("x", (), problems)
    assert found.problem_counts == {"b": 3, "a": 1}
    assert found.dropped == 2
