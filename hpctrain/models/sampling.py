"""Text from a recurrent language model: one token after the other, carrying the state over.

Takes a network that returns (logits (B, T, N), state), and token numbers; returns token numbers. It draws from its
own generator, so equal seeds produce equal text on one kind of machine. N tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


def continue_tokens(
    model: nn.Module,
    prompt: Sequence[int],
    count: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Yields `count` tokens after `prompt`, which holds at least one, each chosen by `choose`."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    tokens, carry = torch.tensor([list(prompt)], device=device), None
    for _ in range(count):
        with torch.inference_mode():
            logits, carry = model(tokens, carry)
            token = choose(logits[0, -1].float().cpu(), temperature, top_k, generator)
        yield token
        tokens = torch.tensor([[token]], device=device)


def choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """Returns a token drawn by softmax(logits (N,) / temperature) over the `top_k` likeliest; the likeliest at 0.

    Number 0, which stands for words outside the vocabulary, is never returned.
    """
    known = logits[1:]
    if temperature == 0:
        return 1 + int(known.argmax())
    values, places = known.topk(min(top_k or len(known), len(known)))
    chances = torch.softmax(values / temperature, dim=0)
    return 1 + int(places[torch.multinomial(chances, 1, generator=generator)])
