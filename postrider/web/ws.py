"""The older WhatsApp interface: /ws/check, /ws/message, /ws/login, /ws/logout. All of a call stands in its path; how it ends is posted."""

from typing import Any

from apiflask import APIBlueprint
from flask import Response, json, jsonify, request
from flask.sansio.blueprints import BlueprintSetupState

from postrider.errors import NotFound
from postrider.older import LOGGED_IN, LOGGED_OUT, NAMES, NOBODY, SCAN, Older
from postrider.web import raw
from postrider.web.auth import ANY_SCHEME, Gate, audited, client
from postrider.web.problems import documented

PHONE, MESSAGE, URL = "<anything:phone>", "<anything:message>", "<anything:return_url>"
_WAYS = (
    "The return URL is the rest of the path, percent-encoded or as it is, its query included. The session is WS_SESSION, else the "
    "client's only one, else `default`; one that has no phone is started, so that its QR code goes out. What cannot be done while "
    "the phone is away is done later."
)


def blueprint(older: Older, gate: Gate) -> APIBlueprint:
    """The four routes over `older`."""
    bp = APIBlueprint("ws", __name__, url_prefix="/ws", tag="Older WhatsApp interface")

    @bp.record
    def know_anything(setup: BlueprintSetupState) -> None:
        setup.app.url_map.converters["anything"] = raw.Anything

    # The path holds texts and addresses, and the audit log names what a path holds unless told otherwise.
    bp.before_request(lambda: audited("-"))
    gate.guard(bp, "sender", query_is_ours=False)

    @bp.after_request
    def as_it_was(response: Response) -> Response:
        """An error as this interface has it."""
        if response.status_code >= 400:
            told = json.loads(response.get_data())
            response.set_data(json.dumps({"status": "error", **told}, ensure_ascii=False) + "\n")
        return response

    @bp.post(f"/check/{PHONE}/{URL}")
    @bp.doc(**_described("check", "Whether a number is on WhatsApp", "`true` or `false`", True))
    def check(**_: str) -> Response:
        (phone,), url = raw.words(request.environ, "/ws/check/", 1)
        return _accepted("check", older.check(client(), phone, url))

    @bp.post(f"/message/{PHONE}/{MESSAGE}/{URL}")
    @bp.doc(**_described("message", "Send a text", "`true` once it is sent, or `false`", True))
    def message(**_: str) -> Response:
        (phone, text), url = raw.words(request.environ, "/ws/message/", 2)
        return _accepted("message", older.message(client(), phone, text, url))

    @bp.post(f"/login/{URL}")
    @bp.doc(**_described("login", "Link a phone", f"`{SCAN}` or `{LOGGED_IN}`", SCAN))
    def login(**_: str) -> Response:
        _none, url = raw.words(request.environ, "/ws/login/", 0)
        return _accepted("login", older.login(client(), url))

    @bp.post(f"/logout/{URL}")
    @bp.doc(**_described("logout", "Unlink the phone", f"`{LOGGED_OUT}` or `{NOBODY}`", LOGGED_OUT))
    def logout(**_: str) -> Response:
        _none, url = raw.words(request.environ, "/ws/logout/", 0)
        return _accepted("logout", older.logout(client(), url))

    calls = {"check": check, "message": message, "login": login, "logout": logout}

    @bp.post("/<anything:call>")
    @bp.doc(hide=True)
    def other(call: str) -> Response:
        """What looks otherwise once it is decoded, or lacks something."""
        if (asked := call.lstrip("/").partition("/")[0]) not in calls:
            raise NotFound(f"there is nothing at {request.path}")
        return calls[asked]()

    return bp


def _accepted(what: str, task: str) -> Response:
    audited(task)
    return jsonify(data={"task_id": task, "task_name": NAMES[what]}, status="success")


def _described(what: str, summary: str, result: str, example: object) -> dict[str, Any]:
    """What OpenAPI is told of a call."""
    posted = {"task_id": "0Gx3VbqnVbW6JHgUhk7Jd", "result": example}
    given = {"data": {"task_id": posted["task_id"], "task_name": NAMES[what]}, "status": "success"}
    text = {"type": "string"}
    names = {"task_id": text, "task_name": {"const": NAMES[what]}}
    schema = {
        "type": "object",
        "required": ["data", "status"],
        "properties": {
            "data": {"type": "object", "required": [*names], "properties": names},
            "status": {"const": "success"},
        },
        "example": given,
    }
    told = json.dumps(posted)
    return {
        "summary": summary,
        "description": f"Later the return URL is posted {result}, such as `{told}`. {_WAYS}",
        "security": ANY_SCHEME,
        "responses": {
            200: {
                "description": "It will be done",
                "content": {"application/json": {"schema": schema}},
            },
            **documented(400, 401, 403, 429, 503),
        },
    }
