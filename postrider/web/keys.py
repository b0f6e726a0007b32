"""/key and /key.crt: the public key for which clients encrypt files."""

from typing import Any

from apiflask import APIBlueprint
from flask import Response, jsonify, request

from postrider.keys import Keys
from postrider.web.auth import ANY_SCHEME, Gate

_PEM = {"schema": {"type": "string", "contentMediaType": "application/x-pem-file"}}
_JSON = {
    "schema": {
        "type": "object",
        "required": ["kid", "pem", "jwk"],
        "properties": {
            "kid": {"type": "string", "description": "The key's RFC 7638 thumbprint"},
            "pem": {"type": "string"},
            "jwk": {"type": "object", "description": "As RFC 7517 and Web Crypto have it"},
        },
    }
}


def blueprint(keys: Keys, gate: Gate) -> APIBlueprint:
    """The two routes over `keys`."""
    bp = gate.guard(APIBlueprint("encryption", __name__, tag="Encryption"))

    @bp.get("/key")
    @bp.doc(
        summary="The public key to encrypt files for",
        description="RSA, for RSA-OAEP with SHA-256. It may change: ask for it anew each time.",
        security=ANY_SCHEME,
        responses=_answers("The key", {"text/plain": _PEM, "application/json": _JSON}),
    )
    def get_key() -> Response:
        key = keys.newest()
        offered = ("text/plain", "application/json")
        if request.accept_mimetypes.best_match(offered, "text/plain") == "application/json":
            response = jsonify(kid=key.kid, pem=key.pem, jwk=key.jwk())
        else:
            response = Response(key.pem, content_type="text/plain; charset=utf-8")
        response.vary.add("Accept")
        return fresh(response)

    @bp.get("/key.crt")
    @bp.doc(
        summary="A self-signed certificate of that key",
        description="What `openssl cms -encrypt -recip` takes.",
        security=ANY_SCHEME,
        responses=_answers("The certificate", {"text/plain": _PEM}),
    )
    def get_certificate() -> Response:
        return fresh(
            Response(keys.newest().certificate_pem, content_type="text/plain; charset=utf-8")
        )

    return bp


def _answers(description: str, content: dict[str, Any]) -> dict[int, Any]:
    return {200: {"description": description, "content": content}}


def fresh(response: Response) -> Response:
    """No cache may keep a key that has been replaced."""
    response.headers["Cache-Control"] = "no-store"
    return response
