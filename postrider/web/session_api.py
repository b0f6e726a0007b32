"""Sessions as an older gateway has them: /register-session/, /get-qr-code/, /get-session-info/, /send-message/; each also without the slash.

Incoming messages go to `WEBHOOK_URL/<session>`, whichever way a session was made.
"""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal

from apiflask import APIBlueprint
from flask import Response, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from messengers.phones import Code
from postrider import qr
from postrider.errors import IllegalTransition, InvalidRequest, NotFound
from postrider.model import Client, NewMessage, Recipient
from postrider.phones import SERVICE
from postrider.service import Service
from postrider.sessions import NAME, Session, SessionState
from postrider.showing import iso
from postrider.web import asking
from postrider.web.auth import ANY_SCHEME, Gate, audited, client, needs
from postrider.web.problems import documented

PNG, TEXT = "image/png", "text/plain"
OURS = {"body": "text", "recipients[0].uuid": "chat_id", "recipients[0].account": "session_name"}
"""Fields of a message -> what they are called here."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RegisterSessionIn(_Strict):
    """What the session is called."""

    session_id: Annotated[StrictStr, Field(pattern=f"^{NAME}$", examples=["shop"])]


class SessionInfoOut(BaseModel):
    """How a session stands. `scan`: its QR code waits; `linked`: it can send."""

    session_id: Annotated[str, Field(examples=["shop"])]
    status: Annotated[SessionState, Field(examples=["linked"])]
    since: datetime
    number: Annotated[str | None, Field(examples=["375447034810"])]
    name: Annotated[str | None, Field(description="What the phone's user is called")]
    reason: Annotated[str, Field(description="What is not well")]


class SendMessageToChatIn(_Strict):
    """A text for a chat."""

    chat_id: Annotated[
        StrictStr,
        Field(description="A chat's id, or a number", examples=["375447034810@s.whatsapp.net"]),
    ]
    text: Annotated[StrictStr, Field(examples=["Hello"])]
    session_name: Annotated[
        StrictStr, Field(description="The session that sends it", examples=["shop"])
    ]


class QueuedOut(BaseModel):
    """It will be sent; `GET /api/v1/messages/{message_id}` tells how it went."""

    message_id: Annotated[str, Field(examples=["0Gx3VbqnVbW6JHgUhk7Jd"])]
    session_name: str
    chat_id: str
    status: Literal["queued"]


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The four routes over `service`."""
    bp = gate.guard(APIBlueprint("session_api", __name__, tag="Older session interface"))
    bp.before_request(asking.only_json)
    phones = service.phones

    @bp.post("/register-session/", strict_slashes=False)
    @bp.input(RegisterSessionIn)
    @bp.output(SessionInfoOut, status_code=201)
    @bp.doc(
        summary="Add a session; or start one that has ended",
        description="Then scan its QR code with the phone. 200: there is one of that name already; it is started if it does not run.",
        security=ANY_SCHEME,
        responses={
            200: {"description": "It was there already", "content": _JSON},
            **documented(400, 401, 403, 409, 413, 415, 429, 503),
        },
    )
    def register_session(json_data: RegisterSessionIn) -> Response:
        name = json_data.session_id
        audited(name)
        try:
            found = phones.get(client(), name)
        except NotFound:
            answer = jsonify(_shown(phones.add(client(), name), client()))
            answer.status_code = HTTPStatus.CREATED
            return answer
        if not found.wanted:
            found = phones.start(client(), name)
        return jsonify(_shown(found, client()))

    @bp.get("/get-qr-code/<session_id>/", strict_slashes=False)
    @needs("sender")  # whoever scans it, is in
    @bp.doc(
        summary="The QR code to scan now",
        description="It lives 20 to 60 s: ask again for the next. 409: there is none to scan now.",
        security=ANY_SCHEME,
        responses={
            200: {
                "description": "As a picture, or as its text where `Accept` asks for that",
                "content": {
                    PNG: {"schema": {"type": "string", "format": "binary"}},
                    TEXT: {"schema": {"type": "string"}},
                },
            },
            **documented(400, 401, 403, 404, 409, 429, 503),
        },
    )
    def get_qr_code(session_id: str) -> Response:
        return _drawn(phones.code(client(), session_id))

    @bp.get("/get-session-info/<session_id>/", strict_slashes=False)
    @bp.output(SessionInfoOut)
    @bp.doc(
        summary="How a session stands",
        security=ANY_SCHEME,
        responses=documented(401, 404, 429, 503),
    )
    def get_session_info(session_id: str) -> Response:
        return jsonify(_shown(phones.get(client(), session_id), client()))

    @bp.post("/send-message/", strict_slashes=False)
    @bp.input(SendMessageToChatIn)
    @bp.output(QueuedOut)
    @bp.doc(
        summary="Send a text by a session",
        description="While its phone is away the text waits, and is sent when it is there again.",
        security=ANY_SCHEME,
        responses=documented(400, 401, 403, 404, 409, 413, 415, 429, 503),
    )
    def send_message_by_session(json_data: SendMessageToChatIn) -> Response:
        phones.sync()
        if not (account := phones.account_of(json_data.session_name, client().id)):
            raise NotFound("there is no such session")
        to = Recipient(json_data.chat_id, SERVICE, account)
        new = NewMessage(json_data.text, (to,), owner=client().id)
        try:
            message, _ = service.accept(new, asking.once())
        except InvalidRequest as error:
            raise InvalidRequest(OURS.get(error.field, error.field), error.reason) from None
        audited(message.id)
        told = {"message_id": message.id, "status": "queued"}
        return jsonify(json_data.model_dump(include={"chat_id", "session_name"}) | told)

    return bp


_JSON: dict[str, Any] = {
    "application/json": {"schema": {"$ref": "#/components/schemas/SessionInfoOut"}}
}


def _drawn(code: Code) -> Response:
    """The code in the form that is asked for."""
    if request.accept_mimetypes.best_match((PNG, TEXT), PNG) == PNG:
        answer = Response(code.png or qr.png(code.text), content_type=PNG)
    elif code.text:
        answer = Response(code.text, content_type=f"{TEXT}; charset=utf-8")
    else:
        raise IllegalTransition(f"the sidecar gives this code as a picture only: {PNG}")
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _shown(session: Session, who: Client) -> dict[str, Any]:
    return {
        "session_id": session.name if session.owner == who.id else session.id,
        "status": session.state,
        "since": iso(session.since),
        "number": session.number or None,
        "name": session.phone or None,
        "reason": session.reason,
    }
