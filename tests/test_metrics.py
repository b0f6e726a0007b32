"""/metrics over real HTTP: numbers of all processes, in the format that Prometheus reads."""

import threading
from datetime import timedelta

import pytest
import redis
import requests
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from postrider.counts import KEY, LATENESS, METRICS, SUM, Counts
from postrider.link import connect
from postrider.model import NewMessage, Recipient
from postrider.selftest.fleet import free_port
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from tests.conftest import Api, Start, wait_until
from tests.fake import FakeMessenger, says

ANA = Recipient("42", "telegram")


class Scrape:
    """What /metrics says now."""

    def __init__(self, api: Api) -> None:
        answer = api.get("/metrics")
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        self.text = answer.text
        self.families: dict[str, Metric] = {
            family.name: family for family in text_string_to_metric_families(answer.text)
        }

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        return sum(
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def test_an_idle_service_has_every_metric_with_its_help(api: Api) -> None:
    families = Scrape(api).families
    assert {metric.name for metric in METRICS} <= families.keys()
    assert all(family.documentation for family in families.values())


def test_how_late_a_request_left_is_counted_first_of_all(
    api: Api, service: Service, client: redis.Redis, start: Start
) -> None:
    worker = start("postrider", "worker")
    wait_until(lambda: client.scard("rq:workers"), 15, "a worker")
    due = service.store.now() + timedelta(seconds=0.5)
    service.accept(
        NewMessage("Hi", tuple(Recipient(str(n), "telegram") for n in range(1, 31)), due)
    )
    wait_until(lambda: client.zcard("pr:in:sent") == 30, 15, "30 sends")
    worker.terminate()  # what it has counted in its last second comes, too
    worker.wait(20)

    scrape = Scrape(api)
    assert scrape.text.startswith("# HELP postrider_lateness_seconds")
    assert scrape.value("postrider_lateness_seconds_count", messenger="telegram") == 30
    buckets = [
        (float(sample.labels["le"]), sample.value)
        for sample in scrape.families["postrider_lateness_seconds"].samples
        if sample.name.endswith("_bucket")
    ]
    assert [bound for bound, _ in buckets[:-1]] == list(LATENESS.buckets)
    assert [number for _, number in buckets] == sorted(number for _, number in buckets)
    assert sum(bound <= 0.02 for bound, _ in buckets) >= 8  # where the promise is
    assert buckets[-1][1] == dict(buckets)[5.0] == 30
    assert scrape.value("postrider_attempts_total", messenger="telegram", kind="accepted") == 30
    assert scrape.value("postrider_outcomes_total", state="sent", account="default") == 30


def test_what_waited_for_a_rate_is_no_lateness(
    env: dict[str, str], client: redis.Redis, start: Start, api: Api
) -> None:
    settings = Settings.from_env(env | {"TELEGRAM_RATE": "20"}, None)
    service = Service(Store(client), settings, open_accounts(settings))
    worker = start("postrider", "worker", TELEGRAM_RATE="20")
    service.accept(NewMessage("Hi", tuple(Recipient(str(n), "telegram") for n in range(1, 13))))
    wait_until(lambda: client.zcard("pr:in:sent") == 12, 15, "12 sends")
    worker.terminate()
    worker.wait(20)

    scrape = Scrape(api)
    waited = scrape.value("postrider_rate_waits_total", messenger="telegram")
    at_once = scrape.value("postrider_lateness_seconds_count", messenger="telegram")
    assert (at_once, waited) == (2, 10)  # a burst is a tenth of a second's
    assert (
        scrape.value("postrider_rate_wait_seconds_total") >= sum(n / 20 for n in range(1, 11)) / 2
    )


def test_what_waited_for_its_recipient_is_no_lateness(
    env: dict[str, str], client: redis.Redis, start: Start, api: Api
) -> None:
    settings = Settings.from_env(env | {"TELEGRAM_RECIPIENT_RATE": "4"}, None)
    service = Service(Store(client), settings, open_accounts(settings))
    for _ in range(3):
        service.accept(NewMessage("Hi", (ANA,)))
    worker = start("postrider", "worker", TELEGRAM_RECIPIENT_RATE="4")
    wait_until(lambda: client.zcard("pr:in:sent") == 3, 15, "3 sends")
    worker.terminate()
    worker.wait(20)
    scrape = Scrape(api)
    assert scrape.value("postrider_rate_waits_total") == 2
    assert scrape.value("postrider_lateness_seconds_count") == 1


def test_attempts_and_outcomes_are_told_by_kind_and_never_by_words(
    api: Api, service: Service, client: redis.Redis, messenger: FakeMessenger, start: Start
) -> None:
    why = {
        "1": says(403, ok=False, error_code=403, description="Forbidden: planted words"),
        "2": says(502, ok=False, error_code=502, description="planted words"),
    }
    messenger.script = lambda call: why.get(str(call.json.get("chat_id")))
    start("postrider", "worker", RETRY_COUNT="1", RETRY_INTERVAL="0.05")
    service.accept(NewMessage("Hi", tuple(Recipient(n, "telegram") for n in "123")))
    wait_until(lambda: client.zcard("pr:in:failed") == 2, 15, "two that fail")
    wait_until(lambda: Scrape(api).value("postrider_attempts_total") == 4, 5, "four attempts")

    scrape = Scrape(api)
    assert scrape.value("postrider_attempts_total", kind="unavailable") == 2
    assert scrape.value("postrider_outcomes_total", state="failed", kind="rejected") == 1
    assert scrape.value("postrider_outcomes_total", state="failed", kind="unavailable") == 1
    assert scrape.value("postrider_outcomes_total", state="sent", kind="accepted") == 1
    assert "planted" not in scrape.text
    assert scrape.value("postrider_deliveries", state="failed") == 2
    assert scrape.value("postrider_workers") == 1


def test_how_accounts_stand_is_told(api: Api, client: redis.Redis) -> None:
    client.hset("pr:account:telegram", mapping={"until": "1900000000", "kind": "x", "why": "No"})
    client.zadd("pr:line:h telegram", {"a": 1})
    scrape = Scrape(api)
    told = {"messenger": "telegram", "account": "default"}
    assert scrape.value("postrider_account_paused", kind="refused", **told) == 1
    assert scrape.value("postrider_account_paused", messenger="viber") == 0
    assert scrape.value("postrider_account_waiting", **told) == 1


def test_what_stands_where_is_told_by_queue_too(
    api: Api, service: Service, client: redis.Redis
) -> None:
    later = service.store.now() + timedelta(hours=1)
    service.accept(NewMessage("Hi", (ANA,), later))
    client.rpush("rq:queue:high", "x")
    scrape = Scrape(api)
    assert scrape.value("postrider_deliveries", state="waiting") == 1
    assert scrape.value("postrider_deliveries", state="due") == 0
    assert scrape.value("postrider_queue_jobs", queue="high") == 1
    assert scrape.value("postrider_redis_memory_bytes") > 0


def test_requests_are_counted_by_route_whatever_is_asked_for(api: Api) -> None:
    sent = {"body": "Hi", "recipients": [{"uuid": "a", "service": "sandbox"}]}
    assert api.post("/send_message", json=sent).status_code == 200
    for n in range(20):
        assert api.get(f"/planted-{n}").status_code == 404
    api.request("PLANTED", "/send_message")
    scrape = Scrape(api)
    total = "postrider_http_requests_total"
    assert scrape.value(total, method="POST", route="/send_message", status="200") == 1
    assert scrape.value(total, route="none", status="404") == 20
    assert scrape.value(total, method="other", status="405") == 1
    assert scrape.value("postrider_http_request_seconds_count", route="/send_message") == 1
    assert scrape.value("postrider_accepted_messages_total") == 1
    assert scrape.value("postrider_accepted_deliveries_total", messenger="sandbox") == 1
    assert "planted" not in scrape.text.lower()


def test_processes_add_up(api: Api, redis_url: str, client: redis.Redis) -> None:
    def count() -> None:
        with connect(redis_url) as own:
            counts = Counts(own)
            for _ in range(100):
                counts.observe(LATENESS, 0.0015, "telegram")
                counts.flush()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scrape = Scrape(api)
    assert scrape.value("postrider_lateness_seconds_bucket", le="0.002") == 400
    assert scrape.value("postrider_lateness_seconds_sum") == pytest.approx(0.6)


def test_what_cannot_be_given_away_is_kept(redis_url: str, client: redis.Redis) -> None:
    counts = Counts(client)
    counts.observe(LATENESS, 0.0015, "telegram")
    client.set(KEY, "in the way")
    counts.flush()
    client.delete(KEY)
    counts.flush()
    assert client.hget(KEY, f'["{LATENESS.name}", "telegram", "{SUM}"]') == b"0.0015"


def test_numbers_of_another_release_are_passed_over(api: Api, client: redis.Redis) -> None:
    client.hset(KEY, mapping={'["postrider_gone", "a"]': 1, f'["{LATENESS.name}"]': 1})
    assert "postrider_gone" not in Scrape(api).text


def test_metrics_need_a_login(api: Api) -> None:
    api.auth = None
    assert api.get("/metrics").status_code == 401


def test_a_redis_that_is_away_is_a_503(api: Api, client: redis.Redis) -> None:
    assert api.get("/metrics").status_code == 200
    client.execute_command("CLIENT", "PAUSE", "2600", "ALL")
    assert api.get("/metrics").status_code == 503


def test_what_an_api_process_counted_last_survives_its_end(
    start: Start, client: redis.Redis
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    process = start("postrider", "api", BIND=bind, API_PROCESSES="2")
    with Api(f"http://{bind}") as api:
        wait_until(lambda: answers(api), 20, "the API")
        for _ in range(50):
            assert api.get("/get_scheduled").status_code == 200
        process.terminate()
        assert process.wait(40) == 0
    field = '["postrider_http_requests", "GET", "/get_scheduled", "200"]'
    assert client.hget(KEY, field) == b"50"


def answers(api: Api) -> bool:
    try:
        return api.get("/healthz", timeout=2).ok
    except requests.RequestException:
        return False
