"""A linear language model: embedding, linear blocks, no norm, unembedding. Every law can be worked out by hand."""

from types import SimpleNamespace

import torch
from torch import nn
from transformer_lens.hook_points import HookPoint

from tests.tiny_models import tiny_tokenizer

D, N_LAYERS, N_CTX = 16, 3, 64


class Block(nn.Module):
    """``x + x W``, with hook points on both sides."""

    def __init__(self, generator):
        super().__init__()
        self.hook_resid_pre, self.hook_resid_post = HookPoint(), HookPoint()
        self.weight = nn.Parameter(0.2 * torch.randn(D, D, generator=generator, dtype=torch.float64))

    def forward(self, residual):
        residual = self.hook_resid_pre(residual)
        return self.hook_resid_post(residual + residual @ self.weight)


class LinearModel(nn.Module):
    """Next-token logits are linear in the embedding of the last token, in float64."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.tokenizer = tiny_tokenizer("gpt2")
        self.cfg = SimpleNamespace(
            n_layers=N_LAYERS, d_model=D, d_vocab=len(self.tokenizer), n_ctx=N_CTX, default_prepend_bos=True
        )
        self.embed = nn.Embedding(len(self.tokenizer), D, dtype=torch.float64)
        self.embed.weight = nn.Parameter(torch.randn(self.embed.weight.shape, generator=generator, dtype=torch.float64))
        self.blocks = nn.ModuleList(Block(generator) for _ in range(N_LAYERS))
        self.unembed = nn.Linear(D, len(self.tokenizer), bias=False, dtype=torch.float64)
        weights = 0.3 * torch.randn(self.unembed.weight.shape, generator=generator, dtype=torch.float64)
        self.unembed.weight = nn.Parameter(weights)

    @property
    def hook_dict(self):
        return {name: module for name, module in self.named_modules() if isinstance(module, HookPoint)}

    def forward(self, tokens, return_type="logits", attention_mask=None, **_):
        residual = self.embed(tokens)
        for block in self.blocks:
            residual = block(residual)
        return self.unembed(residual)

    def carried(self, vector, layer):
        """What an addition after a block has become in the final state."""
        for block in list(self.blocks)[layer + 1 :]:
            vector = vector + vector @ block.weight.detach()
        return vector

    def generate(self, *args, **kwargs):
        raise NotImplementedError

    def run_with_cache(self, *args, **kwargs):
        raise NotImplementedError
