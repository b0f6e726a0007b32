"""Pages for people: the sandbox's inbox, the API's description. Server-rendered, scripts from files only."""

from apiflask import APIBlueprint
from flask import Response, jsonify, redirect, render_template
from werkzeug.wrappers import Response as WerkzeugResponse

from messengers.sandbox import FAILURES
from postrider.service import Service
from postrider.web.auth import Gate

NOTES_SHOWN = 500


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The pages: /sandbox behind the gate, /docs open."""
    bp = APIBlueprint("dashboard", __name__, enable_openapi=False)
    inbox = gate.guard(APIBlueprint("inbox", __name__, enable_openapi=False))

    @bp.get("/")
    def start() -> WerkzeugResponse:
        return redirect("/sandbox" if service.settings.sandbox else "/docs")

    @bp.get("/docs")
    def docs() -> str:
        return render_template("docs.html")

    @inbox.get("/sandbox")
    def sandbox() -> str:
        return render_template("sandbox.html", failures=FAILURES)

    @inbox.get("/sandbox.json")
    def sandbox_json() -> Response:
        return jsonify(
            messages=[{"at": at.isoformat(), **note} for at, note in service.notes(NOTES_SHOWN)]
        )

    bp.register_blueprint(inbox)
    return bp
