"""A scatter plot as an SVG element, in the colours of the page around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Point", "draw_scatter"]

WIDTH, HEIGHT = 460, 320
"""Of the drawing; it is scaled to the page. Small, so that its letters can be read on a phone."""

LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 50
"""Room around the plot for numbers and titles."""

RADIUS = 5
LETTER = 8
"""Width of a letter of a label, about; the font has 14 units."""

LINE = 16
"""Height of a label."""

LONGEST_LABEL = 26
TICKS = 5
MARGIN = 0.15
"""Room beyond the outermost values, as a share of their distance."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value with its name, and what is told of it when it is pointed at."""

    x: float
    y: float
    label: str
    details: str


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        apart = self.right < other.left or other.right < self.left
        return not (apart or self.bottom < other.top or other.bottom < self.top)


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to places in the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        step = 10 ** math.floor(math.log10((self.high - self.low) / TICKS))
        step *= next(
            factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (factor * step) <= TICKS + 1
        )
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def draw_scatter(
    points: Sequence[Point], *, x_title: str, y_title: str, line: float | None = None, line_label: str = ""
) -> str:
    """Draw points, each with its label beside it, and perhaps a horizontal line to compare them with.

    Args:
        points: at least one.
        x_title: what stands at the bottom.
        y_title: what stands at the side.
        line: height of the line.
        line_label: its name.
    """
    x = _axis([point.x for point in points], LEFT, WIDTH - RIGHT)
    heights = [point.y for point in points] + ([] if line is None else [line])
    y = _axis(heights, HEIGHT - BOTTOM, TOP)
    parts = [*_grid(x, y, x_title, y_title)]
    dots = [_Box(x(p.x) - RADIUS, y(p.y) - RADIUS, x(p.x) + RADIUS, y(p.y) + RADIUS) for p in points]
    taken = list(dots)
    if line is not None:
        width = len(line_label) * LETTER
        taken.append(_Box(LEFT + 4, y(line) - LINE, LEFT + 4 + width, y(line)))
        parts.append(f'<path class="offline" d="M{LEFT} {y(line):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT + 4}" y="{y(line) - 4:.1f}">{escape(line_label)}</text>')
    for point, dot in zip(points, dots, strict=True):
        label = point.label
        if len(label) > LONGEST_LABEL:
            label = label[: LONGEST_LABEL - 1] + "…"
        box = _place(dot, len(label) * LETTER, taken)
        taken.append(box)
        place = f'x="{box.left:.1f}"' if box.left > dot.right else f'x="{box.right:.1f}" text-anchor="end"'
        parts.append(
            f"<g><title>{escape(point.details)}</title>"
            f'<circle cx="{x(point.x):.1f}" cy="{y(point.y):.1f}" r="{RADIUS}"/>'
            f'<text {place} y="{box.bottom - 4:.1f}">{escape(label)}</text></g>'
        )
    described = escape(f"{y_title} against {x_title}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{described}">'
        + "".join(parts)
        + "</svg>"
    )


def _axis(values: Sequence[float], start: float, end: float) -> _Axis:
    low, high = min(values), max(values)
    room = MARGIN * ((high - low) or abs(high) or 1.0)
    return _Axis(max(0.0, low - room) if low >= 0 else low - room, high + room, start, end)


def _grid(x: _Axis, y: _Axis, x_title: str, y_title: str) -> Iterator[str]:
    for value in x.ticks():
        yield f'<path class="grid" d="M{x(value):.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        yield f'<text class="tick" x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{value:g}</text>'
    for value in y.ticks():
        yield f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text class="tick" x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="tick" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_title)}</text>'
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield (
        f'<text class="tick" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_title)}</text>"
    )


def _place(dot: _Box, width: float, taken: Sequence[_Box]) -> _Box:
    """Where a label of this width is nearest to its dot and meets nothing."""
    middle = (dot.top + dot.bottom) / 2
    candidates: list[_Box] = []
    for distance in range(TICKS * 2):
        for sign in (1, -1) if distance else (1,):
            top = middle - LINE / 2 + sign * distance * LINE
            candidates.append(_Box(dot.right + 3, top, dot.right + 3 + width, top + LINE))
            candidates.append(_Box(dot.left - 3 - width, top, dot.left - 3, top + LINE))
    inside = [
        box
        for box in candidates
        if box.left >= LEFT and box.right <= WIDTH and box.top >= 0 and box.bottom <= HEIGHT - BOTTOM
    ]
    free = (box for box in inside if not any(box.meets(other) for other in taken))
    return next(free, (inside or candidates)[0])
