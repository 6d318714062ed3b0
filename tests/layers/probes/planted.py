"""States with a concept in them, for the oracles."""

import torch


def make(n=60, layers=3, width=20, seed=0, signal=0.7):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(n, generator=generator) < 0.45
    groups = [f"t{int(i)}" for i in torch.randint(24, (n,), generator=generator)]
    states = torch.randn(n, layers, width, generator=generator) * torch.arange(1, width + 1) ** -0.5 + 4
    direction = torch.randn(layers, width, generator=generator) / width**0.5
    return states + signal * (labels * 2.0 - 1)[:, None, None] * direction, labels, groups


def scaled(states, layer):
    rows = states[:, layer].double()
    rows = rows - rows.mean(0)
    return (rows / rows.square().mean().sqrt()).numpy()
