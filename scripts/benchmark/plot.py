"""Small line charts as one SVG, readable on light and dark pages."""

import math
from html import escape

WIDTH, HEIGHT = 300, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 34, 42
COLUMNS = 3
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #30363d }
.title { font-weight: 600; font-size: 12px }
.page { fill: #ffffff }
.grid { stroke: #d0d7de; stroke-width: 1 }
.line0 { stroke: #0969da; fill: none; stroke-width: 2 } .dot0 { fill: #0969da }
.line1 { stroke: #bc4c00; fill: none; stroke-width: 2; stroke-dasharray: 6 3 } .dot1 { fill: #bc4c00 }
@media (prefers-color-scheme: dark) {
  text { fill: #d1d7e0 } .page { fill: #0d1117 } .grid { stroke: #3d444d }
  .line0 { stroke: #4493f8 } .dot0 { fill: #4493f8 } .line1 { stroke: #f0883e } .dot1 { fill: #f0883e }
}
"""


def page(panels):
    """An SVG of panels: {"title", "x", "y", "doubling", "lines": [{"name", "points": [(x, y)]}]}."""
    rows = math.ceil(len(panels) / COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
             "<title>modelve: time and memory by layers and by prompts at once</title>",
             f"<style>{STYLE}</style>", f'<rect class="page" width="{width}" height="{height}"/>']
    for index, panel in enumerate(panels):
        x, y = index % COLUMNS * WIDTH, index // COLUMNS * HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *chart(panel), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(top):
    """Four or five round values from zero to at least `top`."""
    rough = max(top, 1e-9) / 4
    power = 10 ** math.floor(math.log10(rough))
    unit = next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= rough)
    return [unit * n for n in range(math.ceil(top / unit - 1e-9) + 1)]


def chart(panel):
    across = math.log2 if panel.get("doubling") else float
    xs = sorted({x for line in panel["lines"] for x, _ in line["points"]})
    marks = ticks(max(y for line in panel["lines"] for _, y in line["points"]))
    low, high, top = across(xs[0]) if panel.get("doubling") else 0.0, across(xs[-1]), marks[-1]

    def place(x, y):
        share = (across(x) - low) / (high - low or 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    yield f'<text class="title" x="{LEFT}" y="18">{escape(panel["title"])}</text>'
    for mark in marks:
        y = place(xs[0], mark)[1]
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{mark:,.10g}</text>'
    for x in xs:
        yield f'<text x="{place(x, 0)[0]:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{x}</text>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(panel["x"])}</text>'
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(panel["y"])}</text>'
    for index, line in enumerate(panel["lines"]):
        points = [place(x, y) for x, y in line["points"]]
        yield f'<path class="line{index}" d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'
        for (x, y), (_, value) in zip(points, line["points"]):
            yield f'<circle class="dot{index}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{value:.4g} {escape(panel["y"])}</title></circle>'
        if len(panel["lines"]) > 1:
            x, y = LEFT + 8, HEIGHT - BOTTOM - 12 - 15 * index
            yield f'<path class="line{index}" d="M{x} {y - 4}h24"/><text x="{x + 30}" y="{y}">{escape(line["name"])}</text>'
