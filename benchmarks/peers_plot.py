"""A picture of a comparison of servers: bars, as SVG.

Who uses it: peers.py. What must hold: every panel's scale begins at zero; every bar has its number beside it; servers
keep their colour, and agentix's is the strong one.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

LOADS = {
    "closed6": "6 clients",
    "closed32": "32 clients",
    "closed128": "128 clients",
    "python": "32 clients",
    "ollama": "32 clients",
    "turns": "64 conversations",
    "turns07": "at 0.7 of capacity",
}
ANY = ("closed6", "closed32", "python", "ollama", "closed128")
PANELS = (  # title, loads, figure, format
    ("Generated tokens per second (more is better)", ANY, "tokens_per_s", "{:.0f}"),
    ("Time to first token, P95, seconds (less is better)", ANY, "ttft_p95_s", "{:.2f}"),
    ("Short requests from sending to end, P95, seconds (less is better)", ANY, "short_p95_s", "{:.2f}"),
    ("Conversations: turns per second (more is better)", ("turns", "turns07"), "requests_per_s", "{:.2f}"),
    ("Later turns' time to first token, P95, seconds (less is better)", ("turns", "turns07"), "later_ttft_p95_s",
     "{:.2f}"),
)  # fmt: skip
COLOURS = (("agentix", "#0b6e4f"), ("llama-server, no flags", "#c9c9c9"), ("llama-server", "#8fa3b5"))
OTHER = "#d9b98a"
WIDTH, LEFT, BAR_WIDTH, ROW, MARGIN = 960, 430, 440, 20, 24
STYLE = (
    "text{font-family:Helvetica,Arial,sans-serif;font-size:12px;fill:#222}"
    ".title{font-size:14px;font-weight:bold}.name{text-anchor:end}.small{font-size:10px;fill:#777}"
)


def draw(seen: Mapping[tuple[str, str], Mapping[str, Any]], footer: str = "") -> str:
    """Return the picture of all loads that were run, without the trials of flags."""
    parts: list[str] = []
    y = MARGIN
    for title, loads, name, form in PANELS:
        bars = [
            (load, server, made[name])
            for load in loads
            for (of_load, server), made in seen.items()
            if of_load == load and name in made
        ]
        if bars:
            y = _panel(parts, y, title, bars, form)
    for line in _wrapped(footer):
        parts.append(f'<text x="{MARGIN}" y="{y}" class="small">{escape(line)}</text>')
        y += 14
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 8}" viewBox="0 0 {WIDTH} {y + 8}">'
    ground = f'<rect width="{WIDTH}" height="{y + 8}" fill="#ffffff"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", ground, *parts, "</svg>", ""])


def _panel(parts: list[str], y: int, title: str, bars: list[tuple[str, str, float]], form: str) -> int:
    """Add a panel that begins at y; return where the next one does."""
    parts.append(f'<text x="{MARGIN}" y="{y}" class="title">{escape(title)}</text>')
    y += 10
    top = max(value for _, _, value in bars) or 1.0
    begin, last = y, LOADS[bars[0][0]]
    for load, server, value in bars:
        if LOADS[load] != last:
            y, last = y + 8, LOADS[load]
        width = BAR_WIDTH * value / top
        middle = y + ROW / 2
        label = escape(f"{LOADS[load]}: {server}")
        parts += [
            f'<text x="{LEFT - 8}" y="{middle + 4}" class="name">{label}</text>',
            f'<rect x="{LEFT}" y="{y + 3}" width="{width:.1f}" height="{ROW - 6}" fill="{_colour(server)}"/>',
            f'<text x="{LEFT + width + 6:.1f}" y="{middle + 4}">{form.format(value)}</text>',
        ]
        y += ROW
    parts.append(f'<line x1="{LEFT}" y1="{begin}" x2="{LEFT}" y2="{y}" stroke="#222"/>')
    return y + 34


def _colour(server: str) -> str:
    return next((colour for name, colour in COLOURS if server.startswith(name)), OTHER)


def _wrapped(text: str, columns: int = 150) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > columns:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return [line for line in lines if line]
