"""Pictures of a plan: a self-contained SVG, and Mermaid text. No web service, no other program.

Every box carries `data-node` with the node's name, so that a page can light up the way that a run takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from html import escape

from rag.pipelines.flows.attempt import TryNode
from rag.pipelines.flows.each import EachNode
from rag.pipelines.flows.loop import LoopNode
from rag.pipelines.flows.nested import NestedNode
from rag.pipelines.flows.recurse import RecurseNode
from rag.pipelines.flows.route import RouteNode
from rag.pipelines.node import Node
from rag.pipelines.parallel import Branches, Chain
from rag.pipelines.step import Step

__all__ = ["to_mermaid", "to_svg"]

_GAP = 26.0  # between boxes that follow each other
_SIDE = 18.0  # between boxes side by side, and inside frames
_LINE = 15.0
_CHARACTER = 6.7  # width of one, at the font size used
_COLOURS = {
    "indexing": "#6b7a8f",
    "pre_retrieval": "#8a5fbf",
    "retrieval": "#2f6fb2",
    "post_retrieval": "#20837a",
    "generation": "#b8572a",
    "orchestration": "#9a7400",
}
_STYLE = """
.rag-flow{font:13px ui-sans-serif,system-ui,sans-serif}
.rag-flow .box rect{fill:#fff;stroke-width:1.5}
.rag-flow .box .title{font-weight:600;fill:#1b2430}
.rag-flow .box .setting{font-size:11px;fill:#5b6675}
.rag-flow .frame{fill:#5b667510;stroke:#9aa5b1;stroke-dasharray:4 3}
.rag-flow .label{font-size:11px;fill:#5b6675;paint-order:stroke;stroke:#fff;stroke-width:4px;stroke-linejoin:round}
.rag-flow .edge{fill:none;stroke:#9aa5b1;stroke-width:1.5}
.rag-flow .back{stroke-dasharray:5 3}
.rag-flow .box.active rect{fill:#fff4d6;stroke-width:2.5}
.rag-flow .box.done rect{fill:#eaf6ee}
"""


@dataclass
class _Part:
    """A drawn piece: its size, where edges enter and leave it (x, from its left side), and its elements at (0, 0)."""

    width: float
    height: float
    middle: float
    elements: list[str] = field(default_factory=list)
    splits: bool = False  # begins with lines that part, so that no arrow has to end at its top

    def at(self, x: float, y: float) -> str:
        return f'<g transform="translate({x:.1f} {y:.1f})">{"".join(self.elements)}</g>'


def to_svg(root: Node, title: str = "") -> str:
    """The plan as an SVG document of its own, top to bottom."""
    start, end = _pill("query in"), _pill("result")
    part = _stack([start, _draw(root), end])
    width, height = part.width + 2 * _SIDE, part.height + 2 * _SIDE
    label = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<svg class="rag-flow" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">{label}<style>{_STYLE}</style>'
        '<defs><marker id="rag-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#9aa5b1"/></marker></defs>'
        f"{part.at(_SIDE, _SIDE)}</svg>"
    )


@singledispatch
def _draw(node: Node) -> _Part:
    return _box(node.name, [], "orchestration", node.name)


@_draw.register
def _(node: Step) -> _Part:
    settings = [f"{key}: {_short(value)}" for key, value in node.operator.settings().items()]
    return _box(_title(node), settings, node.operator.operator_name.partition(".")[0], node.name)


@_draw.register
def _(node: Chain) -> _Part:
    return _stack([_draw(child) for child in node.nodes])


@_draw.register
def _(node: Branches) -> _Part:
    return _side_by_side([(None, _draw(branch)) for branch in node.branches])


@_draw.register
def _(node: RouteNode) -> _Part:
    ways = [(key + (" (default)" if key == node.default else ""), _draw(way)) for key, way in node.ways.items()]
    return _stack([_draw(node.by), _side_by_side(ways)])


@_draw.register
def _(node: LoopNode) -> _Part:
    inside = [_draw(node.body)] + ([_draw(node.judge)] if node.judge else [])
    until = f"until {node.verdict}, " if node.judge else ""
    part = _frame(_stack(inside), f"{_title(node)}: {until}at most {node.at_most} rounds", back=True)
    return part if node.otherwise is None else _stack([part, _frame(_draw(node.otherwise), "otherwise")])


@_draw.register
def _(node: NestedNode) -> _Part:
    own = f", with its own {', '.join(node.resources)}" if node.resources else ""
    return _frame(_draw(node.body), f"{_title(node)}{own}")


@_draw.register
def _(node: EachNode) -> _Part:
    return _frame(_draw(node.body), f"{_title(node)} {node.item} of {node.over}, at most {node.at_most}")


@_draw.register
def _(node: RecurseNode) -> _Part:
    levels = "1 level" if node.max_depth == 1 else f"{node.max_depth} levels"
    label = f"{_title(node)}: {levels} of further queries, at most {node.max_nodes} in all"
    return _frame(_stack([_draw(node.body), _draw(node.derive)]), label, back=True)


@_draw.register
def _(node: TryNode) -> _Part:
    limit = f", {node.timeout:g} s each" if node.timeout else ""
    part = _frame(_draw(node.body), f"{_title(node)}: at most {node.retries + 1} times{limit}")
    return part if node.fallback is None else _side_by_side([(None, part), ("fallback", _draw(node.fallback))])


def _title(node: Node) -> str:
    """The node's name; in the frame of its pipeline without that one's."""
    return node.name.rpartition("/")[2]


def _box(title: str, settings: list[str], module: str, name: str) -> _Part:
    width = max(
        110.0, _CHARACTER * 1.12 * len(title) + 28, *(0.88 * _CHARACTER * len(s) + 28 for s in settings or [""])
    )
    height = 32 + _LINE * len(settings)
    colour = _COLOURS.get(module, "#6b7a8f")
    lines = "".join(
        f'<text class="setting" x="{width / 2:.1f}" y="{36 + _LINE * i:.1f}" text-anchor="middle">{escape(s)}</text>'
        for i, s in enumerate(settings)
    )
    return _Part(
        width,
        height,
        width / 2,
        [
            f'<g class="box" data-node="{escape(name)}"><rect width="{width:.1f}" height="{height:.1f}" rx="8" '
            f'stroke="{colour}"/><text class="title" x="{width / 2:.1f}" y="21" text-anchor="middle">'
            f"{escape(title)}</text>{lines}</g>"
        ],
    )


def _pill(text: str) -> _Part:
    width = _CHARACTER * len(text) + 24
    return _Part(
        width,
        24,
        width / 2,
        [
            f'<rect width="{width:.1f}" height="24" rx="12" fill="#e9edf2"/>'
            f'<text class="label" x="{width / 2:.1f}" y="16" text-anchor="middle">{escape(text)}</text>'
        ],
    )


def _stack(parts: list[_Part]) -> _Part:
    """Parts under each other, joined by arrows, their middles in one line."""
    left = max(p.middle for p in parts)
    width = left + max(p.width - p.middle for p in parts)
    elements, y = [], 0.0
    for i, part in enumerate(parts):
        if i:
            elements.append(_edge(left, y, left, y + _GAP, tip=not part.splits))
            y += _GAP
        elements.append(part.at(left - part.middle, y))
        y += part.height
    return _Part(width, y, left, elements, splits=parts[0].splits)


def _side_by_side(ways: Sequence[tuple[str | None, _Part]]) -> _Part:
    """Parts beside each other, with lines that split above and meet below; labels stand at the heads of the ways."""
    head = _GAP + (_LINE if any(label for label, _ in ways) else 0)
    widths = [max(part.width, _CHARACTER * len(label or "")) for label, part in ways]
    width = sum(widths) + _SIDE * (len(ways) - 1)
    tallest = max(part.height for _, part in ways)
    height = head + tallest + _GAP
    middle = width / 2
    elements, x = [], 0.0
    for (label, part), room in zip(ways, widths, strict=True):
        centre = x + room / 2
        elements.append(_edge(middle, 0, centre, head))
        if label:
            elements.append(
                f'<text class="label" x="{centre:.1f}" y="{head - 10:.1f}" text-anchor="middle">{escape(label)}</text>'
            )
        elements.append(part.at(centre - part.middle, head))
        bottom = head + part.height
        straight = f'<path class="edge" d="M{centre:.1f} {bottom:.1f}V{head + tallest:.1f}"/>'
        elements.append(straight if bottom < head + tallest else "")
        elements.append(_edge(centre, head + tallest, middle, height, tip=False))
        x += room + _SIDE
    return _Part(width, height, middle, elements, splits=True)


def _frame(part: _Part, label: str, *, back: bool = False) -> _Part:
    """A dashed frame with a label; with `back`, an arrow leads on the right from its end to its beginning."""
    right = 2 * _SIDE if back else _SIDE
    width = max(part.width + _SIDE + right, 0.9 * _CHARACTER * len(label) + 2 * _SIDE)
    top = 42.0 if back else 24.0
    height = top + part.height + _SIDE
    x = (width - right - part.width + _SIDE) / 2 if back else (width - part.width) / 2
    middle = x + part.middle
    elements = [
        f'<rect class="frame" width="{width:.1f}" height="{height:.1f}" rx="10"/>',
        f'<text class="label" x="{_SIDE / 2:.1f}" y="15">{escape(label)}</text>',
        part.at(x, top),
    ]
    if back:
        end, side = top + part.height, width - _SIDE / 2
        elements.append(
            f'<path class="edge back" marker-end="url(#rag-tip)" d="M{middle:.1f} {end:.1f}v8H{side:.1f}'
            f'V{top - 16:.1f}H{middle:.1f}V{top:.1f}"/>'
        )
    return _Part(width, height, middle, elements)


def _edge(x1: float, y1: float, x2: float, y2: float, *, tip: bool = True) -> str:
    marker = ' marker-end="url(#rag-tip)"' if tip else ""
    bend = f"C{x1:.1f} {(y1 + y2) / 2:.1f} {x2:.1f} {(y1 + y2) / 2:.1f} {x2:.1f} {y2:.1f}"
    return f'<path class="edge"{marker} d="M{x1:.1f} {y1:.1f}{bend}"/>'


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 28 else text[:27] + "…"


def to_mermaid(root: Node) -> str:
    """The plan as a Mermaid flowchart, for documents that render it."""
    chart = _Chart()
    ends = chart.walk(root, ["start"])
    edges = [*chart.edges, *(f"{end} --> finish" for end in ends)]
    lines = ["start([query])", *chart.boxes, "finish([result])", *edges]
    return "\n".join(["flowchart TD", *(f"  {line}" for line in lines)]) + "\n"


class _Chart:
    """Collects boxes, in groups, and edges of a flowchart; `walk` returns the ids from which the next edge starts."""

    def __init__(self) -> None:
        self.boxes: list[str] = []
        self.edges: list[str] = []
        self._count = 0

    def walk(self, node: Node, sources: list[str], label: str = "") -> list[str]:
        if isinstance(node, Chain):
            for i, child in enumerate(node.nodes):
                sources = self.walk(child, sources, label if i == 0 else "")
            return sources
        if isinstance(node, Branches):
            return [end for branch in node.branches for end in self.walk(branch, sources, label)]
        if isinstance(node, RouteNode):
            router = self.walk(node.by, sources, label)
            return [end for key, way in node.ways.items() for end in self.walk(way, router, key)]
        if isinstance(node, LoopNode):
            first = f"n{self._count}"
            ends = self.walk(node.body, sources, label)
            if node.judge is not None:
                ends = self.walk(node.judge, ends)
            self.edges += [f"{end} -. again .-> {first}" for end in ends]
            return ends if node.otherwise is None else ends + self.walk(node.otherwise, ends, "otherwise")
        if isinstance(node, RecurseNode):
            first = f"n{self._count}"
            ends = self.walk(node.derive, self.walk(node.body, sources, label))
            self.edges += [f"{end} -. each new query .-> {first}" for end in ends]
            return ends
        if isinstance(node, EachNode):
            return self.walk(node.body, sources, f"each {node.item}")
        if isinstance(node, TryNode):
            ends = self.walk(node.body, sources, label)
            return ends if node.fallback is None else ends + self.walk(node.fallback, sources, "fallback")
        if isinstance(node, NestedNode):
            self.boxes.append(f"subgraph g{self._count} [{_quoted(_title(node))}]")
            ends = self.walk(node.body, sources, label)
            self.boxes.append("end")
            return ends
        return [self._box(_title(node), sources, label)]

    def _box(self, title: str, sources: list[str], label: str) -> str:
        name = f"n{self._count}"
        self._count += 1
        self.boxes.append(f"{name}[{_quoted(title)}]")
        text = f"|{_quoted(label)}|" if label else ""
        self.edges += [f"{source} -->{text} {name}" for source in sources]
        return name


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "#quot;") + '"'
