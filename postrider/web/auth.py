"""Who may come in: one gate, put before a whole blueprint, so that no view can forget it."""

import hmac

from apiflask import APIBlueprint
from flask import Response, g, request
from flask_httpauth import HTTPBasicAuth

from postrider.errors import Forbidden
from postrider.model import Client
from postrider.settings import Settings
from postrider.web import problems


class Gate:
    """Basic auth for the one user that the settings name."""

    def __init__(self, settings: Settings) -> None:
        password = settings.api_password.get_secret_value() if settings.api_password else ""
        wanted = (settings.api_user.encode(), password.encode())
        self._auth = HTTPBasicAuth(realm="Postrider")

        @self._auth.verify_password  # type: ignore[untyped-decorator]
        def verify(user: str | None, given: str | None) -> bool:
            # Both are compared whatever the first says: the time taken tells nothing.
            same_user = hmac.compare_digest((user or "").encode(), wanted[0])
            same_password = hmac.compare_digest((given or "").encode(), wanted[1])
            if not (same_user and same_password):
                return False
            g.client = Client("", settings.api_user, "admin")
            return True

        @self._auth.error_handler  # type: ignore[untyped-decorator]
        def refuse(status: int) -> Response:
            return problems.answer(status, "Unauthorized access")

    def guard(self, blueprint: APIBlueprint) -> APIBlueprint:
        """`blueprint`, with every one of its routes behind a login."""
        blueprint.before_request(self._auth.login_required(lambda: None))
        return blueprint


def client() -> Client:
    """Who asks: behind the gate there is always somebody."""
    who: Client = g.client
    return who


def only_admins() -> None:
    """Stops everybody else: for what belongs to no client. Put before a blueprint that is behind the gate."""
    # The gate lets OPTIONS pass, without anybody: it answers with the methods alone.
    if request.method != "OPTIONS" and client().role != "admin":
        raise Forbidden("this is for admins")
