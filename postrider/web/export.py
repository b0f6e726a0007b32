"""Lists as CSV or NDJSON, streamed: as long as the list is, in the memory of one page."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from flask import Response, request

from postrider import showing

Kind = Literal["text/csv", "application/x-ndjson"]
CSV: Kind = "text/csv"
NDJSON: Kind = "application/x-ndjson"
KINDS: tuple[Kind, ...] = (CSV, NDJSON)
DESCRIPTION = (
    "Newest first; deliveries in a state that waits soonest first. `Accept: text/csv` or `application/x-ndjson` streams"
    " all that is found, whatever `limit` says. A page may hold fewer than asked for, even none, and still have a next one."
)


def documented(name: str) -> dict[int, Any]:
    """OpenAPI's description of the further forms of the answer; JSON's stands with the route."""
    del name
    return {200: {"content": {kind: {"schema": {"type": "string"}} for kind in KINDS}}}


def wanted() -> Kind | None:
    """The form that this call asks for; None for a page of JSON."""
    best = request.accept_mimetypes.best_match(["application/json", CSV, NDJSON])
    return next((kind for kind in KINDS if kind == best), None)


def stream(
    kind: Kind, rows: Iterable[Mapping[str, Any]], names: Sequence[str], name: str
) -> Response:
    """An answer that grows while it is read: what stands in rows under these names. Redis away in the middle cuts it off, so that nobody takes a part for all."""
    lines = showing.csv_lines(rows, names) if kind == CSV else showing.json_lines(rows)
    ending = "csv" if kind == CSV else "ndjson"
    headers = {"Content-Disposition": f'attachment; filename="{name}.{ending}"'}
    return Response(_in_parts(lines), content_type=f"{kind}; charset=utf-8", headers=headers)


def _in_parts(lines: Iterable[str]) -> Iterator[str]:
    part: list[str] = []
    for line in lines:
        part.append(line)
        if len(part) == 200:
            yield "".join(part)
            part.clear()
    yield "".join(part)
