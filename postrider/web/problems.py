"""Errors -> answers. The one table of HTTP statuses, and the two shapes: `{"error": "..."}` for the simple API, RFC 9457's
problem with the same `error` beside it under /api/v1."""

import logging
import uuid
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from apiflask import HTTPError
from flask import Flask, Response, json, request
from pydantic import BaseModel
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from postrider import errors
from postrider.web.schemas import WORD

log = logging.getLogger("postrider.web")

STATUS: dict[type[errors.PostriderError], int] = {
    errors.InvalidRequest: 400,
    errors.BadSignature: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.IllegalTransition: 409,
    errors.IdempotencyConflict: 409,
    errors.TooLarge: 413,
    errors.WrongMediaType: 415,
    errors.TooManyRequests: 429,
    errors.Unavailable: 503,
}


class Problem(BaseModel):
    """What is wrong, for a person: the field and the reason."""

    error: str


API = "/api/v1/"
"""Below it errors are problems."""
WORDS = {
    400: "The request cannot be taken as it is; `error` names the field and the reason",
    401: "Wrong or missing credentials",
    403: "The caller's role does not allow it",
    404: "No such thing, or none that the caller may see",
    409: "Its state does not allow it, or the idempotency key is taken",
    413: "The body is over MAX_BODY_BYTES, a file over MAX_FILE_BYTES, or a form has too many parts",
    415: "The body is not of the type that is described",
    416: "There is no such part of it",
    429: "Over a limit of the caller's; `Retry-After` says when to try again",
    503: "Redis cannot answer, or too much is being done at once; `Retry-After` says when to try again. Nothing was accepted unless `accepted` says `unknown`",
}


def documented(*statuses: int) -> dict[int, Any]:
    """OpenAPI's description of these answers of the simple API."""
    schema = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return _described(statuses, "application/json", schema)


def problems(*statuses: int) -> dict[int, Any]:
    """OpenAPI's description of these answers under /api/v1."""
    text = {"type": "string"}
    fault = {
        "type": "object",
        "properties": {"field": text, "reason": text},
        "required": ["field", "reason"],
    }
    schema = {
        "type": "object",
        "properties": {
            **dict.fromkeys(("type", "title", "detail", "error"), text),
            "status": {"type": "integer"},
            "errors": {"type": "array", "items": fault},
            "accepted": {"type": "string", "enum": ["unknown"]},
        },
        "required": ["type", "title", "status", "detail", "error"],
    }
    return _described(statuses, "application/problem+json", schema)


def _described(statuses: Iterable[int], kind: str, schema: dict[str, Any]) -> dict[int, Any]:
    return {
        status: {"description": WORDS[status], "content": {kind: {"schema": schema}}}
        for status in statuses
    }


def register(app: Flask) -> None:
    """Makes every error of `app` an answer of that shape."""
    app.register_error_handler(errors.PostriderError, _refused)
    app.register_error_handler(HTTPError, _invalid)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _broken)


def answer(status: int, error: str, **more: object) -> Response:
    """An error in the shape that belongs to the route."""
    told: dict[str, object] = {"error": error, **more}
    kind = "application/json"
    if request.path.startswith(API):
        title = HTTPStatus(status).phrase
        slug = title.lower().replace(" ", "-")
        told = {
            "type": f"/problems/{slug}",
            "title": title,
            "status": status,
            "detail": error,
            **told,
        }
        kind = "application/problem+json"
    return Response(json.dumps(told, ensure_ascii=False) + "\n", status, content_type=kind)


def _refused(error: Exception) -> Response:
    if not isinstance(error, errors.PostriderError):  # only ever called with one
        raise TypeError from error
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    more: dict[str, object] = {}
    if isinstance(error, errors.Unavailable) and error.accepted_unknown:
        more["accepted"] = "unknown"
    if isinstance(error, errors.InvalidRequest) and error.field:
        more |= _faults([(error.field, error.reason)])
    response = answer(status, str(error), **more)
    if isinstance(error, errors.Unavailable | errors.TooManyRequests):
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _faults(faults: list[tuple[str, str]]) -> dict[str, object]:
    """What a problem says besides: every fault by its field. The simple API's shape never changes."""
    if not request.path.startswith(API):
        return {}
    return {"errors": [{"field": field, "reason": reason} for field, reason in faults]}


def _invalid(error: Exception) -> Response:
    """APIFlask's validation error: `{location: {"recipients.3.uuid": [message]}}`."""
    detail: dict[str, dict[str, list[str]]] = getattr(error, "detail", {})
    faults = [
        (_path(field), _said(message))
        for fields in detail.values()
        for field, messages in fields.items()
        for message in messages
    ]
    told = "; ".join(f"{field}: {reason}" for field, reason in faults[:5])
    return answer(400, told or "Validation error", **_faults(faults[:100]))


_SAID = (
    ("Extra inputs are not permitted", "there is no such field"),
    ("Input should be a valid dictionary", "must be an object"),
    ("List should have at least 1 item", "must not be empty"),
    ("Input should be a valid list", "must be a list"),
    ("Input should be a valid tuple", "must be a list"),
    (
        "String should match pattern '^([01][0-9]|2[0-3]):[0-5][0-9]$'",
        "write it as HH:MM, from 00:00 to 23:59",
    ),
    ("String should match pattern '^(([01][0-9]|2[0-3])", "write it as HH:MM, from 00:00 to 24:00"),
    (
        f"String should match pattern '{WORD}'",
        "may hold letters, digits and . : @ / + - _, and no space",
    ),
)
"""How pydantic begins what it says of an input, and what says it to who wrote it."""


def _said(message: str) -> str:
    return next((words for begins, words in _SAID if message.startswith(begins)), message)


def _path(field: str) -> str:
    """`recipients.3.uuid` -> `recipients[3].uuid`."""
    if field == "_schema":
        return "body"
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in field.split("."))[1:]


def _http(error: Exception) -> WerkzeugResponse:
    """Keeps the headers of the original answer: Allow, Retry-After, WWW-Authenticate."""
    if not isinstance(error, HTTPException):
        raise TypeError from error
    response = error.get_response()
    if not isinstance(response, WerkzeugResponse):
        raise TypeError from error
    status = response.status_code
    if 300 <= status < 400:
        return response
    words = {
        404: f"there is nothing at {request.path}",
        405: f"{request.method} is not allowed here",
        413: "the body is over MAX_BODY_BYTES",
    }
    answered = answer(status, words.get(status, error.description or error.name))
    response.set_data(answered.get_data())
    response.content_type = answered.content_type
    return response


def _broken(error: Exception) -> Response:
    """A fault of ours: logged in full under an id, of which the client is told no more than that id."""
    log_id = uuid.uuid4().hex[:12]
    log.error("internal error %s at %s %s", log_id, request.method, request.path, exc_info=error)
    return answer(500, f"internal error {log_id}; the log says more under that id")
