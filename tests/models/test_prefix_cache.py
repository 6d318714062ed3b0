import pytest
import torch

from contrans_lens.models import PrefixCache, TokenBatch, hooks, run
from tests.tiny_models import ARCHITECTURES, D_MODEL, KINDS, open_tiny

CACHED = [kind for kind in KINDS if kind != "native"]


def batch_of(tokens):
    mask = torch.ones_like(tokens, dtype=torch.bool)
    return TokenBatch(tokens, mask, True, "right", ((),) * len(tokens), (0,) * len(tokens))


@pytest.mark.parametrize("kind", CACHED)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_continue_the_beginnings_they_are_given(architecture, kind):
    """From block 2 on there are two beginnings and three rows; what is fed is one row of tokens."""
    model, cut = open_tiny(architecture, kind), 4
    tokens = torch.arange(5, 12)[None]
    states = torch.randn(2, 7, D_MODEL, generator=torch.Generator().manual_seed(0))
    chosen = torch.tensor([1, 0, 1])
    ends = torch.randn(3, 3, D_MODEL, generator=torch.Generator().manual_seed(1))
    whole = torch.cat([states[chosen, :cut], ends], dim=1)
    with hooks(model, {"blocks.1.hook_resid_post": lambda _: whole}):
        expected = run(model, batch_of(tokens))[:, cut:]
    cache = PrefixCache(model, 2, 2)
    with hooks(model, {"blocks.1.hook_resid_post": lambda _: states[:, :cut]}):
        run(model, batch_of(tokens[:, :cut]), stop_after="blocks.3.hook_resid_post", cache=cache)
    cache.select(chosen)
    with hooks(model, {"blocks.1.hook_resid_post": lambda _: ends}):
        found = run(model, batch_of(tokens[:, cut:]), cache=cache)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
