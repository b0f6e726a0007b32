"""Draws who delivers how much, as an SVG that needs nothing else to be seen.

python benchmarks/picture.py docs/benchmarks.json docs/benchmarks.svg
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from table import best_drains, median, rate

WIDTH, LABEL, NUMBER = 860, 290, 70
ROW, BAR, TOP, GAP = 26, 17, 58, 46
COLOURS = {"ours": "#0b7a53", "peer": "#8794a3", "limit": "#d8dee6"}
WORDS = {"ours": "Postrider", "peer": "peers", "limit": "limit: no books kept"}


def bars(title: str, rows: Sequence[tuple[str, str, float]], form: str, top: int) -> Iterator[str]:
    """One chart: (name, kind, value) each a bar."""
    yield f'<text x="16" y="{top}" class="title">{escape(title)}</text>'
    most = max(value for _, _, value in rows)
    room = WIDTH - LABEL - NUMBER - 16
    for index, (name, kind, value) in enumerate(rows):
        y = top + 14 + index * ROW
        width = max(1.5, value / most * room)
        weight = ' font-weight="600"' if kind == "ours" else ""
        yield f'<text x="{LABEL - 8}" y="{y + 13}" text-anchor="end"{weight}>{escape(name)}</text>'
        yield f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" fill="{COLOURS[kind]}"/>'
        yield f'<text x="{LABEL + width + 6:.1f}" y="{y + 13}"{weight}>{format(value, form)}</text>'


def draw(found: dict[str, Any]) -> str:
    """The picture; "" when nobody delivered."""
    rows = [row for row in found["contestants"].values() if rate(row)]
    if not rows:
        return ""
    rows.sort(key=lambda row: -(rate(row) or 0))
    names = [re.sub(r"[*`]", "", row["name"]) for row in rows]
    speed = [(name, row["kind"], rate(row) or 0) for name, row in zip(names, rows, strict=True)]
    cost = [
        (name, row["kind"], (median(best_drains(row), "cpu_ms") or 0) * 1000)
        for name, row in zip(names, rows, strict=True)
    ]
    second = TOP + GAP + 14 + len(rows) * ROW
    height = second + 14 + len(rows) * ROW + 34
    place = found["measured"]
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img"'
            ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13" fill="#1d2733">'
        ),
        f"<title>{found['messages']:,} messages due at once: delivered a second, and CPU time each</title>",
        "<style>.title{font-size:15px;font-weight:600}.small{font-size:11.5px;fill:#5a6775}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    for index, (kind, words) in enumerate(WORDS.items()):
        x = 16 + index * 130
        parts.append(f'<rect x="{x}" y="16" width="12" height="12" rx="2" fill="{COLOURS[kind]}"/>')
        parts.append(f'<text x="{x + 18}" y="26" class="small">{words}</text>')
    title = f"{found['messages']:,} messages due at once: delivered a second (more is better)"
    parts += bars(title, speed, ",.0f", TOP)
    parts += bars("CPU time for each, in µs (less is better)", cost, ",.0f", second)
    parts.append(
        f'<text x="16" y="{height - 14}" class="small">{place["cores"]} cores, shared with Redis and the messenger on loopback;'
        f" median of {found['runs']}; {escape(place['date'])}</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(json.loads(Path(sys.argv[1]).read_text())))
