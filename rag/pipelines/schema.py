"""The JSON Schema of pipeline files, made from the registered operators, so that editors complete and check them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, create_model

from rag.operators import Flow, Operator, catalogue
from rag.operators.registry import short_name
from rag.operators.signature import strip_optional
from rag.pipelines.flows import FORMS, Composite
from rag.pipelines.yaml import INPUT_TYPES, preset_names

__all__ = ["pipeline_schema"]


def pipeline_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a pipeline file, as a dictionary."""
    definitions: dict[str, Any] = {}
    bare_names: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = []
    for cls in catalogue().values():
        if cls.operator_name.startswith("custom."):
            continue
        settings = _settings_schema(cls, definitions)
        for name in dict.fromkeys((short_name(cls), cls.operator_name)):
            nodes.append(_one_key(name, {"anyOf": [{"type": "null"}, {"$ref": f"#/$defs/{cls.operator_name}"}]}, cls))
            if not settings.get("required"):
                bare_names.append({"const": name, "description": _summary(cls)})
        definitions[cls.operator_name] = settings
    branches = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/flow"}}
    nodes.append(_one_key("parallel", {**branches, "description": "branches that run side by side on the same input"}))
    names = {"enum": preset_names(), "description": "a ready-made pipeline"}
    file = {"type": "string", "pattern": "[.]ya?ml$", "description": "a file below the folder of this one"}
    nested = {"anyOf": [names, file, {"$ref": "#"}], "description": "another pipeline as a part of this one"}
    nodes.append(_one_key("pipeline", nested))
    for name, form in FORMS.items():
        definitions[f"flow.{name}"] = _form_schema(form, definitions)
        nodes.append(_one_key(name, {"$ref": f"#/$defs/flow.{name}"}, form))
    definitions["flow"] = {
        "anyOf": [
            {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/flow"}},
            {"type": "string", "anyOf": bare_names},
            *nodes,
        ]
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "modular-rag pipeline",
        "type": "object",
        "additionalProperties": False,
        "required": ["flow"],
        "properties": {
            "name": {"type": "string", "description": "what the pipeline is called"},
            "description": {"type": "string", "description": "what it does; shown to agents that may call it"},
            "collection": {"type": "string", "description": "folder of the collection, made by `rag index`"},
            "encoder": {"type": "string", "description": "encoder, when it is not the collection's own"},
            "llm": {"type": "string", "description": "language model, e.g. openai:gpt-4o-mini or local:gemma-3-270m"},
            "inputs": {
                "type": "object",
                "description": "channels that a run starts with; `query` when left out",
                "additionalProperties": {"enum": list(INPUT_TYPES)},
            },
            "flow": {"$ref": "#/$defs/flow"},
        },
        "$defs": definitions,
    }


def _settings_schema(cls: type[Operator], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = cls.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(schema.pop("$defs", {}))
    schema["title"] = cls.operator_name
    schema["description"] = _summary(cls)
    schema["additionalProperties"] = False
    return schema


def _form_schema(form: type[Composite], definitions: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for name, info in form.model_fields.items():
        kind, _ = strip_optional(info.annotation)
        if kind is Flow:
            properties[name] = {"$ref": "#/$defs/flow"}
        elif kind == dict[str, Flow]:
            properties[name] = {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#/$defs/flow"}}
        else:
            field: Any = (info.annotation, info)
            alone: type[BaseModel] = create_model(f"{form.__name__}_{name}", **{name: field})
            schema = alone.model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(schema.pop("$defs", {}))
            properties[name] = schema["properties"][name]
        properties[name] = {**properties[name], "description": info.description or ""}
    required = [name for name, info in form.model_fields.items() if info.is_required()]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _one_key(name: str, value: dict[str, Any], cls: type[Operator | Composite] | None = None) -> dict[str, Any]:
    schema = {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}
    return {**schema, "description": _summary(cls)} if cls else schema


def _summary(cls: type[Operator | Composite]) -> str:
    return (cls.__doc__ or "").strip().split("\n", 1)[0]
