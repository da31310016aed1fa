"""A pipeline as a transformer of PyTerrier, to be compared and combined in its experiments."""

from __future__ import annotations

from typing import Any

from rag.errors import MissingExtraError
from rag.pipelines import Pipeline
from rag.serve.adapters.finding import check_finds, find_all

try:
    import pandas
    import pyterrier
except ImportError:
    raise MissingExtraError("the PyTerrier transformer", "pyterrier") from None

__all__ = ["PipelineTransformer"]


class PipelineTransformer(pyterrier.Transformer):  # type: ignore[misc]
    """Turns queries (qid, query) into results (docno, score, rank, text): `PipelineTransformer(pipeline)(topics)`.

    All queries run as one batch. `docno` is the document, each with its best chunk only, as judgements are about
    documents (MaxP, Dai and Callan, SIGIR 2019); with `chunks=True` it is the chunk's number. Other columns of the
    queries are kept. Raises ConfigError for a pipeline without hits.
    """

    def __init__(self, pipeline: Pipeline, *, k: int = 1000, filter: str | None = None, chunks: bool = False) -> None:
        super().__init__()
        self._pipeline = check_finds(pipeline)
        self._k = k
        self._filter = filter
        self._chunks = chunks

    def transform(self, topics: Any) -> Any:
        """The results as a data frame; ranks count from 0 as everywhere in PyTerrier."""
        pyterrier.validate.query_frame(topics, extra_columns=["query"])
        results = ["docno", "score", "rank", "text"]
        columns = [c for c in topics.columns if c not in results]
        rows: list[dict[str, Any]] = []
        found = find_all(self._pipeline, topics["query"].tolist(), self._filter, self._k)
        for topic, ranking in zip(topics[columns].to_dict("records"), found, strict=True):
            seen: set[str] = set()
            for chunk, score in ranking:
                docno = str(chunk.id) if self._chunks else chunk.document
                if docno not in seen:
                    rows.append({**topic, "docno": docno, "score": score, "rank": len(seen), "text": chunk.text})
                    seen.add(docno)
        return pandas.DataFrame(rows, columns=[*columns, *results])
