"""Small pictures as SVG: curves and histograms, for pages that need nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["COLOURS", "bars", "curves"]

COLOURS = (
    "#4c6ef5", "#e8590c", "#2b8a3e", "#ae3ec9", "#868e96", "#c2255c", "#1098ad", "#e67700", "#5f3dc4", "#212529"
)  # fmt: skip
_WIDE, _HIGH = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 30, 40
_GRID = 250


def curves(
    title: str,
    lines: Mapping[str, tuple[ArrayLike, ArrayLike]],
    across: str,
    up: str,
    x_range: tuple[float, float] = (0, 1),
) -> str:
    """Lines by name, each of x and y; y from 0 to 1. Points that fall on the one before are left out."""
    marks, names = [], []
    for number, (name, (x, y)) in enumerate(lines.items()):
        xs, ys = np.asarray(x, float), np.asarray(y, float)
        pixels = np.rint(np.stack([(xs - x_range[0]) / (x_range[1] - x_range[0]), ys], axis=1) * _GRID)
        rows = np.flatnonzero(np.append(True, (np.diff(pixels, axis=0) != 0).any(axis=1)))
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{_across(a, x_range):.1f},{_up(b):.1f}" for a, b in zip(xs[rows], ys[rows], strict=True))
        marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        names.append((name, colour))
    return _framed(title, marks, names, across, up, x_range, 1.0)


def bars(title: str, groups: Mapping[str, ArrayLike], across: str, x_range: tuple[float, float], bins: int = 40) -> str:
    """Histograms by name over one another, each as the share of its own values in a bin."""
    edges = np.linspace(*x_range, bins + 1)
    shares = {}
    for name, values in groups.items():
        table = np.clip(np.asarray(values, float), *x_range)
        shares[name] = np.histogram(table, edges)[0] / max(len(table), 1)
    most = max((float(s.max()) for s in shares.values()), default=1.0) or 1.0
    marks, names = [], []
    for number, (name, heights) in enumerate(shares.items()):
        colour = COLOURS[number % len(COLOURS)]
        names.append((name, colour))
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
            if height:
                a, b, top = _across(left, x_range), _across(right, x_range), _up(height / most)
                marks.append(
                    f'<rect x="{a:.1f}" y="{top:.1f}" width="{b - a:.1f}" height="{_up(0) - top:.1f}" fill="{colour}" '
                    'fill-opacity="0.5"/>'
                )
    return _framed(title, marks, names, across, "share of each kind", x_range, most)


def _framed(
    title: str,
    marks: Sequence[str],
    names: Sequence[tuple[str, str]],
    across: str,
    up: str,
    x_range: tuple[float, float],
    most: float,
) -> str:
    """Axes, title and legend around what was drawn."""
    lines = []
    for tick in np.linspace(0, 1, 5):
        y, x = _up(tick), _LEFT + tick * (_WIDE - _LEFT - _RIGHT)
        value = x_range[0] + tick * (x_range[1] - x_range[0])
        lines.append(f'<line x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dee2e6"/>')
        lines.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{tick * most:.2g}</text>')
        lines.append(f'<text x="{x:.1f}" y="{_HIGH - _BOTTOM + 15}" text-anchor="middle">{value:.2g}</text>')
    legend = [
        f'<text x="{_WIDE - _RIGHT - 4}" y="{_TOP + 14 + 13 * i}" text-anchor="end" fill="{c}">{escape(n)}</text>'
        for i, (n, c) in enumerate(names)
    ]
    middle = (_LEFT + _WIDE - _RIGHT) / 2
    words = [
        f'<text x="{middle}" y="16" text-anchor="middle" font-weight="bold">{escape(title)}</text>',
        f'<text x="{middle}" y="{_HIGH - 6}" text-anchor="middle">{escape(across)}</text>',
        f'<text x="12" y="{_HIGH / 2}" text-anchor="middle" transform="rotate(-90 12 {_HIGH / 2})">{escape(up)}</text>',
    ]
    body = "".join([*lines, *marks, *legend, *words])
    return (
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" width="{_WIDE}" height="{_HIGH}" role="img" font-size="11" '
        f'font-family="system-ui, sans-serif" fill="#343a40">{body}</svg>'
    )


def _across(value: float, x_range: tuple[float, float]) -> float:
    low, high = x_range
    return _LEFT + (min(max(value, low), high) - low) / (high - low) * (_WIDE - _LEFT - _RIGHT)


def _up(share: float) -> float:
    return _HIGH - _BOTTOM - share * (_HIGH - _TOP - _BOTTOM)
