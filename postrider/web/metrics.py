"""/metrics: what all processes have counted, and how things stand in Redis now, as Prometheus reads it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import redis
from apiflask import APIBlueprint
from flask import Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from postrider import counts, queue, room
from postrider.records import account_key
from postrider.scripts import unavailable_when_redis_is
from postrider.service import Service
from postrider.standing import KINDS, chores, standings
from postrider.web.auth import ANY_SCHEME, Gate, client
from postrider.web.problems import documented

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The route, behind the gate."""
    bp = gate.guard(APIBlueprint("metrics", __name__, tag="Metrics"))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_All(service))
    text = {"text/plain": {"schema": {"type": "string"}}}

    @bp.get("/metrics")
    @bp.doc(
        summary="Numbers for Prometheus",
        security=ANY_SCHEME,
        responses={
            200: {"description": "In its text format, of all processes together", "content": text},
            **documented(401, 503),
        },
    )
    @unavailable_when_redis_is
    def metrics() -> Response:
        service.store.now()  # an answer soon, should Redis be away
        service.counts.flush()
        return Response(generate_latest(registry), content_type=CONTENT_TYPE)

    return bp


class _All(Collector):
    def __init__(self, service: Service) -> None:
        self.service = service

    def describe(self) -> Iterable[Metric]:
        return ()  # else registering would ask Redis

    def collect(self) -> Iterator[Metric]:
        yield from _counted(self.service.store.redis)
        yield from _now(self.service)


def _counted(client: redis.Redis) -> Iterator[Metric]:
    found: dict[str, dict[tuple[str, ...], dict[str | int, float]]] = defaultdict(dict)
    known = {metric.name: metric for metric in counts.METRICS}
    for (name, *labels), value in counts.totals(client):
        metric = known.get(str(name))
        if metric is None or len(labels) != len(metric.labels) + bool(metric.buckets):
            continue  # an older or newer release's
        part = labels.pop() if metric.buckets else ""
        found[metric.name].setdefault(tuple(map(str, labels)), {})[part] = value
    for metric in counts.METRICS:
        by_labels = found[metric.name]
        if metric.buckets:
            yield _histogram(metric, by_labels)
            continue
        family = CounterMetricFamily(metric.name, metric.says, labels=metric.labels)
        if not metric.labels:
            by_labels.setdefault((), {"": 0})
        for values, parts in sorted(by_labels.items()):
            family.add_metric(values, parts[""])
        yield family


def _histogram(
    metric: counts.Metric, by_labels: dict[tuple[str, ...], dict[str | int, float]]
) -> Metric:
    family = HistogramMetricFamily(metric.name, metric.says, labels=metric.labels)
    for values, parts in sorted(by_labels.items()):
        so_far, buckets = 0.0, []
        for n, bound in enumerate((*metric.buckets, "+Inf")):
            so_far += parts.get(n, 0)
            buckets.append((str(bound), so_far))
        family.add_metric(values, buckets, parts.get(counts.SUM, 0.0))
    return family


def _now(service: Service) -> Iterator[Metric]:
    store = service.store
    stand = store.counts()
    yield _gauge(
        "postrider_deliveries",
        "Deliveries by where they stand: waiting (due: those whose time has come), sending, held (unknown, no try left),"
        " finished and failed (until they are forgotten)",
        "state",
        {
            "waiting": stand.waiting,
            "due": stand.late,
            "sending": stand.sending,
            "held": stand.held,
            "finished": stand.finished,
            "failed": stand.failed,
        },
    )
    lengths = queue.lengths(store.redis)
    yield _gauge("postrider_queue_jobs", "Jobs in RQ's queues", "queue", lengths)
    yield _gauge(
        "postrider_sweep_deliveries",
        "What the sweep has to do: claims whose worker is gone, messages on their way in, and deliveries that go alone"
        " because a worker died with them",
        "what",
        chores(store.redis),
    )
    yield from _accounts(service)
    if service.phones.phone is not None:
        says = "Sessions of linked phones by how they stand"
        yield _gauge("postrider_sessions", says, "state", service.phones.counts())
    workers = GaugeMetricFamily("postrider_workers", "Worker processes alive, RQ's own included")
    workers.add_metric([], queue.workers(store.redis))
    yield workers
    memory = room.Memory.of(store.redis)
    used = GaugeMetricFamily("postrider_redis_memory_bytes", "Bytes that Redis uses")
    used.add_metric([], memory.used)
    yield used
    if memory.limit:
        shares = {
            "used": memory.used / memory.limit,
            "once_sent": memory.once_sent / memory.limit,
        }
        yield _gauge(
            "postrider_redis_memory_share",
            f"Share of maxmemory that is used, and that will be once all that waits is sent; nothing is accepted from"
            f" {room.FULL} and {room.FULL_ONCE_SENT} on",
            "when",
            shares,
        )


def _accounts(service: Service) -> Iterator[Metric]:
    labels = ["messenger", "account"]
    paused = GaugeMetricFamily(
        "postrider_account_paused",
        "1 while an account is paused; broken: its circuit breaker is open, asked: its messenger asked for it, refused:"
        " its token or its standing is refused",
        labels=[*labels, "kind"],
    )
    waiting = GaugeMetricFamily(
        "postrider_account_waiting",
        "Deliveries that are due and wait for their account",
        labels=labels,
    )
    service.phones.sync()
    who = client()
    everybody = sorted(key for key in service.sender.limits if service.phones.sees(who, key))
    found = standings(service.store.redis, [account_key(*key) for key in everybody])
    for key in everybody:
        stands = found[account_key(*key)]
        waiting.add_metric(key, stands.waiting)
        for kind in KINDS.values():
            is_so = stands.pause is not None and stands.pause.kind == kind
            paused.add_metric([*key, kind], float(is_so))
    yield paused
    yield waiting


def _gauge(name: str, says: str, label: str, values: dict[str, int] | dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, says, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
