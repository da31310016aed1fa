"""Index a folder and ask it, in Python: python examples/quickstart.py [FOLDER [QUESTION]]."""

import sys
import tempfile
from pathlib import Path

from rag import Collection, Pipeline
from rag.operators.generation import ExtractiveAnswer
from rag.operators.indexing.ingest import index_paths
from rag.operators.post_retrieval import BuildContext
from rag.operators.retrieval import BM25, Dense, Fuse

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "docs"
question = sys.argv[2] if len(sys.argv) > 2 else "What is a generation of a collection?"

with tempfile.TemporaryDirectory() as place, Collection.create(Path(place) / "kb") as kb:
    report = index_paths(kb, folder)
    print(f"{report.added} documents, {report.chunks} chunks")

    retrieve = (Dense(k=100) | BM25(k=100)) >> Fuse(k=20)
    pipeline = Pipeline(retrieve >> BuildContext(max_passages=5) >> ExtractiveAnswer(), collection=kb)
    answer = pipeline.run(question).answer
    print(answer.text)
    for citation in answer.citations:
        print(f"  [{citation.number}] {citation.document}:{citation.line}")
