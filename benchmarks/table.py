"""The figures as one Markdown page."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

NONE = "-"
COLUMNS = (
    "",
    "delivered/s",
    "of the limit",
    "against the best peer",
    "with answers after 50 ms, /s",
    "CPU µs each",
    "bytes each that waits",
    "accepted/s",
    "places",
    "",
)


def median(shown: Sequence[dict[str, Any]], key: str) -> float | None:
    """Of what was shown in the best setting."""
    values = [one[key] for one in shown]
    return statistics.median(values) if values else None


def best_drains(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Those in the contestant's best setting."""
    return [one for one in row["drains"] if one["places"] == row["best_places"]]


def rate(row: dict[str, Any]) -> float | None:
    """Delivered a second, the median."""
    return median(best_drains(row), "per_s")


def _best(rows: Iterable[dict[str, Any]], kind: str) -> float | None:
    return max(
        (found for row in rows if row["kind"] == kind and (found := rate(row))), default=None
    )


def _number(value: float | None, form: str = ",.0f") -> str:
    return NONE if value is None else format(value, form)


def _ratio(value: float | None, to: float | None, form: str) -> str:
    return NONE if value is None or not to else format(value / to, form)


def markdown(grid: Sequence[Sequence[str]]) -> str:
    """Columns of one width, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    right = [False, *(True for _ in widths[1:])]
    right[-1] = len(widths) == 2
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        + " |"
        for row in grid
    ]
    rule = "|".join(
        "-" * (width + 1) + (":" if to_right else "-")
        for width, to_right in zip(widths, right, strict=True)
    )
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def contestants(rows: Sequence[dict[str, Any]]) -> str:
    """Everybody's row."""
    limit, peer = _best(rows, "limit"), _best(rows, "peer")
    grid = [COLUMNS]
    for row in rows:
        drains, found = best_drains(row), rate(row)
        cpu_ms = median(drains, "cpu_ms")
        grid.append(
            (
                row["name"],
                _number(found),
                _ratio(found, limit, ".0%"),
                _ratio(found, peer, ".2f") + ("" if found is None or not peer else "x"),
                _number(median(row["late_drains"], "per_s")),
                _number(None if cpu_ms is None else cpu_ms * 1000),
                _number(row["bytes"]) if row["kind"] != "limit" else NONE,
                _number(median(drains, "fill_per_s")) if row["kind"] != "limit" else NONE,
                str(row["best_places"]),
                f"FAILED: {row['failed']}" if row["failed"] else row["note"],
            )
        )
    return markdown(grid)


def alone(found: dict[str, Any]) -> str:
    """What only Postrider is asked."""
    grid = [("Postrider alone", "")]
    if api := found.get("api"):
        for recipients, per_s in api["recipients_per_s"].items():
            grid.append((f"one POST of {int(recipients):,}: recipients/s", _number(per_s)))
        steady = api["steady"]
        grid += [
            (
                f"POSTs of one recipient, {steady['offered_per_s']:.0f}/s offered: taken/s",
                _number(steady["per_s"]),
            ),
            ("… p50, p99 (ms)", f"{steady['p50_ms']:.1f}, {steady['p99_ms']:.1f}"),
        ]
    if late := found.get("lateness"):
        what = f"lateness, one every {late['every_s']} s: p50, p99, worst (ms)"
        grid += [
            (what, f"{late['p50_ms']:.1f}, {late['p99_ms']:.1f}, {late['worst_ms']:.1f}"),
            ("… early", str(late["early"])),
        ]
    if purge := found.get("purge"):
        grid += [
            (f"forgetting {purge['finished']:,} finished (s)", f"{purge['seconds']:.1f}"),
            (
                "… longest wait of another command (ms)",
                f"{purge['longest_wait_ms']:.1f} (idle: {purge['longest_wait_idle_ms']:.1f})",
            ),
            (
                "… while Redis removed its old append-only file (ms)",
                f"{purge['longest_wait_at_rewrite_ms']:.1f}",
            ),
            ("… longest command in Redis (ms)", f"{purge['longest_command_ms']:.1f}"),
        ]
    return markdown(grid) if len(grid) > 1 else ""


def growth(rows: Sequence[dict[str, Any]]) -> str:
    """What waits, against what it costs."""
    grid = [("with so many waiting", *(f"{row['waiting']:,}" for row in rows), "ratio")]
    keys = {"drain_per_s": "10,000 due at once, delivered/s", "claim_p99_ms": "claim p99 (ms)"}
    flat = [{**row, **{f"page_{name}": ms for name, ms in row["page_ms"].items()}} for row in rows]
    keys |= {f"page_{name}": f"{name} page of 1,000 (ms)" for name in rows[0]["page_ms"]}
    keys["bytes"] = "bytes each"
    for key, name in keys.items():
        form = ",.0f" if key in {"drain_per_s", "bytes"} else ".1f"
        values = [row[key] for row in flat]
        ratio = _ratio(values[-1], values[0], ".2f")
        grid.append((name, *(_number(value, form) for value in values), ratio))
    return markdown(grid)


def clients(found: dict[str, dict[str, float]]) -> str:
    """HTTP clients alone."""
    grid = [("HTTP client, one process, 100 connections", "POSTs/s", "CPU µs each")]
    grid += [
        (name, _number(cost["per_s"]), _number(cost["cpu_us"])) for name, cost in found.items()
    ]
    return markdown(grid)


def page(found: dict[str, Any]) -> str:
    """All of it."""
    place = found["measured"]
    parts = [
        "# Benchmarks",
        (
            f"{found['messages']:,} messages due at once, medians of {found['runs']},"
            f" {place['date']}, {place['cores']} cores ({place['cpu']}), Redis {place['redis']},"
            f" Python {place['python']}, Node {place['node']}. What the columns mean:"
            " [benchmarks/README.md](../benchmarks/README.md)."
        ),
    ]
    if found.get("contestants"):
        parts.append(contestants(list(found["contestants"].values())))
    parts.append(alone(found))
    if found.get("growth"):
        parts.append(growth(found["growth"]))
    if found.get("clients"):
        parts.append(clients(found["clients"]))
    parts += [f"{what} failed: {why}" for what, why in found["failed"].items()]
    return "\n\n".join(filter(None, parts)) + "\n"
