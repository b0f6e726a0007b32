"""/api/v1/sessions: linked phones. Added, linked by a QR code or another way, started, stopped, unlinked, forgotten.

Whoever scans a code is in, so codes are for senders: a viewer sees how a session stands, and no more.
"""

import base64
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from apiflask import APIBlueprint
from flask import Response, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from messengers.phones import Code
from postrider import linked, qr
from postrider.errors import IllegalTransition, InvalidRequest, WrongMediaType
from postrider.model import Client
from postrider.phones import Phones
from postrider.service import Service
from postrider.sessions import NAME, Session, SessionState
from postrider.web.auth import ANY_SCHEME, Gate, audited, client, needs
from postrider.web.problems import problems

PAGE, LONGEST_PAGE = 100, 1_000
KINDS = ("image/png", "text/plain", "application/json")
SECRET = {"Cache-Control": "no-store"}
NO_SIDECAR = "Also where no sidecar is set up."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SessionIn(_Strict):
    """A session to add."""

    name: Annotated[
        StrictStr,
        Field(
            pattern=f"^{NAME}$",
            description="Unlike any other of yours; the `account` that messages name",
            examples=["shop"],
        ),
    ]
    shared: Annotated[
        StrictBool,
        Field(description="Others may send by it, too; only for the user of the settings"),
    ] = False


class SessionsIn(_Strict):
    """Which part of the list."""

    limit: Annotated[int, Field(ge=1, le=LONGEST_PAGE)] = PAGE
    cursor: Annotated[str | None, Field(description="`next` of the page before")] = None


class TodayOut(BaseModel):
    """What its phone may send on this day of the service's zone, and has sent. null: nothing limits it."""

    cap: Annotated[int | None, Field(examples=[200])]
    sent: Annotated[int | None, Field(examples=[17])]


class SessionOut(BaseModel):
    """A session, and how it stands."""

    name: Annotated[
        str,
        Field(
            description="Its name; for an admin, another's is called by its id", examples=["shop"]
        ),
    ]
    owner: Annotated[str, Field(description="Id of the client that added it")]
    shared: bool
    state: Annotated[
        SessionState,
        Field(
            description="scan, passkey: it waits for its user; dropped: its phone is linked, but not there, and it is being"
            " brought back; unlinked: it has no phone until it is started again"
        ),
    ]
    since: Annotated[datetime, Field(description="When it came to stand so")]
    wanted: Annotated[bool, Field(description="Whether it is to run")]
    reason: Annotated[str, Field(description="What is not well, in the sidecar's words")]
    number: Annotated[str | None, Field(description="The phone's", examples=["375447034810"])]
    phone: Annotated[str | None, Field(description="What its user is called", examples=["Shop"])]
    linked_at: Annotated[datetime | None, Field(description="When this number was first linked")]
    created_at: datetime
    waiting: Annotated[int, Field(description="Deliveries that are due and wait for it")]
    today: TodayOut


class SessionsOut(BaseModel):
    """Sessions in order of their names."""

    sessions: list[SessionOut]
    next: str | None


class CodeOut(BaseModel):
    """A QR code. `text` is null where the sidecar gives no more than the picture."""

    text: Annotated[str | None, Field(examples=["2@AbCdEf,GhIjKl,MnOpQr"])]
    png: Annotated[str, Field(description="In base64")]
    lives_s: Annotated[
        float | None, Field(description="Seconds for which it can be scanned, where that is known")
    ]


class PairIn(_Strict):
    """Whose phone is to show where to type the code."""

    number: Annotated[
        StrictStr,
        Field(
            pattern=r"^\+?[0-9]{5,15}$", description="With country code", examples=["+375447034810"]
        ),
    ]


class PairOut(BaseModel):
    """What is to be typed on the phone: Linked devices, Link with phone number."""

    code: Annotated[str, Field(examples=["ABCD-EFGH"])]


class PasskeyOut(BaseModel):
    """One of them: a challenge for an authenticator, or a code to compare with the phone's screen."""

    challenge: Annotated[
        dict[str, Any] | None, Field(description="`PublicKeyCredentialRequestOptions` of WebAuthn")
    ]
    code: Annotated[str | None, Field(examples=["ABCD-EFGH"])]


class PasskeyIn(_Strict):
    """One of them: what an authenticator made of the challenge, or that both codes are the same."""

    assertion: Annotated[
        dict[str, Any] | None,
        Field(min_length=1, description="`PublicKeyCredential.toJSON()` of WebAuthn"),
    ] = None
    confirm: StrictBool = False


class PresenceIn(_Strict):
    """How its user is shown to others."""

    online: StrictBool


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The routes over `service`."""
    bp = gate.guard(APIBlueprint("sessions", __name__, url_prefix="/api/v1", tag="Sessions"))
    bp.before_request(only_json_objects)
    _add_sessions(bp, service)
    _add_linking(bp, service.phones)
    return bp


def _add_sessions(bp: APIBlueprint, service: Service) -> None:
    """Sessions as such."""
    phones = service.phones

    @bp.post("/sessions")
    @bp.input(SessionIn)
    @bp.output(SessionOut, status_code=201)
    @bp.doc(
        summary="Add a session, and start it",
        description="Then scan its QR code with the phone: `GET /api/v1/sessions/{name}/qr`. 409: there is one of that name.",
        security=ANY_SCHEME,
        responses=_faults(400, 403, 409, 413, 415),
    )
    def add_session(json_data: SessionIn) -> Response:
        audited(json_data.name)
        added = phones.add(client(), json_data.name, shared=json_data.shared)
        answer = _shown(service, added)
        answer.status_code = 201
        return answer

    @bp.get("/sessions")
    @bp.input(SessionsIn, location="query")
    @bp.output(SessionsOut)
    @bp.doc(summary="Sessions", security=ANY_SCHEME, responses=_faults(400))
    def list_sessions(query_data: SessionsIn) -> Response:
        found, after = phones.page(client(), query_data.limit, query_data.cursor)
        return jsonify(sessions=linked.sessions(service, client(), found), next=after)

    @bp.get("/sessions/<name>")
    @bp.output(SessionOut)
    @bp.doc(summary="One session", security=ANY_SCHEME, responses=_faults(404))
    def get_session(name: str) -> Response:
        return _shown(service, phones.get(client(), name))

    @bp.delete("/sessions/<name>")
    @bp.output({}, status_code=204)
    @bp.doc(
        summary="Unlink its phone, and forget it",
        description=f"What waits for it waits until there is one of that name. {NO_SIDECAR}",
        security=ANY_SCHEME,
        responses=_faults(400, 403, 404, 409),
    )
    def delete_session(name: str) -> Response:
        phones.delete(client(), name)
        return Response(status=204)

    acts: dict[str, tuple[str, Callable[[Client, str], Session]]] = {
        "start": ("Have it run, linked or to be linked", phones.start),
        "stop": ("Have it rest: its phone stays linked, its deliveries wait", phones.stop),
        "restart": ("Have it begin anew: its phone stays linked", phones.restart),
        "logout": ("Unlink its phone: its deliveries wait for another", phones.logout),
    }
    for act, (summary, run) in acts.items():
        _add_act(bp, service, act, summary, run)


def _add_act(
    bp: APIBlueprint,
    service: Service,
    act: str,
    summary: str,
    run: Callable[[Client, str], Session],
) -> None:
    """Adds a route that does one thing to a session, and shows it."""

    @bp.post(f"/sessions/<name>/{act}", endpoint=f"{act}_session")
    @bp.output(SessionOut)
    @bp.doc(
        summary=summary,
        description=NO_SIDECAR,
        operation_id=f"post_sessions_{act}_session",
        security=ANY_SCHEME,
        responses=_faults(400, 403, 404, 409, 413, 415),
    )
    def do(name: str) -> Response:
        return _shown(service, run(client(), name))


def _add_linking(bp: APIBlueprint, phones: Phones) -> None:
    """How a phone comes to a session, and what it then shows."""

    @bp.get("/sessions/<name>/qr")
    @needs("sender")
    @bp.doc(
        summary="The QR code to scan now",
        description="It lives 20 to 60 s: ask again for the next. 409: there is none to scan, or, for `text/plain`, the sidecar"
        " gives only the picture.",
        security=ANY_SCHEME,
        responses={
            200: {
                "description": "The code, as `Accept` asks",
                "content": {
                    "image/png": {"schema": {"type": "string", "format": "binary"}},
                    "text/plain": {"schema": {"type": "string"}},
                    "application/json": {"schema": CodeOut.model_json_schema()},
                },
            },
            **_faults(400, 403, 404, 409),
        },
    )
    def get_code(name: str) -> Response:
        return _code(phones.code(client(), name))

    @bp.post("/sessions/<name>/pair")
    @bp.input(PairIn)
    @bp.output(PairOut)
    @bp.doc(
        summary="A code to type on the phone, instead of scanning",
        security=ANY_SCHEME,
        responses=_faults(400, 403, 404, 409, 413, 415),
    )
    def pair_phone(name: str, json_data: PairIn) -> Response:
        return _secret({"code": phones.pair(client(), name, json_data.number)})

    @bp.get("/sessions/<name>/passkey")
    @needs("sender")
    @bp.output(PasskeyOut)
    @bp.doc(
        summary="What a phone with a passkey asks for",
        description="First a challenge for an authenticator, then a code to compare. 409: nothing is asked for.",
        security=ANY_SCHEME,
        responses=_faults(400, 403, 404, 409),
    )
    def get_passkey(name: str) -> Response:
        asked = phones.passkey(client(), name)
        return _secret({"challenge": dict(asked.challenge) or None, "code": asked.code or None})

    @bp.post("/sessions/<name>/passkey")
    @bp.input(PasskeyIn)
    @bp.output({}, status_code=204)
    @bp.doc(
        summary="Hand over what an authenticator made of it, or say that both codes are the same",
        security=ANY_SCHEME,
        responses=_faults(400, 403, 404, 409, 413, 415),
    )
    def answer_passkey(name: str, json_data: PasskeyIn) -> Response:
        if (json_data.assertion is None) != json_data.confirm:
            raise InvalidRequest("assertion", "give an assertion, or say confirm: one of them")
        phones.answer_passkey(client(), name, json_data.assertion or {})
        return Response(status=204)

    @bp.put("/sessions/<name>/presence")
    @bp.input(PresenceIn)
    @bp.output({}, status_code=204)
    @bp.doc(
        summary="Show its user as online, or not",
        security=ANY_SCHEME,
        responses=_faults(400, 403, 404, 409, 413, 415),
    )
    def show_presence(name: str, json_data: PresenceIn) -> Response:
        phones.presence(client(), name, online=json_data.online)
        return Response(status=204)


def only_json_objects() -> None:
    """Refuses a body that is none. APIFlask would take `null` and the like for an object without fields."""
    if request.method not in {"POST", "PUT"} or not request.get_data():
        return
    if request.mimetype != "application/json":
        raise WrongMediaType("send the body as application/json")
    if not isinstance(request.get_json(), dict):
        raise InvalidRequest("body", "must be an object")


def _faults(*statuses: int) -> dict[int, Any]:
    return problems(*sorted({401, 429, 503, *statuses}))


def _shown(service: Service, found: Session) -> Response:
    return jsonify(linked.session(service, client(), found))


def _secret(told: dict[str, Any]) -> Response:
    answer = jsonify(told)
    answer.headers.update(SECRET)
    return answer


def _code(code: Code) -> Response:
    """The code in the form that is asked for."""
    kind = request.accept_mimetypes.best_match(KINDS, KINDS[0])
    if kind == "text/plain":
        if not code.text:
            raise IllegalTransition("the sidecar gives this code as a picture only: image/png")
        return Response(code.text, headers=SECRET, content_type="text/plain; charset=utf-8")
    png = code.png or qr.png(code.text)
    if kind == "application/json":
        coded = base64.b64encode(png).decode()
        return _secret({"text": code.text or None, "png": coded, "lives_s": code.lives_s})
    return Response(png, headers=SECRET, content_type="image/png")
