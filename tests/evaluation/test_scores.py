import pytest
import torch

from contrans_lens.errors import EvaluationError, HookPointError, TextError
from contrans_lens.evaluation import score_items, score_vectors
from contrans_lens.evaluation.continuations import plan_items
from contrans_lens.evaluation.passes import CellPasses
from contrans_lens.evaluation.stacked import StackedRuns
from contrans_lens.interventions import GENERATED, PROMPT, Intervention
from contrans_lens.models import hooks, logits, open_model, tokenize
from contrans_lens.texts import EvaluationItem
from tests.tiny_models import (
    D_MODEL,
    HF_KINDS,
    KINDS,
    N_CTX,
    PARITY_ARCHITECTURES,
    hf_tiny,
    open_tiny,
    tiny_folder,
)

ITEMS = (
    EvaluationItem("The sky is", " green", " grass"),
    EvaluationItem("Once upon a time there was", " a girl", " a man"),  # a shared first token, then words
    EvaluationItem("He said: the answer is 42", ", and", " and no"),
    EvaluationItem("Every day the man walked to the river and felt hap", "py", "less"),  # tokens merge over the seam
    EvaluationItem("No!", " Ne", " Never"),  # the first continuation begins the second
    EvaluationItem("Is the sky green? Answer:", " yes", " no"),
    EvaluationItem("Once upon a tim", "e there was", "id girl"),
)
HOOK_POINT = "blocks.1.hook_resid_post"


def additions(n, scale=2.0, seed=0):
    return scale * torch.randn(n, D_MODEL, generator=torch.Generator().manual_seed(seed))


def brute_force(log_odds_of_text, item):
    """The score by the definition, from the log-probability of each whole text."""
    return torch.sigmoid(log_odds_of_text(item.prompt + item.positive) - log_odds_of_text(item.prompt + item.negative))


def hf_log_probability(architecture, model):
    """Sum of log-softmax over a whole text in plain Hugging Face, tokenised by Hugging Face."""
    hf, tokenizer = hf_tiny(architecture)
    bos = [tokenizer.bos_token_id] if model.cfg.default_prepend_bos and tokenizer.bos_token_id is not None else []

    def log_probability(text):
        ids = torch.tensor([bos + tokenizer(text, add_special_tokens=False).input_ids])
        with torch.no_grad():
            log_p = hf(ids).logits.double().log_softmax(-1)
        return log_p[0, :-1].gather(1, ids[0, 1:, None]).sum()

    return log_probability


def own_log_probability(model):
    def log_probability(text):
        batch = tokenize(model, [text])
        log_p = logits(model, batch).double().log_softmax(-1)
        return log_p[0, :-1].gather(1, batch.tokens[0, 1:, None]).sum()

    return log_probability


def one_by_one(model, vectors, hook_point=HOOK_POINT, items=ITEMS):
    rows = []
    for vector in vectors:
        with hooks(model, {hook_point: lambda activation, vector=vector: activation + vector}):
            rows.append(torch.stack([brute_force(own_log_probability(model), item) for item in items]))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", HF_KINDS)
@pytest.mark.parametrize("architecture", PARITY_ARCHITECTURES)
def test_scores_equal_brute_force_in_hugging_face(architecture, kind):
    model = open_tiny(architecture, kind)
    expected = torch.stack([brute_force(hf_log_probability(architecture, model), item) for item in ITEMS])
    assert torch.allclose(score_items(model, ITEMS), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", PARITY_ARCHITECTURES)
def test_fast_path_equals_plain_path_and_brute_force(architecture, kind):
    model = open_tiny(architecture, kind)
    vectors = additions(3)
    plain = score_vectors(model, ITEMS, HOOK_POINT, vectors, fan_out=False, measure="log_odds")
    fanned = score_vectors(model, ITEMS, HOOK_POINT, vectors, fan_out=True, measure="log_odds")
    assert torch.allclose(fanned, plain, atol=1e-5)
    expected = one_by_one(model, vectors[:1], items=ITEMS[1:4])
    assert torch.allclose(fanned[:1, 1:4].sigmoid(), expected, atol=1e-5)
    runs = StackedRuns(model, plan_items(model, ITEMS), [HOOK_POINT])
    for _ in runs.logits(runs.groups(64)[0], additions(64), HOOK_POINT):
        pass
    assert runs._stands == {HOOK_POINT: True}  # every kind stands it
    assert runs._trims


@pytest.mark.parametrize(
    "hook_point", ["blocks.0.hook_resid_pre", "blocks.3.hook_resid_post", "blocks.2.hook_mlp_out", "hook_embed"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_other_hook_points(kind, hook_point):
    model = open_tiny("gpt2", kind)
    vectors = additions(32)
    fast = score_vectors(model, ITEMS[:3], hook_point, vectors)
    assert torch.allclose(fast[:1], one_by_one(model, vectors[:1], hook_point, ITEMS[:3]), atol=1e-5)
    assert torch.allclose(
        fast[-4:], score_vectors(model, ITEMS[:3], hook_point, vectors[-4:], fan_out=False), atol=1e-5
    )


@pytest.mark.parametrize("fan_out", [True, False, None])
@pytest.mark.parametrize("token_budget", [1, 60])
def test_the_budget_changes_nothing(token_budget, fan_out):
    model = open_tiny("llama", "bridge")
    vectors = additions(3)
    expected = score_vectors(model, ITEMS, HOOK_POINT, vectors)
    found = score_vectors(model, ITEMS, HOOK_POINT, vectors, token_budget=token_budget, fan_out=fan_out)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(
        score_items(model, ITEMS, token_budget=token_budget), score_items(model, ITEMS, batch_size=2), atol=1e-5
    )


def refuses(self, batch, residual, part, hook_point, reads, cut, trim):
    raise RuntimeError("The size of tensor a (2) must match the size of tensor b (6)")


def mixes_rows(self, batch, residual, part, hook_point, reads, cut, trim):
    return self.plain(batch, part.flip(0), hook_point, reads)


@pytest.mark.parametrize("broken", [refuses, mixes_rows])
def test_a_model_that_does_not_stand_resuming_is_run_the_plain_way(monkeypatch, broken):
    vectors = additions(64)
    expected = score_vectors(open_tiny("gpt2", "bridge"), ITEMS, HOOK_POINT, vectors)
    monkeypatch.setattr(CellPasses, "resumed", broken)
    model = open_tiny("gpt2", "bridge", fresh=True)  # what was found out about a model is remembered
    assert torch.allclose(score_vectors(model, ITEMS, HOOK_POINT, vectors), expected, atol=1e-5)


def test_a_model_without_anunembedding_module_gives_the_same(monkeypatch):
    model = open_tiny("gpt2", "bridge")
    expected = score_items(model, ITEMS)
    monkeypatch.setattr("contrans_lens.evaluation.passes.unembedding", lambda model: None)
    assert torch.allclose(score_items(model, ITEMS), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_interventions_equal_stacked_additions_and_zero_does_nothing(kind):
    model = open_tiny("qwen3", kind)
    vectors = torch.cat([additions(3), torch.zeros(1, D_MODEL)])
    stacked = score_vectors(model, ITEMS, HOOK_POINT, vectors)
    for vector, row in zip(vectors, stacked, strict=True):
        steered = score_items(model, ITEMS, Intervention(HOOK_POINT, vector, unit="absolute"))
        assert torch.allclose(row, steered, atol=1e-5)
    assert torch.allclose(stacked[-1], score_items(model, ITEMS), atol=1e-6)
    assert not torch.allclose(stacked[0], stacked[-1], atol=1e-2)


@pytest.mark.parametrize("positions", [PROMPT, GENERATED])
def test_prompt_positions_end_where_the_continuation_begins(positions):
    model = open_tiny("llama", "bridge")
    [vector] = additions(1)
    found = score_items(model, ITEMS, Intervention(HOOK_POINT, vector, unit="absolute", positions=positions))
    for item, score in zip(ITEMS, found, strict=True):
        log_p = []
        for side in (item.positive, item.negative):
            batch = tokenize(model, [item.prompt + side])
            prompt = torch.tensor([[stop <= len(item.prompt) for _, stop in batch.offsets[0]]])
            where = prompt if positions is PROMPT else ~prompt

            def steer_here(activation, where=where):
                return activation + where[..., None] * vector

            with hooks(model, {HOOK_POINT: steer_here}):
                log_p.append(own_log_probability(model)(item.prompt + side))
        assert score.item() == pytest.approx(torch.sigmoid(log_p[0] - log_p[1]).item(), abs=1e-5)


def test_one_pass_serves_both_continuations_unless_both_go_on():
    model = open_tiny("gpt2", "bridge")
    [row] = plan_items(model, [EvaluationItem("The sky is", "!", ".")])
    assert [(read.position, read.sign) for read in row.reads] == [(len(row.tokens) - 1, 1), (len(row.tokens) - 1, -1)]
    assert row.prompt_length == len(row.tokens)
    [row] = plan_items(model, [EvaluationItem("The sky is", "!", "...")])
    assert [read.sign for read in row.reads] == [-1, -1, -1, 1]
    rows = plan_items(model, [EvaluationItem("The sky is", "!!", "??")])
    assert [[read.sign for read in row.reads] for row in rows] == [[1, 1], [-1, -1]]


def test_equal_sequences_are_run_once():
    model = open_tiny("gpt2", "bridge")
    mirrored = EvaluationItem("The sky is", "?", "!")
    items = [EvaluationItem("The sky is", "!", "?"), mirrored, EvaluationItem("The sky is", "!", ".")]
    [row] = plan_items(model, items)
    assert len(row.reads) == 6
    scores = score_items(model, items)
    assert (scores[0] + scores[1]).item() == pytest.approx(1.0)


def test_a_shared_beginning_cancels():
    model = open_tiny("gpt2", "bridge")
    longer = EvaluationItem("The sky is", " green?", " green!")
    shorter = EvaluationItem("The sky is green", "?", "!")
    scores = score_items(model, [longer, shorter])
    assert scores[0].item() == pytest.approx(scores[1].item(), abs=1e-6)


def test_bfloat16_scores_are_close_and_accumulated_wide():
    model = open_model(tiny_folder("llama"), kind="bridge", dtype=torch.bfloat16, device="cpu")
    scores = score_vectors(model, ITEMS, HOOK_POINT, additions(40))
    assert scores.dtype == torch.float64
    exact = score_vectors(open_tiny("llama", "bridge"), ITEMS, HOOK_POINT, additions(40))
    assert (scores - exact).abs().median() < 0.05


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("hooked", "bridge")])
def test_fast_path_on_trained_weights(shared_dir, kind):
    model = open_model(shared_dir / "models" / "stories-260k", kind=kind, device="cpu")
    items = [
        EvaluationItem("Once upon a time there was a little girl. She was very", " happy", " sad"),
        EvaluationItem("The dog lost his ball. He felt", " sad.", " happy."),
    ]
    width = model.cfg.d_model
    vectors = torch.randn(40, width, generator=torch.Generator().manual_seed(0))
    fast = score_vectors(model, items, "blocks.2.hook_resid_post", vectors, measure="log_odds")
    plain = score_vectors(model, items, "blocks.2.hook_resid_post", vectors, measure="log_odds", fan_out=False)
    assert torch.allclose(fast, plain, atol=1e-4)
    expected = one_by_one(model, vectors[:1], "blocks.2.hook_resid_post", items)
    assert torch.allclose(fast[:1].sigmoid(), expected, atol=1e-5)


def test_hooks_are_gone_after_an_error():
    model = open_tiny("gpt2", "bridge")
    before = score_items(model, ITEMS)
    for _ in range(2):
        with pytest.raises(EvaluationError, match=r"item 0.*not finite under vector 1"):
            score_vectors(model, ITEMS, HOOK_POINT, torch.tensor([[1.0], [3e38]]).expand(2, D_MODEL))
    assert torch.equal(score_items(model, ITEMS), before)


def long_item():
    return EvaluationItem("girl river " * N_CTX, " yes", " no")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: score_items(m, []), EvaluationError, "no evaluation items"),
        (lambda m: score_items(m, [ITEMS[0], long_item()]), EvaluationError, "item 1 .*context is 128"),
        (lambda m: score_items(m, ITEMS, token_budget=0), EvaluationError, "token_budget"),
        (lambda m: score_vectors(m, ITEMS, "blocks.9.hook_resid_post", additions(2)), HookPointError, "blocks.9"),
        (lambda m: score_vectors(m, ITEMS, HOOK_POINT, torch.ones(2, 3)), EvaluationError, "32"),
        (lambda m: score_vectors(m, ITEMS, HOOK_POINT, torch.ones(0, D_MODEL)), EvaluationError, "at least one"),
        (
            lambda m: score_vectors(m, ITEMS, HOOK_POINT, torch.full((2, D_MODEL), torch.nan)),
            EvaluationError,
            "addition 0",
        ),
        (lambda m: EvaluationItem("The sky is", "", " no"), TextError, "empty"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(open_tiny("gpt2", "bridge"))


def unchecked_item(prompt, positive, negative):
    """An item as a caller could make it who avoids the checks of EvaluationItem."""
    item = object.__new__(EvaluationItem)
    for name, value in {"prompt": prompt, "positive": positive, "negative": negative}.items():
        object.__setattr__(item, name, value)
    return item


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (unchecked_item("The sky is", "", " no"), "positive continuation is empty"),
        (unchecked_item("The sky is", " no", " no"), "same tokens"),
        (unchecked_item("", "yes", "no"), "nothing to predict it from"),
    ],
)
def test_unusable_continuations_are_named(item, message):
    with pytest.raises(EvaluationError, match=message):
        score_items(open_tiny("qwen2", "bridge"), [item])
