"""Pipelines as YAML: the tree of the flow, one key a node.

    collection: kb
    flow:
      - parallel:
          - dense: {k: 100}
          - bm25: {k: 100}
      - fuse
      - as_context
      - extractive_answer

A list is a sequence, `parallel` holds branches, `route`, `loop` and the like hold flows below their fields, `pipeline`
holds another pipeline: its file, the name of a ready-made one, or itself. Any other key is an operator's name with its
settings. Every error names the line. Nothing is imported or executed by loading; aliases are expanded, up to a bounded
number of nodes; files are read from the folder of the one that names them, and below it, only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import yaml

from rag.errors import ConfigError, NotFoundError, RagError, did_you_mean
from rag.operators import Flow, Operator, Parallel, Sequence, lookup
from rag.operators.registry import short_name
from rag.operators.signature import STANDARD_CHANNELS, show_type, strip_optional
from rag.pipelines.flows import FORMS, Composite
from rag.pipelines.pipeline import Pipeline
from rag.pipelines.plan import Path as FlowPath

__all__ = ["INPUT_TYPES", "PRESETS", "dump", "load", "preset_names"]

INPUT_TYPES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (str, int, float, bool)},
    **{show_type(kind): kind for kind in STANDARD_CHANNELS.values()},
}
"""Types that a YAML file may give to an input channel, by how one writes them."""

PRESETS = Path(__file__).parent / "presets"
"""Where the ready-made pipelines are."""

_TEXT_KEYS = ("name", "description", "collection", "encoder", "llm")
_Entries: TypeAlias = "dict[str, tuple[yaml.Node, yaml.Node]]"
_MAX_NODES = 20_000
_MAX_DEPTH = 64


def preset_names() -> list[str]:
    """Names of the ready-made pipelines."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(source: str | Path, **resources: Any) -> Pipeline:
    """The pipeline that a YAML file, or a text with a line break in it, describes; see `Pipeline.from_yaml`."""
    if isinstance(source, str) and "\n" in source:
        return _Loader(source, None).whole(resources)
    return _Loader(_read(Path(source)), Path(source)).whole(resources)


def dump(pipeline: Pipeline) -> str:
    """YAML that loads to an equal pipeline; settings at their default are left out."""
    return yaml.safe_dump(_dump_pipeline(pipeline), sort_keys=False, allow_unicode=True, width=120)


def _dump_pipeline(pipeline: Pipeline) -> dict[str, Any]:
    top: dict[str, Any] = {key: getattr(pipeline, key) for key in ("name", "description") if getattr(pipeline, key)}
    for key, value in pipeline.resources.items():
        spec = value if isinstance(value, str) else getattr(value, "path", None) or getattr(value, "name", None)
        if key not in _TEXT_KEYS or spec is None:
            raise ConfigError(f"resource {key!r} ({value!r}) has no name that YAML could hold")
        top[key] = str(spec)
    if list(pipeline.inputs) != ["query"]:
        top["inputs"] = {name: show_type(kind) for name, kind in pipeline.inputs.items()}
    flow = _dump_flow(pipeline.flow)
    top["flow"] = flow if isinstance(flow, list) else [flow]
    return top


def _dump_flow(flow: Flow) -> Any:
    if isinstance(flow, Sequence):
        return [_dump_flow(step) for step in flow.steps]
    if isinstance(flow, Parallel):
        return {"parallel": [_dump_flow(branch) for branch in flow.branches]}
    if isinstance(flow, Pipeline):
        return {"pipeline": flow.reference or _dump_pipeline(flow)}
    if isinstance(flow, Composite):
        fields: dict[str, Any] = {}
        for name, key, child in flow.children():
            if key is None:
                fields[name] = _dump_flow(child)
            else:
                fields.setdefault(name, {})[key] = _dump_flow(child)
        return {flow.form: {**fields, **flow.settings()}}
    if isinstance(flow, Operator):
        if flow.operator_name.startswith("custom."):
            raise ConfigError(
                f"operator {type(flow).__name__} has no name of its own, so YAML cannot name it",
                hint=f'register it: class {type(flow).__name__}(Operator, name="module.name")',
            )
        name, settings = short_name(type(flow)), flow.settings()
        return {name: settings} if settings else name
    raise ConfigError(f"{flow!r} has no YAML form")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"there is no pipeline file {str(path)!r}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read pipeline file {str(path)!r}: {error}") from None


class _Walk:
    """How far the walk through a file, and those that it names, has come."""

    def __init__(self) -> None:
        self.visited = 0
        self.open: list[yaml.Node] = []


class _Loader:
    """Walks the YAML node tree, which, unlike plain data, still knows its lines."""

    def __init__(self, text: str, file: Path | None, outer: _Loader | None = None) -> None:
        self.origin = origin = str(file) if file else "<yaml>"
        self.folder = file.parent if file else Path()
        self.files: tuple[Path, ...] = outer.files if outer else ()
        if file is not None:
            self.files = (*self.files, file.resolve())
        self.lines: dict[FlowPath, int] = {}
        self._walk: _Walk = outer._walk if outer else _Walk()
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            raise ConfigError(f"{origin}, line {line}: not YAML: {error.problem}") from None
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"{origin}: not YAML: {error}") from None
        if root is None:
            raise ConfigError(f"{origin}: the file is empty", hint="a pipeline needs at least the key `flow`")
        self.root = root

    def whole(self, resources: dict[str, Any]) -> Pipeline:
        """The pipeline of the file."""
        return self.pipeline(self.root, resources)

    def pipeline(self, node: yaml.Node, resources: dict[str, Any]) -> Pipeline:
        top = self.mapping(node, "a pipeline")
        known = {*_TEXT_KEYS, "inputs", "flow"}
        for key, (key_node, _) in top.items():
            if key not in known:
                self.fail(key_node, f"unknown key {key!r}", did_you_mean(key, known))
        if "flow" not in top:
            self.fail(node, "the key `flow` is missing", "it holds the list of operators")
        texts = {key: self.text(top[key][1], key) for key in _TEXT_KEYS if key in top}
        around, self.lines = self.lines, {}
        flow = self.flow(top["flow"][1], ())
        lines, self.lines = self.lines, around
        inputs = self.inputs(top["inputs"][1]) if "inputs" in top else {"query": STANDARD_CHANNELS["query"]}
        try:
            return Pipeline(flow, **{**texts, **resources}, inputs=inputs, lines=lines)
        except RagError as error:
            error.message = f"{self.origin}: {error.message}"
            raise

    def nested(self, node: yaml.Node) -> Pipeline:
        """A pipeline within a flow: all of it, or its file or name."""
        if isinstance(node, yaml.MappingNode):
            return self.pipeline(node, {})
        name = self.text(node, "`pipeline`")
        path = self.find(node, name)
        try:
            pipeline = _Loader(_read(path), path, self).whole({})
        except RagError as error:
            error.message += f"; {self.origin}, line {node.start_mark.line + 1} uses it"
            raise
        pipeline.reference = name
        return pipeline

    def find(self, node: yaml.Node, name: str) -> Path:
        """The file of a nested pipeline: below the folder of this one, and not one that is being read already."""
        if not name.endswith((".yaml", ".yml")):
            if name not in preset_names():
                hint = did_you_mean(name, preset_names()) or "the name of a file ends in .yaml"
                self.fail(node, f"{name!r} is neither a pipeline file nor a ready-made pipeline", hint)
            return PRESETS / f"{name}.yaml"
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            self.fail(
                node,
                f"the pipeline file {name!r} lies outside the folder of this one",
                "write the path from this file's folder to a file in it or below",
            )
        if path.resolve() in self.files:
            chain = [*self.files[self.files.index(path.resolve()) :], path]
            self.fail(
                node,
                f"the pipeline contains itself: {' uses '.join(file.name for file in chain)}",
                "repeat a flow with `loop` or `recurse`, which have a bound",
            )
        return path

    def flow(self, node: yaml.Node, path: FlowPath) -> Flow:
        with self.inside(node):
            self.lines[path] = node.start_mark.line + 1
            if isinstance(node, yaml.SequenceNode):
                if not node.value:
                    self.fail(node, "an empty list of operators")
                if len(node.value) == 1:
                    return self.flow(node.value[0], path)
                steps = tuple(self.flow(child, (*path, i)) for i, child in enumerate(node.value))
                return Sequence(steps)
            if isinstance(node, yaml.ScalarNode):
                return self.operator(node, self.text(node, "an operator"), None)
            entries = self.mapping(node, "a node")
            if len(entries) != 1:
                self.fail(
                    node,
                    f"a node has one key, its operator, but this has {len(entries)}: {', '.join(entries)}",
                    "settings are indented below the operator's name; each operator starts with `- `",
                )
            ((name, (key_node, value)),) = entries.items()
            if name == "parallel":
                if not isinstance(value, yaml.SequenceNode) or not value.value:
                    self.fail(value, "`parallel` holds a list of branches")
                return Parallel(tuple(self.flow(child, (*path, i)) for i, child in enumerate(value.value)))
            if name == "pipeline":
                return self.nested(value)
            if name in FORMS:
                return self.composite(FORMS[name], key_node, value, path)
            return self.operator(key_node, name, value)

    def composite(self, cls: type[Composite], node: yaml.Node, value: yaml.Node, path: FlowPath) -> Flow:
        entries = self.mapping(value, f"`{cls.form}`")
        self.known_keys(entries, cls)
        fields: dict[str, Any] = {}
        number = 0
        for field, info in cls.model_fields.items():  # children are numbered in this order: see Composite.children
            if field not in entries:
                continue
            _, child = entries[field]
            kind, _ = strip_optional(info.annotation)
            if kind is Flow:
                fields[field] = self.flow(child, (*path, number))
                number += 1
            elif kind == dict[str, Flow]:
                fields[field] = {}
                for key, (_, way) in self.mapping(child, f"`{field}`").items():
                    fields[field][key] = self.flow(way, (*path, number))
                    number += 1
            else:
                fields[field] = self.data(child)
        flow: Flow = self.built(cls, cls.form, fields, entries, node)
        return flow

    def known_keys(self, entries: _Entries, cls: type[Operator] | type[Composite]) -> None:
        name = cls.form if issubclass(cls, Composite) else short_name(cls)
        for key, (key_node, _) in entries.items():
            if key not in cls.model_fields:
                hint = did_you_mean(key, cls.model_fields) or f"its settings: {', '.join(cls.model_fields) or 'none'}"
                self.fail(key_node, f"{name!r} has no setting {key!r}", hint)

    def built(self, cls: Any, name: str, fields: dict[str, Any], entries: _Entries, node: yaml.Node) -> Any:
        """Make an operator or composite of its fields; what is wrong with one is told with the line of that one."""
        for field, info in cls.model_fields.items():
            if info.is_required() and field not in fields:
                self.fail(node, f"{name!r} needs the setting {field!r}", info.description or "")
        try:
            return cls(**fields)
        except ConfigError as error:
            wrong = next((key for key in entries if f"setting {key!r}" in error.message), None)
            self.fail(entries[wrong][1] if wrong else node, error.message, error.hint or "")

    def operator(self, node: yaml.Node, name: str, value: yaml.Node | None) -> Operator:
        try:
            cls = lookup(name)
        except RagError as error:
            self.fail(node, error.message, error.hint or "")
        entries = {} if value is None or self.is_null(value) else self.mapping(value, f"settings of {name}")
        self.known_keys(entries, cls)
        fields = {key: self.data(value_node) for key, (_, value_node) in entries.items()}
        operator: Operator = self.built(cls, name, fields, entries, node)
        return operator

    def inputs(self, node: yaml.Node) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, (key_node, value) in self.mapping(node, "inputs").items():
            kind = self.text(value, "a type")
            if kind not in INPUT_TYPES:
                self.fail(value, f"input {name!r} has unknown type {kind!r}", did_you_mean(kind, INPUT_TYPES))
            if not name.isidentifier():
                self.fail(key_node, f"input name {name!r} is not an identifier")
            found[name] = INPUT_TYPES[kind]
        return found

    def mapping(self, node: yaml.Node, what: str) -> _Entries:
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
            self.fail(node, f"{what} must be written as `key: value` lines, this is {kind}")
        entries: _Entries = {}
        for key_node, value_node in node.value:
            key = self.text(key_node, "a key")
            if key in entries:
                self.fail(key_node, f"key {key!r} stands twice")
            entries[key] = (key_node, value_node)
        return entries

    def text(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self.fail(node, f"{what} must be a single text")
        return str(node.value)

    def data(self, node: yaml.Node) -> Any:
        """The plain JSON-like value of a node."""
        with self.inside(node):
            if not node.tag.startswith("tag:yaml.org,2002:") or "/" in node.tag:
                self.fail(
                    node, f"the tag {node.tag!r} is not allowed", "write plain texts, numbers, lists and mappings"
                )
            if isinstance(node, yaml.SequenceNode):
                return [self.data(child) for child in node.value]
            if isinstance(node, yaml.MappingNode):
                return {key: self.data(value) for key, (_, value) in self.mapping(node, "a mapping").items()}
            try:
                return yaml.SafeLoader("").construct_object(node)
            except (yaml.YAMLError, ValueError) as error:
                self.fail(node, f"not a plain value: {getattr(error, 'problem', error)}")

    def is_null(self, node: yaml.Node) -> bool:
        return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"

    @contextmanager
    def inside(self, node: yaml.Node) -> Iterator[None]:
        """Guards the walk against nodes that contain themselves and against aliases that multiply."""
        walk = self._walk
        if any(node is parent for parent in walk.open):
            self.fail(node, "this part contains itself, which makes an endless cycle")
        walk.visited += 1
        if walk.visited > _MAX_NODES or len(walk.open) > _MAX_DEPTH:
            self.fail(node, f"the file unfolds to more than {_MAX_NODES} parts or {_MAX_DEPTH} levels")
        walk.open.append(node)
        try:
            yield
        finally:
            walk.open.pop()

    def fail(self, node: yaml.Node, message: str, hint: str = "") -> NoReturn:
        raise ConfigError(f"{self.origin}, line {node.start_mark.line + 1}: {message}", hint=hint or None)
