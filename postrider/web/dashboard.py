"""Pages for people: the sandbox's inbox, the API's description. Server-rendered, scripts from files only."""

import math
import shlex
from http import HTTPStatus

from apiflask import APIBlueprint
from flask import Response, jsonify, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as WerkzeugResponse

from messengers.sandbox import FAILURES
from postrider.errors import InvalidRequest, NotFound
from postrider.service import Service
from postrider.web.auth import Gate, client

NOTES_SHOWN = 500
"""Messages in one answer of /sandbox.json, and the most that the page keeps in sight."""


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The pages: /sandbox behind the gate, /docs open."""
    bp = APIBlueprint("dashboard", __name__, enable_openapi=False)
    inbox = gate.guard(APIBlueprint("inbox", __name__, enable_openapi=False))
    offered = service.settings.sandbox

    @bp.get("/")
    def start() -> WerkzeugResponse:
        page = "dashboard.inbox.sandbox" if offered else "dashboard.docs"
        return redirect(url_for(page), HTTPStatus.FOUND)

    @bp.get("/docs")
    def docs() -> str:
        return render_template("docs.html", sandbox=offered)

    @inbox.before_request
    def only_when_offered() -> None:
        if not offered:
            raise NotFound("the sandbox is off here; SANDBOX=on offers it")

    @inbox.after_request
    def keep_nowhere(response: Response) -> Response:
        response.headers["Cache-Control"] = "no-store"  # messages are no browser's to keep
        return response

    @inbox.get("/sandbox")
    def sandbox() -> Response:
        return make_response(
            render_template(
                "sandbox.html",
                sandbox=offered,
                failures={uuid: what for uuid, (what, _) in FAILURES.items()},
                user=shlex.quote(service.settings.api_user),
                shown=NOTES_SHOWN,
            )
        )

    @inbox.get("/sandbox.json")
    def sandbox_json() -> Response:
        after = request.args.get("after")
        notes = service.notes(NOTES_SHOWN, None if after is None else _read_cursor(after))
        seen = service.sees_notes([note["key"] for _, note in notes], client())
        shown = [note for note, sees in zip(notes, seen, strict=True) if sees]
        return jsonify(
            messages=[{"at": at.isoformat(), **note} for at, note in shown],
            next=f"{notes[-1][0].timestamp():.6f}" if notes else after or "0",
        )

    bp.register_blueprint(inbox)
    return bp


def _read_cursor(text: str) -> float:
    try:
        after = float(text)
    except ValueError:
        after = math.nan
    if not math.isfinite(after):
        raise InvalidRequest("after", "is not one that this service gave")
    return after
