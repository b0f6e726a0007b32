"""HTTP, and only HTTP: `create_app` wires the service and the routes together."""

import logging
import random
import threading
import time

from apiflask import APIFlask
from flask import Flask, Response

from postrider import link, queue
from postrider.admission import Admission
from postrider.audit import Audit
from postrider.clients import Clients
from postrider.errors import Misconfigured, Unavailable
from postrider.logins import Logins
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from postrider.web import (
    access,
    accounts,
    audit,
    callbacks,
    dashboard,
    deliveries,
    files,
    handover,
    health,
    hooks,
    incoming,
    keys,
    messages,
    metrics,
    numbers,
    operations,
    problems,
    schedules,
    session_api,
    sessions,
    simple,
    suppressions,
    traffic,
    ws,
)
from postrider.web.auth import SCHEMES, Gate
from postrider.web.description import gated, plain_names
from postrider.web.reading import WholeRequest
from postrider.web.strict_json import StrictJSONProvider

log = logging.getLogger("postrider.web")

SWEEP_S = 5.0
COUNTS = "postrider.counts"
"""Where an app keeps what it has counted, for who ends its process."""
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def create_app(settings: Settings, *, sweeps: bool = True) -> Flask:
    """The WSGI application over the Redis and the messengers that `settings` name.

    `sweeps`: a thread of its own tidies up behind dead processes, as each worker does. Raises Misconfigured.
    """
    if settings.api_password is None:
        raise Misconfigured("API_PASSWORD is not set: write one into .env, or let ./run.sh make it")
    client = link.connect(settings.redis_address)
    store = Store(client, durability=settings.durability)
    service = Service(store, settings, open_accounts(settings))
    app = APIFlask(
        "postrider.web",
        title="Postrider",
        version="0.1.0",
        spec_path="/openapi.json",
        docs_path=None,
        json_errors=False,
        static_folder="static",
    )
    app.json = StrictJSONProvider(app)
    app.request_class = WholeRequest
    app.config.update(
        MAX_CONTENT_LENGTH=settings.max_body_bytes,
        MAX_FORM_MEMORY_SIZE=settings.max_body_bytes,  # else Flask's own, 500,000, answers 413
        VALIDATION_ERROR_STATUS_CODE=400,
        AUTO_VALIDATION_ERROR_RESPONSE=False,
        AUTO_404_RESPONSE=False,
        AUTO_AUTH_ERROR_RESPONSE=False,
        AUTO_OPERATION_ID=True,
        AUTO_SERVERS=False,  # behind a proxy it would name the wrong one; none means this one
    )
    app.description = (
        "Post one message with a time and a list of recipients; each gets it on time, once."
    )
    app.security_schemes = SCHEMES
    app.spec_processor(lambda spec: plain_names(gated(spec, handover.PATHS)))
    problems.register(app)
    traffic.watch(app, service.counts)
    app.extensions[COUNTS] = service.counts
    people, log_ = Clients(client), Audit(client, settings.audit_kept)
    gate = Gate(Admission(settings, people, Logins(client)), log_, settings.proxies)
    app.register_blueprint(simple.blueprint(service, gate))
    app.register_blueprint(messages.blueprint(service, gate))
    app.register_blueprint(deliveries.blueprint(service, gate))
    app.register_blueprint(operations.blueprint(service, gate))
    app.register_blueprint(schedules.blueprint(service, gate))
    app.register_blueprint(keys.blueprint(service.keys, gate))
    app.register_blueprint(files.blueprint(service, gate))
    app.register_blueprint(files.links(service))
    app.register_blueprint(health.blueprint(service))
    app.register_blueprint(hooks.blueprint(service))
    app.register_blueprint(incoming.blueprint(service, gate))
    app.register_blueprint(suppressions.blueprint(service, gate))
    app.register_blueprint(callbacks.blueprint(service, gate))
    app.register_blueprint(dashboard.blueprint(service, gate))
    app.register_blueprint(accounts.blueprint(service, gate))
    app.register_blueprint(metrics.blueprint(service, gate))
    app.register_blueprint(access.blueprint(people, settings, gate))
    app.register_blueprint(audit.blueprint(log_, gate))
    app.register_blueprint(sessions.blueprint(service, gate))
    app.register_blueprint(numbers.blueprint(service, gate))
    app.register_blueprint(handover.blueprint(service, gate))
    app.register_blueprint(ws.blueprint(service.older, gate))
    app.register_blueprint(session_api.blueprint(service, gate))

    @app.after_request
    def harden(response: Response) -> Response:
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    if sweeps:
        service.start_alerts()
        for chore, args in ((_sweep, (service,)), (service.counts.flush_for_ever, ())):
            threading.Thread(target=chore, args=args, name=chore.__name__, daemon=True).start()
    return app


def _sweep(service: Service) -> None:
    try:
        queue.prepare(service.store.redis)
    except queue.ERRORS as error:
        log.warning("RQ's list of queues could not be written yet: %s", error)
    while True:
        time.sleep(SWEEP_S * random.uniform(0.8, 1.2))  # noqa: S311 - so that processes do not sweep in step
        try:
            service.sweep()
        except (Unavailable, *queue.ERRORS) as error:
            log.warning("sweep: %s", error)
