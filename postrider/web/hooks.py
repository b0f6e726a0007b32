"""/hooks/<messenger>/<account>: what messengers tell us. One route for all; the adapter knows the rest."""

from apiflask import APIBlueprint
from flask import Response, jsonify, request

from postrider.service import Service

MAX_BYTES = 3 * 1024 * 1024
"""Of one call, which is read before anybody has proved to be anybody: WhatsApp's are the largest.

https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/overview
"""


def blueprint(service: Service) -> APIBlueprint:
    """The route. Nobody logs in here: the messenger signs the raw body instead."""
    bp = APIBlueprint("hooks", __name__, url_prefix="/hooks", enable_openapi=False)

    @bp.post("/<messenger>/<account>")
    def receive(messenger: str, account: str) -> Response:
        request.max_content_length = MAX_BYTES
        headers = {name.lower(): value for name, value in request.headers.items()}
        service.webhooks.receive(messenger, account, headers, request.get_data(cache=False))
        return jsonify(status="ok")

    @bp.get("/<messenger>/<account>")
    def prove(messenger: str, account: str) -> Response:
        word = service.webhooks.challenge(messenger, account, request.args.to_dict())
        return Response(word, content_type="text/plain; charset=utf-8")

    return bp
