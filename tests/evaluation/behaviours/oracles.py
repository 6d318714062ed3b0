"""What plain Hugging Face says of a text, with a vector added by a plain forward hook."""

import contextlib

import torch

from tests.tiny_models import blocks_of, hf_tiny


@contextlib.contextmanager
def hf_added(hf, layer, vector):
    """Add a vector to what comes out of one block."""

    def add(module, inputs, output):
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    handle = blocks_of(hf)[layer].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


class HuggingFace:
    """Token ids and log-probabilities as Hugging Face alone gives them."""

    def __init__(self, architecture, model, layer=1, vector=None):
        self.hf, self.tokenizer = hf_tiny(architecture)
        wants_bos = model.cfg.default_prepend_bos and self.tokenizer.bos_token_id is not None
        self.bos = [self.tokenizer.bos_token_id] if wants_bos else []
        self.layer, self.vector = layer, vector

    def ids(self, text):
        return self.bos + self.tokenizer(text, add_special_tokens=False).input_ids

    def log_p(self, ids):
        """Next-token log-probabilities ``[pos, vocab]``, float64."""
        context = contextlib.nullcontext() if self.vector is None else hf_added(self.hf, self.layer, self.vector)
        with torch.no_grad(), context:
            return self.hf(torch.tensor([ids])).logits[0].double().log_softmax(-1)

    def of_text(self, text):
        """Log-probability of a whole text."""
        ids = self.ids(text)
        return float(self.log_p(ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum())

    def of_choice(self, prompt, choice):
        """Log-probability of a choice after a prompt, for choices that do not merge with it; tokens, greedy or not."""
        start, ids = len(self.ids(prompt)), self.ids(prompt + choice)
        assert ids[:start] == self.ids(prompt)
        log_p = self.log_p(ids)[start - 1 : -1]
        tokens = torch.tensor(ids[start:])
        values = log_p.gather(1, tokens[:, None])[:, 0]
        return float(values.sum()), float(values[0]), len(tokens), bool((log_p.argmax(1) == tokens).all())
