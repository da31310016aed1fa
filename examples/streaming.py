"""Watch a pipeline run: events of every node, tokens as they come, and the time each node took."""

from collections.abc import Iterator

from rag import Answer, Delta, Pipeline, Query, operator
from rag.pipelines import NodeFinished, NodeStarted, Run, Token


@operator
def think(query: Query) -> Query:
    """Make the question louder."""
    return Query(query.text.upper())


@operator
def speak(query: Query) -> Iterator[Delta | Answer]:
    """Say it word by word."""
    for word in query.text.split():
        yield Delta(word + " ")
    yield Answer(query.text)


pipeline = Pipeline(think() >> speak())

for event in pipeline.stream("streams are events in order"):
    if isinstance(event, NodeStarted):
        print(f"{event.node}: ", end="")
    elif isinstance(event, Token):
        print(event.text, end="")
    elif isinstance(event, NodeFinished):
        print(f"({event.seconds * 1e6:.0f} µs)")

observed = Run()
pipeline.run("again", observe=observed)
print([span.node for span in observed.spans])
