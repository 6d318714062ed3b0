"""Fixtures that every room's tests may use."""

from pathlib import Path

import pytest
import torch

from contrans_lens.pipeline import Settings, TransplantResult, transplant
from contrans_lens.texts import ContrastSet, EvaluationItem, PromptCue

# The suite runs in as many processes as there are cores; a second thread in each would only get in the way.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real models and texts beside the checkout; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("the folder ../shared with real models and texts is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def tiny_concept() -> ContrastSet:
    """A contrast set that is large enough to be split, about nothing in particular."""
    topics = ["cat", "dog", "bird", "fish", "tree", "house", "boat", "road", "ball", "cup", "hat", "lamp"]
    items = [EvaluationItem(f"we saw the {topic} and it was", " good", " bad", topic) for topic in topics]
    return ContrastSet(
        name="goodness",
        positives=tuple(f"the good {topic} is very" for topic in topics),
        negatives=tuple(f"the bad {topic} is very" for topic in topics),
        paired=True,
        evaluation=tuple(items),
        prompt=PromptCue("all is good. ", "all is bad. "),
    )


@pytest.fixture(scope="session")
def tiny_result(tiny_concept: ContrastSet) -> TransplantResult:
    """A whole transplant between two random models: every part runs, and nothing can transfer."""
    from tests.tiny_models import open_tiny

    texts = [
        f"{a} {b} went to {c} and"
        for a in ("the cat", "a dog", "she")
        for b in ("never", "then", "often")
        for c in ("the house", "a tree", "the road", "him")
    ]
    neutral = ["one two three four five six", "the dogs run and the birds sing", "a house and a tree"]
    settings = Settings(max_neutral_texts=3, curve_draws=2)
    return transplant(
        open_tiny("gpt2", kind="bridge"),
        open_tiny("llama", kind="bridge"),
        tiny_concept,
        texts,
        neutral=neutral,
        settings=settings,
        names=("tiny-gpt2", "tiny-llama"),
    )
