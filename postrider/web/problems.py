"""Errors -> answers. The one table of HTTP statuses, and the one shape: `{"error": "..."}`."""

import logging
import uuid
from typing import Any

from apiflask import HTTPError
from flask import Flask, Response, json, request
from pydantic import BaseModel
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from postrider import errors

log = logging.getLogger("postrider.web")

STATUS: dict[type[errors.PostriderError], int] = {
    errors.InvalidRequest: 400,
    errors.BadSignature: 401,
    errors.NotFound: 404,
    errors.TooLarge: 413,
    errors.WrongMediaType: 415,
    errors.Unavailable: 503,
}


class Problem(BaseModel):
    """What is wrong, for a person: the field and the reason."""

    error: str


WORDS = {
    400: "The request cannot be taken as it is; `error` names the field and the reason",
    401: "Wrong or missing credentials",
    413: "The body is over MAX_BODY_BYTES",
    415: "The body is not application/json",
    503: "Redis cannot answer; nothing was accepted unless `accepted` says `unknown`",
}


def documented(*statuses: int) -> dict[int, Any]:
    """OpenAPI's description of these answers."""
    schema = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {
        status: {
            "description": WORDS[status],
            "content": {"application/json": {"schema": schema}},
        }
        for status in statuses
    }


def register(app: Flask) -> None:
    """Makes every error of `app` an answer of that shape."""
    app.register_error_handler(errors.PostriderError, _refused)
    app.register_error_handler(HTTPError, _invalid)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _broken)


def answer(status: int, error: str, **more: object) -> Response:
    """The one shape of an error."""
    return Response(
        json.dumps({"error": error, **more}, ensure_ascii=False) + "\n",
        status,
        mimetype="application/json",
    )


def _refused(error: Exception) -> Response:
    if not isinstance(error, errors.PostriderError):  # only ever called with one
        raise TypeError from error
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    if isinstance(error, errors.Unavailable):
        more = {"accepted": "unknown"} if error.accepted_unknown else {}
        response = answer(status, str(error), **more)
        response.headers["Retry-After"] = str(error.retry_after_s)
        return response
    return answer(status, str(error))


def _invalid(error: Exception) -> Response:
    """APIFlask's validation error: `{location: {"recipients.3.uuid": [message]}}`."""
    detail: dict[str, dict[str, list[str]]] = getattr(error, "detail", {})
    faults = [
        f"{_path(field)}: {message}"
        for fields in detail.values()
        for field, messages in fields.items()
        for message in messages
    ]
    return answer(400, "; ".join(faults[:5]) or "Validation error")


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
    response.set_data(answer(status, words.get(status, error.description or error.name)).get_data())
    response.content_type = "application/json"
    return response


def _broken(error: Exception) -> Response:
    """A fault of ours: logged in full under an id, of which the client is told no more than that id."""
    log_id = uuid.uuid4().hex[:12]
    log.error("internal error %s at %s %s", log_id, request.method, request.path, exc_info=error)
    return answer(500, f"internal error {log_id}; the log says more under that id")
