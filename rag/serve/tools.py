"""A pipeline as a function that an agent, or any program that speaks JSON, can call.

    schema = function_schema(pipeline, style="anthropic")     # what the language model is told
    result = call(pipeline, {"query": "what is a sheet?"})    # what runs when it asks for it

The arguments are the pipeline's inputs: a question is a text, messages are objects, numbers are numbers, and nothing is
converted. The result is what the pipeline is for: its answer with citations, else its hits, else its context, else all
that it wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError

from rag.errors import ConfigError, InputError, did_you_mean
from rag.operators.signature import show_type, strip_optional
from rag.pipelines import Pipeline
from rag.pipelines.plan import Slot
from rag.serve.show import as_json
from rag.types import Context, Hits, Query, State

__all__ = ["Call", "Tool", "call", "function_schema", "without_titles"]

_MAIN_RESULTS = ("answer", "hits", "context")
_DESCRIPTIONS = {
    "answer": "Answer a question from the indexed documents, with the places that the answer rests on.",
    "hits": "Find the passages of the indexed documents that fit a question best.",
    "context": "Collect the passages of the indexed documents from which a question can be answered.",
}


def function_schema(
    pipeline: Pipeline, style: Literal["openai", "anthropic"] = "openai", *, name: str | None = None
) -> dict[str, Any]:
    """The pipeline as a function definition for a language model: name, description, JSON Schema of the arguments.

    `style` is the shape of the OpenAI chat API or of the Anthropic messages API; `name` stands in for a pipeline's own.
    Raises ConfigError for a pipeline with an input that JSON cannot hold, or an unknown style.
    """
    tool = Tool(pipeline, name)
    if style == "anthropic":
        return {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema()}
    if style == "openai":
        function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema()}
        return {"type": "function", "function": function}
    raise ConfigError(f"there is no style {style!r} of function schemas", hint="openai or anthropic")


def call(pipeline: Pipeline, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run a pipeline with JSON arguments and return its result as JSON values; see `Tool` for the shape.

    Raises InputError, naming the argument, when one is wrong or missing, and what the run raises.
    """
    tool = Tool(pipeline)
    asked = tool.parse(arguments)
    return tool.result(pipeline.run(asked.inputs), asked)


class HitRow(BaseModel):
    """A passage that was found."""

    model_config = ConfigDict(extra="allow")

    rank: int = Field(description="place in the ranking, from 1")
    id: int = Field(description="number of the chunk in its collection")
    score: float = Field(description="how well it fits; comparable within one ranking only")
    document: str = Field("", description="document that it stands in")
    start: int = Field(0, description="first character in the document's text")
    end: int = Field(0, description="character after its last one")
    text: str = Field("", description="the passage")
    metadata: dict[str, Any] = Field(default={}, description="facts about its document")


class QueryRow(BaseModel):
    """A question."""

    text: str
    filter: str | None = None


@dataclass(frozen=True)
class Call:
    """The arguments of one call, checked: the inputs of the run, and how many hits to return."""

    inputs: dict[str, Any]
    limit: int


class Tool:
    """One pipeline with its name, description, and the JSON Schemas of its arguments and its result.

    Arguments: every input of the pipeline, its optional ones, `filter` (a metadata expression) when it takes a `query`,
    and `limit` when its result is hits. The result is an object with one member a channel.
    """

    def __init__(self, pipeline: Pipeline, name: str | None = None) -> None:
        plan = pipeline.plan
        self.pipeline = pipeline
        self.name = re.sub(r"[^A-Za-z0-9_-]", "_", name or pipeline.name or "pipeline")[:64]
        self.outputs = _outputs(plan.final)
        main = next(iter(self.outputs), "")
        self.description = pipeline.description or _DESCRIPTIONS.get(main, "Run a pipeline over the indexed documents.")
        self._queries: dict[str, Any] = {}
        fields: dict[str, Any] = {}
        for channel, kind in plan.inputs.items():
            fields[channel] = (self._argument(channel, kind), ...)
        for channel, kind in plan.optional_inputs.items():
            if _fits_json(kind):
                fields[channel] = (self._argument(channel, kind) | None, None)
        if plan.inputs.get("query") is Query:
            example = 'metadata expression to search within, e.g. year >= 2020 and lang == "en"'
            fields.setdefault("filter", (Annotated[str | None, Field(description=example)], None))
        if "hits" in self.outputs:
            most = Annotated[int, Field(ge=1, le=1000, description="hits to return at most")]
            fields.setdefault("limit", (most, 10))
        self._fields = fields

    def input_schema(self, refs: str = "#/$defs/{model}") -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) of the arguments; `refs` is the form of references to parts of it."""
        return without_titles(self._arguments.model_json_schema(ref_template=refs))

    def output_schema(self, refs: str = "#/$defs/{model}") -> dict[str, Any]:
        """The JSON Schema of the result."""
        members: dict[str, Any] = {}
        for channel, (kind, sure) in self.outputs.items():
            members[channel] = (kind, ...) if sure else (kind | None, None)
        model: type[BaseModel] = create_model("Result", **members)
        return without_titles(model.model_json_schema(mode="serialization", ref_template=refs))

    def parse(self, arguments: Mapping[str, Any] | bytes) -> Call:
        """The call that these arguments ask for: a mapping, or JSON text. Raises InputError naming what is wrong."""
        try:
            raw = arguments if isinstance(arguments, bytes) else json.dumps(arguments)
            given = self._arguments.model_validate_json(raw)
        except (TypeError, ValueError) as error:
            raise self._explained(error) from None
        values = {name: getattr(given, key) for key, name in self._names.items() if key in given.model_fields_set}
        limit = values.pop("limit", 10) if "limit" not in self._inputs else 1000
        where = values.pop("filter", None) if "filter" not in self._inputs else None
        for channel, kind in self._queries.items():
            if channel in values:
                texts = values[channel]
                values[channel] = [Query(t) for t in texts] if kind is list else Query(texts)
        if where is not None:
            values["query"] = replace(values["query"], filter=where)
        return Call({name: value for name, value in values.items() if value is not None}, limit)

    def result(self, state: State, call: Call) -> dict[str, Any]:
        """The result of a run as JSON values."""
        values = {name: state[name] for name in self.outputs if name in state}
        return {name: as_json(v.top(call.limit) if isinstance(v, Hits) else v) for name, v in values.items()}

    @property
    def _inputs(self) -> set[str]:
        return {*self.pipeline.plan.inputs, *self.pipeline.plan.optional_inputs}

    @cached_property
    def _names(self) -> dict[str, str]:
        """Argument names by the field that holds them: a channel may be called `copy`, a field may not."""
        return {f"argument_{number}": name for number, name in enumerate(self._fields)}

    @cached_property
    def _arguments(self) -> type[BaseModel]:
        aliased: dict[str, Any] = {}
        for key, name in self._names.items():
            kind, default = self._fields[name]
            aliased[key] = (kind, Field(default, alias=name))
        config = ConfigDict(extra="forbid", strict=True)
        model: type[BaseModel] = create_model("Arguments", __config__=config, **aliased)
        return model

    def _argument(self, channel: str, kind: Any) -> Any:
        """The type of an argument: a question is a text, whatever else JSON can hold is itself."""
        bare, _ = strip_optional(kind)
        if bare is Query:
            self._queries[channel] = Query
            what = "the question, in words" if channel == "query" else f"the {channel}, in words"
            return Annotated[str, Field(min_length=1, description=what)]
        if get_origin(bare) is list and get_args(bare) == (Query,):
            self._queries[channel] = list
            return Annotated[list[str], Field(description=f"the {channel}, in words")]
        if not _fits_json(kind):
            raise ConfigError(
                f"pipeline {self.name!r} takes {channel!r} of type {show_type(kind)}, which JSON cannot hold",
                hint="serve a pipeline whose inputs are texts, numbers or messages",
            )
        return bare

    def _explained(self, error: Exception) -> InputError:
        if not isinstance(error, ValidationError):
            return InputError(f"the arguments are no JSON object: {error}")
        problem = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(self._names.get(str(p), p)) for p in problem["loc"])
        known = list(self._fields)
        if problem["type"] == "extra_forbidden":
            return InputError(f"there is no argument {where!r}", hint=did_you_mean(where, known))
        if problem["type"] == "missing":
            return InputError(f"argument {where!r} is missing", hint=f"the arguments are {', '.join(known)}")
        if problem["type"] == "json_invalid" or not where:
            return InputError(f"the arguments are no JSON object: {problem['msg']}")
        return InputError(f"argument {where!r}: {problem['msg']}")


def _outputs(final: Mapping[str, Slot]) -> dict[str, tuple[Any, bool]]:
    """What a pipeline is for: channel -> type as JSON holds it, and whether every run writes it."""
    written = {
        name: (_as_rows(list[slot.type] if slot.spread else slot.type), slot.sure)  # type: ignore[name-defined]
        for name, slot in final.items()
        if slot.writer is not None
    }
    for name in _MAIN_RESULTS:
        if name in written and written[name][1]:
            return {name: written[name]}
    return {name: written[name] for name in _MAIN_RESULTS if name in written} or written


def _as_rows(kind: Any) -> Any:
    """The type of the JSON form of a value: columns become rows."""
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if bare is Hits:
        return list[HitRow]
    if bare is Query:
        return QueryRow
    if get_origin(bare) is list:
        return list[_as_rows(get_args(bare)[0])]  # type: ignore[misc]
    return bare if _fits_json(bare) else Any


def _fits_json(kind: Any) -> bool:
    bare, _ = strip_optional(kind)
    if bare is Query or (get_origin(bare) is list and get_args(bare) == (Query,)):
        return True
    if bare in (Hits, Context):
        return bare is Context
    try:
        TypeAdapter(kind).json_schema()
    except (PydanticUserError, TypeError):
        return False
    return True


def without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without the titles that pydantic derives from field names."""

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return without_titles(value)
        return [stripped(item) for item in value] if isinstance(value, list) else value

    return {k: stripped(v) for k, v in schema.items() if not (k == "title" and isinstance(v, str))}
