"""/api/v1/deliveries: found, seen, stopped, sent again."""

from dataclasses import replace
from zoneinfo import ZoneInfo

from apiflask import APIBlueprint
from flask import Response, jsonify

from messengers.whatsapp_web import WhatsAppWeb
from postrider import showing
from postrider.finding import Wanted
from postrider.model import Client
from postrider.service import Service
from postrider.web import asking, export
from postrider.web.answers import DeliveriesOut, DeliveryOut, DeliveryWithAttemptsOut
from postrider.web.auth import ANY_SCHEME, Gate, client
from postrider.web.bodies import DeliveriesIn
from postrider.web.problems import problems


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The routes over `service`."""
    bp = gate.guard(APIBlueprint("deliveries", __name__, url_prefix="/api/v1", tag="Deliveries"))
    bp.before_request(asking.only_json)
    zone = ZoneInfo(service.settings.tz)

    @bp.get("/deliveries")
    @bp.input(DeliveriesIn, location="query")
    @bp.output(DeliveriesOut)
    @bp.doc(
        summary="Find deliveries",
        description=export.DESCRIPTION,
        security=ANY_SCHEME,
        responses=problems(400) | export.documented("deliveries"),
    )
    def deliveries(query_data: DeliveriesIn) -> Response:
        wanted, who = _wanted(service, query_data, zone, client()), client()
        now = service.store.now()
        if kind := export.wanted():
            rows = (showing.delivery(f, now, who) for f in service.finder.all_deliveries(wanted))
            return export.stream(kind, rows, showing.DELIVERY, "deliveries")
        found, cursor = service.finder.deliveries(wanted, query_data.limit, query_data.cursor)
        return jsonify(deliveries=[showing.delivery(f, now, who) for f in found], next=cursor)

    @bp.get("/deliveries/<delivery_id>")
    @bp.output(DeliveryWithAttemptsOut)
    @bp.doc(
        summary="One delivery, what was tried, and its receipts",
        security=ANY_SCHEME,
        responses=problems(404),
    )
    def delivery(delivery_id: str) -> Response:
        found = service.delivery(delivery_id, asking.owner_of(client()))
        tries = service.store.attempts([delivery_id])[delivery_id]
        receipts = service.receipts.of([delivery_id])[delivery_id]
        return jsonify(
            showing.delivery(found, service.store.now(), client())
            | {
                "tries": [showing.attempt(a) for a in tries],
                "receipts": [showing.receipt(r) for r in receipts],
            }
        )

    @bp.delete("/deliveries/<delivery_id>")
    @bp.output(DeliveryOut)
    @bp.doc(summary="Stop one", security=ANY_SCHEME, responses=problems(403, 404, 409))
    def stop_one(delivery_id: str) -> Response:
        found = service.change_delivery("cancel", delivery_id, asking.owner_of(client()))
        return jsonify(showing.delivery(found, service.store.now(), client()))

    @bp.post("/deliveries/<delivery_id>/retry")
    @bp.output(DeliveryOut)
    @bp.doc(
        summary="Send one again that ended without being sent",
        security=ANY_SCHEME,
        responses=problems(403, 404, 409),
    )
    def retry(delivery_id: str) -> Response:
        found = service.change_delivery("retry", delivery_id, asking.owner_of(client()))
        return jsonify(showing.delivery(found, service.store.now(), client()))

    return bp


def _wanted(service: Service, data: DeliveriesIn, zone: ZoneInfo, who: Client) -> Wanted:
    """What the query asks for; a linked phone by the name that its client has for it."""
    wanted = asking.wanted(data, zone, who)
    if wanted.service != WhatsAppWeb.name or not wanted.account or who.may("admin"):
        return wanted
    account = service.phones.account_of(wanted.account, who.id) or wanted.account
    return replace(wanted, account=account)
