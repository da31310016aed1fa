"""Forward passes of a causal transformers model: given text scored in batches, new text token by token."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["given_logprobs", "new_tokens"]

_BATCH = 4096
"""Tokens, padding included, of one batch of given texts."""
_LOGITS = 1 << 25
"""Logits that are held at a time (128 MiB): a vocabulary may have a quarter of a million tokens."""


def given_logprobs(model: Any, rows: Sequence[tuple[Sequence[int], int]]) -> list[NDArray[np.float32]]:
    """For rows of token ids and a position `first` of at least 1: log p(id | ids before) from `first` on, float32."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][0]))
    found: dict[int, NDArray[np.float32]] = {}
    while order:
        count = 1
        while count < len(order) and (count + 1) * len(rows[order[count]][0]) <= _BATCH:
            count += 1
        batch, order = order[:count], order[count:]
        found.update(zip(batch, _batch_logprobs(model, [rows[row] for row in batch]), strict=True))
    return [found[row] for row in range(len(rows))]


def _batch_logprobs(model: Any, rows: Sequence[tuple[Sequence[int], int]]) -> list[NDArray[np.float32]]:
    """Of rows padded on the right. A causal model lets nothing on the right reach what is before, so no mask is needed.

    The batch goes through in pieces over one KV cache, as many columns at a time as their logits may take.
    """
    import torch

    width = max(len(ids) for ids, _ in rows)
    padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in rows], device=model.device)
    at = min(first for _, first in rows) - 1
    found = torch.zeros(len(rows), width)
    cache = None
    with torch.inference_mode():
        if at:  # nobody asks for the logits of these
            cache = model.base_model(padded[:, :at], use_cache=True).past_key_values
        columns = max(_LOGITS // (len(rows) * model.config.get_text_config().vocab_size), 1)
        while at < width - 1:
            end = min(at + columns, width - 1)
            output = model(padded[:, at:end], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits = output.logits.float()
            chosen = logits.gather(-1, padded[:, at + 1 : end + 1, None])[..., 0]
            found[:, at + 1 : end + 1] = (chosen - logits.logsumexp(-1)).cpu()
            at = end
    scores: NDArray[np.float32] = found.numpy()
    return [scores[row, first : len(ids)].copy() for row, (ids, first) in enumerate(rows)]


def new_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    weights: Sequence[float],
    max_tokens: int,
    choose: Callable[[Any], int],
    begin: Callable[[], tuple[Any, Any]] | None = None,
) -> Iterator[tuple[int, float]]:
    """Tokens that continue all prompts, and their log-probabilities under the mixture by `weights`, which sum to 1.

    `choose` takes the mixture's log-probabilities (a tensor over the vocabulary) and returns the token that every
    prompt goes on with. The prompts are one batch, padded on the left, over one KV cache. With `begin` there is one
    prompt, which that reads: it returns the cache and the logits behind the last token, [vocabulary].
    """
    import torch

    width = max(map(len, prompts))
    pads = [width - len(ids) for ids in prompts]
    step = torch.tensor([[*[0] * pad, *ids] for pad, ids in zip(pads, prompts, strict=True)], device=model.device)
    share = torch.tensor(weights, device=model.device).log()[:, None]
    place = _placing(model, pads, width + max_tokens)
    cache = logits = None
    seen = 0
    for _ in range(max_tokens):
        if begin is not None and cache is None:  # not in inference mode: what it computes may be kept
            cache, logits = begin()
        # Entered for each step: the state is the thread's own, and the next step may run in another one.
        with torch.inference_mode():
            if logits is not None:
                each, logits = torch.log_softmax(logits[None].float(), -1), None
            else:
                if step.shape[1] > 1:  # the prompts: logits are needed behind their last tokens only
                    seen = width - 1
                    cache = model.base_model(step[:, :-1], use_cache=True, **place(0, seen)).past_key_values
                output = model(step[:, -1:], past_key_values=cache, use_cache=True, **place(seen, seen + 1))
                seen += 1
                cache = output.past_key_values
                each = torch.log_softmax(output.logits[:, -1].float(), -1)
            mixed = each[0] if len(prompts) == 1 else torch.logsumexp(each + share, 0)
            token = choose(mixed)
            logprob = float(mixed[token])
        yield token, logprob
        step = torch.full((len(prompts), 1), token, device=model.device)


def _placing(model: Any, pads: Sequence[int], length: int) -> Callable[[int, int], dict[str, Any]]:
    """What tells the model, for columns a to b, which ones before are padding, and each token's own position."""
    import torch

    if not any(pads):
        return lambda a, b: {}
    before = torch.tensor(pads, device=model.device)[:, None]
    columns = torch.arange(length, device=model.device)[None]
    mask = (columns >= before).long()
    positions = (columns - before).clamp(min=0)
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return lambda a, b: {"attention_mask": mask[:, :b]}
    return lambda a, b: {"attention_mask": mask[:, :b], "position_ids": positions[:, a:b]}
