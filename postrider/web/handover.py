"""Upload, then send: /init, /data, /msg, /cons. Forms in, plain text out; a wrong call is answered in words, with 200."""

from typing import Any

from apiflask import APIBlueprint
from flask import Request, Response, request
from werkzeug.datastructures import MultiDict

from postrider.desk import DELIVERED, KEY, PREPROCESS, QUEUED, STATES
from postrider.errors import InvalidRequest, WrongMediaType
from postrider.opening import NotOpened
from postrider.parameters import SERVICES, TYPES, Asked
from postrider.service import Service
from postrider.web import problems
from postrider.web.auth import ANY_SCHEME, Gate, audited, client, wrong
from postrider.web.keys import fresh
from postrider.web.problems import documented
from postrider.web.uploading import received

PLAIN = "text/plain; charset=utf-8"
PATHS = ("/init", "/data", "/msg", "/cons")
ERROR = "error: "
"""What every answer begins with that is none of those one has asked for."""


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The routes over the desk of `service`."""
    bp = gate.guard(APIBlueprint("handover", __name__, tag="Upload, then send"), "sender")

    @bp.errorhandler(InvalidRequest)
    @bp.errorhandler(WrongMediaType)
    def refuse(error: InvalidRequest | WrongMediaType) -> Response:
        wrong()
        status = problems.STATUS[InvalidRequest] if isinstance(error, NotOpened) else 200
        return _text(f"{ERROR}{error}", status)

    @bp.route("/init", methods=["GET", "POST"])
    @bp.doc(
        summary="The public key that files can be encrypted for, as PEM",
        security=ANY_SCHEME,
        responses={**_answers("A PEM", None), **documented(403)},
    )
    def init() -> Response:
        return fresh(_text(service.keys.newest().pem))

    @bp.post("/data")
    @bp.doc(
        summary="Upload files; gives their id",
        description=(
            "multipart/form-data, files under any names. Encrypted ones: the encrypted AES key as the part `key`, raw bytes. "
            "The id is good for `/msg` for 24 h."
        ),
        security=ANY_SCHEME,
        extensions={"requestBody": _body("multipart/form-data", {}, {"a.png": "..."})},
        responses={
            **_answers("The id", "pfzOyQyHyGbm6n7KbeRfJw"),
            400: {
                "description": "An encrypted file that does not open; nothing is kept",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **documented(403, 413),
        },
    )
    def data() -> Response:
        owner, files = client().id, service.files
        most = service.settings.max_file_bytes
        with received(request, files, most, left=files.left(owner), as_fields={KEY}) as form:
            taken = service.desk.take(owner, form.files, form.fields)
        audited(taken.id)
        return _text(taken.id)

    @bp.post("/msg")
    @bp.doc(
        summary="Send what was uploaded",
        description=(
            "The same again sends nothing twice. After an error the files are still there, and it can be said anew."
        ),
        security=ANY_SCHEME,
        extensions={"requestBody": _form(_MSG)},
        responses={
            **_answers("`queued`; the id, where it was left out; or what is wrong", QUEUED),
            **documented(403, 413),
        },
    )
    def msg() -> Response:
        form = _form_of(request)
        asked = Asked(**{name: _field(form, name) for name in _MSG})
        held = service.desk.send(client().id, asked)
        audited(held.id)
        return _text(QUEUED if asked.id else held.id)

    @bp.post("/cons")
    @bp.doc(
        summary="How it stands",
        description=(
            f"`{PREPROCESS}` until /msg was called. Once `{DELIVERED}` was told, the id is not known any more; nor is it 24 h after "
            "the end, or after the last time it was asked for since then."
        ),
        security=ANY_SCHEME,
        extensions={"requestBody": _form({"id": _MSG["id"]})},
        responses={
            **_answers(
                ", ".join(f"`{state}`" for state in dict.fromkeys((PREPROCESS, *STATES.values())))
                + ", or what is wrong",
                PREPROCESS,
            ),
            **documented(403, 413),
        },
    )
    def cons() -> Response:
        return _text(service.desk.state(client().id, _field(_form_of(request), "id")))

    return bp


_MSG = {
    "id": "What /data has given; left out: the client's latest upload",
    "serv": f"Where to: {', '.join(f'`{word}` ({service})' for word, service in SERVICES.items())}",
    "dest": "Whom to: an international number without `+`, or a mail address",
    "type": f'JSON `{{"FILE": "TYPE"}}` with a type for each file ({", ".join(TYPES)}); or `text`',
    "sender": "The account that sends it; left out: `default`",
    "info": "JSON: `subject`, `reply-to`, `body` and others of a mail; `body` also stands before a text",
}
"""The fields of /msg."""


def _text(text: str, status: int = 200) -> Response:
    return Response(text, status, content_type=PLAIN)


def _form_of(request: Request) -> MultiDict[str, str]:
    """The fields of a form, all of them. Raises RequestEntityTooLarge."""
    request.get_data()  # whole: what is parsed as it comes is cut in silence where no length was said
    return request.form


def _field(form: MultiDict[str, str], name: str) -> str:
    """A field of `form`; '' when it is left out. Raises InvalidRequest."""
    values = form.getlist(name)
    if len(values) > 1:
        raise InvalidRequest(name, "is given more than once")
    return values[0] if values else ""


def _answers(description: str, example: str | None) -> dict[int, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if example:
        schema["example"] = example
    more = f"; a text that begins with `{ERROR.strip()}` says what is wrong"
    return {200: {"description": description + more, "content": {"text/plain": {"schema": schema}}}}


def _form(fields: dict[str, str]) -> dict[str, Any]:
    named = {name: {"description": words} for name, words in fields.items()}
    return _body("application/x-www-form-urlencoded", named, dict.fromkeys(fields, ""))


def _body(kind: str, fields: dict[str, Any], example: dict[str, str]) -> dict[str, Any]:
    """OpenAPI's words for a form that nothing is wrong with whatever it holds: what is wrong is said with 200."""
    return {"content": {kind: {"schema": {"properties": fields, "example": example}}}}
