"""Tokens trained for late interaction: a linear layer from the default encoder's states to 128 numbers.

It is learned from the training questions of squad_train_sample, so that what is said of candidate generators does not
rest on tokens alone whose mean was trained. MaxSim of a question's own paragraph is set against that of the other
questions' and of paragraphs that the single vector takes for near (cross entropy within a batch, as in ColBERT: Khattab
and Zaharia, SIGIR 2020). A few minutes on one core.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mv_data import Collection, Encoded, Floats, Ids, collection

SIZE = 128
TRAINED_ON = "squad_train_sample"
_BATCH = 24  # questions, each with a paragraph that is near but not its own
_EPOCHS = 3
_RATE = 1e-3
_NEAR = 10
_SEED = 20250607


def projected(data: Collection, matrix: Floats) -> Collection:
    """The collection with tokens float32[t, 128] by `matrix` float32[384, 128]; single vectors stay what they are."""
    return replace(data, documents=_projected(data.documents, matrix), queries=_projected(data.queries, matrix))


def principal(data: Collection) -> Floats:
    """The matrix float32[384, 128] of the leading principal directions of the documents' tokens: nothing trained."""
    some = data.documents.tokens[:: max(len(data.documents.tokens) // 60_000, 1)]
    _, axes = np.linalg.eigh(np.cov(some.T))
    return np.ascontiguousarray(axes[:, ::-1][:, :SIZE], np.float32)


def trained(cache: Path) -> Floats:
    """The learned matrix, out of the cache or trained now."""
    file = cache / "projection.npy"
    if not file.exists():
        print(f"training a projection on {TRAINED_ON} into {file}", flush=True)
        data = collection(TRAINED_ON, cache, 10_000, split="train")
        np.save(file, _train(data))
    return np.asarray(np.load(file), np.float32)


def _train(data: Collection) -> Floats:
    import torch

    torch.manual_seed(_SEED)
    rng = np.random.default_rng(_SEED)
    number = {document: row for row, document in enumerate(data.document_ids)}
    own = np.array([number[max(data.qrels[q], key=data.qrels[q].__getitem__)] for q in data.query_ids])
    near = _near(data, own)
    matrix = torch.nn.Parameter(torch.from_numpy(principal(data)))
    sharpness = torch.nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.Adam([matrix, sharpness], lr=_RATE)
    steps = len(own) // _BATCH * _EPOCHS
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(_EPOCHS):
        order = rng.permutation(len(own))
        for first in range(0, len(own) - _BATCH + 1, _BATCH):
            asked = order[first : first + _BATCH]
            shown = np.concatenate([own[asked], near[asked, rng.integers(0, near.shape[1], _BATCH)]])
            scores = _maxsim(_padded(data.queries, asked), _padded(data.documents, shown), matrix) * sharpness.exp()
            same = own[asked][:, None] == shown
            same[np.arange(_BATCH), np.arange(_BATCH)] = False  # what is left is another copy of the right one
            scores = scores.masked_fill(torch.from_numpy(same), -torch.inf)
            loss = torch.nn.functional.cross_entropy(scores, torch.arange(_BATCH))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
    return np.ascontiguousarray(matrix.detach().numpy())


def _near(data: Collection, own: Ids) -> Ids:
    """Other training paragraphs with the nearest single vectors, int64[questions, 10]."""
    among = np.unique(own)
    scores = data.queries.vectors @ data.documents.vectors[among].T
    scores[np.arange(len(own)), np.searchsorted(among, own)] = -np.inf
    return np.asarray(among[np.argpartition(-scores, _NEAR, axis=1)[:, :_NEAR]], np.int64)


def _padded(texts: Encoded, rows: Ids) -> tuple[Any, Any]:
    """Tokens [n, longest, 384] of some texts, and which of them there are."""
    import torch

    some = texts.take(rows)
    lengths = np.diff(some.offsets)
    there = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.zeros((*there.shape, some.tokens.shape[1]), np.float32)
    tokens[there] = some.tokens
    return torch.from_numpy(tokens), torch.from_numpy(there)


def _maxsim(queries: tuple[Any, Any], documents: tuple[Any, Any], matrix: Any) -> Any:
    import torch

    asked, shown = (torch.nn.functional.normalize(tokens @ matrix, dim=-1) for tokens, _ in (queries, documents))
    likeness = torch.einsum("qid,njd->qnij", asked, shown)
    best = likeness.masked_fill(~documents[1][None, :, None], -torch.inf).amax(-1)
    return (best * queries[1][:, None]).sum(-1)


def _projected(texts: Encoded, matrix: Floats) -> Encoded:
    tokens = texts.tokens @ matrix
    return replace(texts, tokens=tokens / np.linalg.norm(tokens, axis=1, keepdims=True))
