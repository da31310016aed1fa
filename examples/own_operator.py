"""An operator of one's own, in Python and in YAML: glossary terms are written out before the search."""

import tempfile
from pathlib import Path

from pydantic import Field

from rag import Chunk, Collection, Document, Operator, Pipeline, Query
from rag.operators.retrieval import BM25


class Glossary(Operator, name="pre_retrieval.glossary"):
    """Write abbreviations out behind the question, so that words can match."""

    terms: dict[str, str] = Field(description="abbreviation to meaning")

    def run(self, query: Query) -> Query:
        known = [meaning for short, meaning in self.terms.items() if short in query.text.split()]
        return Query(" ".join([query.text, *known]), query.filter)


texts = ["A knowledge graph links entities.", "A key-value cache keeps attention states.", "Sails are hoisted."]

with tempfile.TemporaryDirectory() as place, Collection.create(Path(place) / "kb", encoder="hashing") as kb:
    documents = [Document(f"note-{i}", text) for i, text in enumerate(texts)]
    with kb.writer() as writer:
        writer.add(
            documents, [[Chunk(d.id, d.text, 0, len(d.text))] for d in documents], kb.encoder.encode_documents(texts)
        )
        writer.commit()
    kb.refresh()

    pipeline = Pipeline(Glossary(terms={"KG": "knowledge graph"}) >> BM25(k=1), collection=kb)
    print(pipeline.run("what is a KG ?").hits.chunks()[0].text)

    text = pipeline.to_yaml()
    print(text)
    assert Pipeline.from_yaml(text, collection=kb).flow == pipeline.flow
