"""Our worker as a real process, and RQ's own tools on the same Redis."""

import json
import os
import pickle
import resource
import signal
import statistics
import subprocess
import time
import zlib
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from rq import Worker
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry

from postrider import queue
from postrider.model import NewMessage, Recipient, State
from postrider.service import Service
from postrider.verdicts import died
from tests.conftest import BIN, ROOT, Start, leases_run_out, wait_until
from tests.fake import Answer, Call, FakeMessenger, says
from tests.rogue import Rogue


def post(service: Service, count: int, *, in_s: float | None = None, first: int = 0) -> None:
    now = service.store.now()
    send_at = None if in_s is None else now + timedelta(seconds=in_s)
    recipients = tuple(Recipient(str(n), "telegram") for n in range(first, first + count))
    service.accept(NewMessage("Hello", recipients, send_at))


def counts(service: Service) -> Counter[str]:
    rows = [*service.scheduled(10_000, None).rows, *service.finished(10_000, None).rows]
    return Counter(delivery.state.value for delivery, _ in rows)


def test_everyone_gets_it_once(service: Service, messenger: FakeMessenger, worker: object) -> None:
    post(service, 500)
    wait_until(lambda: counts(service)["sent"] == 500, 20)
    assert Counter(call.to for call in messenger.calls) == {str(n): 1 for n in range(500)}
    assert {call.text for call in messenger.calls} == {"Hello"}


def test_all_three_messengers_and_the_sandbox_in_one_message(
    service: Service, messenger: FakeMessenger, worker: object
) -> None:
    recipients = (
        ("42", "telegram"),
        ("abc==", "viber"),
        ("+4915112345678", "whatsapp"),
        ("ana", "sandbox"),
    )
    service.accept(NewMessage("Hello 👋", tuple(Recipient(*r) for r in recipients)))
    wait_until(lambda: counts(service)["sent"] == 4)
    assert sorted(call.to for call in messenger.calls) == ["+4915112345678", "42", "abc=="]
    assert len(service.notes(10)) == 1


def test_nothing_is_early_and_little_is_late(
    service: Service, messenger: FakeMessenger, worker: object
) -> None:
    due = []
    for n in range(40):
        now = service.store.now()
        due.append(now + timedelta(seconds=0.5 + n * 0.05))
        service.accept(NewMessage("x", (Recipient(str(n), "telegram"),), due[-1]))
    wait_until(lambda: len(messenger.calls) == 40, 15)
    late = [call.at - due[int(call.to)].timestamp() for call in messenger.calls]
    assert min(late) >= 0
    assert statistics.median(late) < 1  # how late exactly is for the benchmarks to say


def test_a_refusal_fails_and_a_flood_is_waited_out(
    service: Service, messenger: FakeMessenger, worker: object
) -> None:
    floods = iter(
        [
            says(
                429,
                ok=False,
                error_code=429,
                description="Too Many Requests",
                parameters={"retry_after": 1},
            )
        ]
    )

    def script(call: Call) -> Answer | None:
        if call.to == "1":
            return says(403, ok=False, error_code=403, description="Forbidden: user is deactivated")
        return next(floods, None)

    messenger.script = script
    post(service, 2)
    wait_until(lambda: counts(service) == {"sent": 1, "failed": 1}, 10)
    first, second = (call.at for call in messenger.calls if call.to == "0")
    assert second - first >= 1


def test_a_lost_answer_is_unknown_and_sent_again_with_the_attempt_on_record(
    service: Service, messenger: FakeMessenger, client: redis.Redis, worker: object
) -> None:
    cuts = iter([Answer(cut=True)])
    messenger.script = lambda _: next(cuts, None)
    post(service, 1)
    wait_until(lambda: counts(service)["sent"] == 1)
    assert len(messenger.calls) == 2
    (key,) = client.scan_iter("pr:a:*")
    first, second = (client.hget(key, "0") or b"").split(b"\n")
    assert b"unclear" in first
    assert b"sent" in second


def test_a_connection_refused_is_tried_again(
    service: Service, env: dict[str, str], messenger: FakeMessenger, start: Start
) -> None:
    start("postrider", "worker", TELEGRAM_API_URL="http://127.0.0.1:1", RETRY_COUNT="2")
    post(service, 1)
    wait_until(lambda: counts(service)["failed"] == 1, 15)
    assert messenger.calls == []


def test_a_new_earlier_message_wakes_a_sleeping_worker(
    service: Service, messenger: FakeMessenger, worker: object
) -> None:
    post(service, 1, in_s=3600)
    time.sleep(0.1)
    asked = time.time()
    post(service, 1, first=1)
    wait_until(lambda: messenger.calls, 5)
    assert messenger.calls[0].at - asked < 1


def test_a_worker_stands_in_rqs_books(
    service: Service, client: redis.Redis, worker: subprocess.Popen[bytes]
) -> None:
    post(service, 3)
    wait_until(lambda: counts(service)["sent"] == 3)
    (listed,) = Worker.all(connection=client)
    assert listed.pid == worker.pid
    assert sorted(listed.queue_names()) == ["default", "high", "low"]
    wait_until(lambda: Worker.all(connection=client)[0].successful_job_count == 3)
    wait_until(lambda: Worker.all(connection=client)[0].get_state() == "idle")
    worker.terminate()
    worker.wait(15)
    assert Worker.all(connection=client) == []


def test_what_each_worker_has_under_way_stands_in_rqs_books(
    service: Service,
    messenger: FakeMessenger,
    client: redis.Redis,
    worker: subprocess.Popen[bytes],
) -> None:
    assert queue.at_work(client) == {worker.pid: []}
    messenger.script = lambda _: says(ok=True, result={"message_id": 1}, after_s=1.0)
    post(service, 3)
    wait_until(lambda: len(messenger.calls) == 3)
    (message,) = {job_id.partition("-")[0] for job_id in queue.at_work(client)[worker.pid]}
    assert sorted(queue.at_work(client)[worker.pid]) == [f"{message}-{n}" for n in range(3)]


def test_sigterm_finishes_what_is_under_way_and_takes_nothing_more(
    service: Service, messenger: FakeMessenger, start: Start, client: redis.Redis
) -> None:
    messenger.script = lambda _: says(ok=True, result={"message_id": 1}, after_s=1.0)
    worker = start("postrider", "worker", WORKER_CONCURRENCY="10")
    wait_until(lambda: client.scard("rq:workers"), 15)
    post(service, 50)
    wait_until(lambda: len(messenger.calls) == 10)
    worker.terminate()
    assert worker.wait(15) == 0
    assert counts(service) == {"sent": 10, "scheduled": 40}
    assert client.zcard("pr:leases") == 0
    assert client.scard("rq:workers") == 0


def test_what_a_killed_worker_held_is_sent_by_another(
    service: Service, messenger: FakeMessenger, start: Start, client: redis.Redis
) -> None:
    messenger.script = lambda _: says(ok=True, result={"message_id": 1}, after_s=30)
    first = start("postrider", "worker")
    post(service, 5)
    wait_until(lambda: len(messenger.calls) == 5, 15)
    os.killpg(first.pid, signal.SIGKILL)
    messenger.script = lambda _: None
    start("postrider", "worker")
    wait_until(lambda: counts(service)["sent"] == 5, 60, figure=True)
    assert Counter(call.to for call in messenger.calls) == {str(n): 2 for n in range(5)}
    for key in client.scan_iter("pr:a:*"):
        for n in range(5):
            assert b"died" in (client.hget(key, str(n)) or b"")


def test_a_frozen_worker_that_wakes_sends_nothing_twice_in_silence(
    service: Service, messenger: FakeMessenger, start: Start, client: redis.Redis
) -> None:
    frozen = start("postrider", "worker")
    wait_until(lambda: client.scard("rq:workers"), 15)
    frozen.send_signal(signal.SIGSTOP)
    post(service, 200)
    start("postrider", "worker")
    wait_until(lambda: counts(service)["sent"] == 200, 20)
    frozen.send_signal(signal.SIGCONT)
    post(service, 200, first=200)
    wait_until(lambda: counts(service)["sent"] == 400, 20)
    assert Counter(call.to for call in messenger.calls) == {str(n): 1 for n in range(400)}


# -- many by one call


def test_a_message_to_650_goes_out_in_three_broadcasts_with_an_outcome_each(
    service: Service, messenger: FakeMessenger, worker: object
) -> None:
    ids = [f"{n:022d}==" for n in range(650)]
    lost = {ids[7]: 6, ids[299]: 5, ids[640]: 11}

    def script(call: Call) -> Answer:
        rows = [
            {"receiver": to, "status": lost[to], "status_message": "not there"}
            for to in call.receivers
            if to in lost
        ]
        body = {"status": 0, "status_message": "ok", "message_token": 7, "failed_list": rows}
        return Answer(200, json.dumps(body).encode())

    messenger.script = script
    service.accept(NewMessage("Hello", tuple(Recipient(to, "viber") for to in ids)))
    wait_until(lambda: counts(service) == {"sent": 647, "failed": 3}, 20)
    assert [call.path for call in messenger.calls] == ["/pa/broadcast_message"] * 3
    assert sorted(len(call.receivers) for call in messenger.calls) == [50, 300, 300]
    assert sorted(to for call in messenger.calls for to in call.receivers) == ids
    failed = {
        delivery.recipient.uuid
        for delivery, _ in service.finished(1000, None).rows
        if delivery.state is State.FAILED
    }
    assert failed == set(lost)


def test_an_account_that_may_not_broadcast_reaches_everyone_one_by_one(
    service: Service, messenger: FakeMessenger, worker: object
) -> None:
    messenger.script = lambda call: (
        Answer(200, b'{"status": 20, "status_message": "broadcastNotAllowed"}')
        if call.path.endswith("broadcast_message")
        else None
    )
    ids = [f"{n:022d}==" for n in range(40)]
    service.accept(NewMessage("Hello", tuple(Recipient(to, "viber") for to in ids)))
    wait_until(lambda: counts(service)["sent"] == 40, 20)
    paths = Counter(call.path for call in messenger.calls)
    assert paths == {"/pa/broadcast_message": 1, "/pa/send_message": 40}


def test_thousands_that_end_at_once_are_recorded(
    service: Service, messenger: FakeMessenger, start: Start
) -> None:
    def script(_: Call) -> Answer:
        body = b'{"status": 0, "status_message": "ok", "message_token": 7}'
        return Answer(200, body, after_s=max(0.0, answer_at - time.time()))

    messenger.script = script
    answer_at = time.time() + 8
    worker = start("postrider", "worker")
    for n in range(4):
        ids = tuple(Recipient(f"{n}-{m}", "viber") for m in range(3000))
        service.accept(NewMessage("Hello", ids))
    wait_until(lambda: service.store.counts().finished == 12_000, 40)
    assert worker.poll() is None


# -- an adapter that breaks


@pytest.fixture
def rogue(service: Service) -> Service:
    """The service with that messenger set up."""
    return Service(
        service.store, service.settings, {**service.accounts, ("rogue", "default"): Rogue()}
    )


def start_rogue(start: Start, client: redis.Redis, **env: str) -> subprocess.Popen[bytes]:
    # -P: not from its own folder, where the tests' packages have the names of ours
    process = start("python", "-P", str(ROOT / "tests" / "rogue.py"), **env)
    wait_until(lambda: client.scard("rq:workers"), 15, "a worker in RQ's books")
    return process


@pytest.mark.parametrize("how", ["loop", "regex"])
def test_an_event_loop_that_stands_still_ends_its_process(
    rogue: Service, client: redis.Redis, start: Start, tmp_path: Path, how: str
) -> None:
    process = start_rogue(start, client)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    rogue.accept(NewMessage("Hello", (Recipient(how, "rogue"),)))
    assert process.wait(60) == -signal.SIGPROF
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert took_s < 8  # of which 3 for this, the rest for starting
    assert "in request" in (tmp_path / "processes.log").read_text()  # it says where it stood
    assert client.zcard("pr:leases") == 1


def test_a_request_that_no_client_can_send_holds_nothing(
    rogue: Service, client: redis.Redis, start: Start
) -> None:
    start_rogue(start, client)
    both = tuple(Recipient(to, "rogue") for to in ("unsendable", "ana"))
    message, _ = rogue.accept(NewMessage("Hello", both))
    id_ = f"{message.id}-0"
    wait_until(lambda: rogue.store.attempts([id_])[id_], 20, "a try")
    assert rogue.store.attempts([id_])[id_][0].reason == "internal error"
    wait_until(lambda: counts(rogue)["sent"] == 1 and not client.zcard("pr:leases"), 20)


def test_a_memory_hog_gets_what_a_worker_may_use_and_no_more(
    rogue: Service, client: redis.Redis, start: Start
) -> None:
    process = start_rogue(start, client, WORKER_MEMORY=str(400 * 1024 * 1024))
    rogue.accept(NewMessage("Hello", tuple(Recipient(to, "rogue") for to in ("hog", "ana"))))
    wait_until(lambda: counts(rogue)["sent"] == 1 and counts(rogue)["sending"] == 0, 20)
    status = Path(f"/proc/{process.pid}/status")
    if process.poll() is None and status.exists():
        (peak,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        assert int(peak.split()[1]) < 500 * 1024
    rogue.accept(NewMessage("Hello", (Recipient("bob", "rogue"),)))
    wait_until(lambda: counts(rogue)["sent"] == 2, 20)


def test_one_that_kills_its_worker_is_tried_alone_three_times_and_no_neighbour_fails(
    rogue: Service, client: redis.Redis, start: Start
) -> None:
    neighbours = [Recipient(f"ana {n}", "rogue") for n in range(20)]
    everyone = [*neighbours[:10], Recipient("exit", "rogue"), *neighbours[10:]]
    rogue.accept(NewMessage("Hello", tuple(everyone)))
    processes = [start_rogue(start, client)]

    def all_have_ended() -> bool:
        if processes[-1].poll() is not None:
            leases_run_out(client)
            rogue.sweep()
            processes.append(start_rogue(start, client))
        return counts(rogue) == {"sent": 20, "failed": 1}

    wait_until(all_have_ended, 90)
    assert [process.poll() for process in processes] == [7, 7, 7, 7, None]
    (failed,) = [d for d, _ in rogue.finished(100, None).rows if d.state is State.FAILED]
    assert failed.recipient.uuid == "exit"
    lines = [client.hget(key, "10") or b"" for key in client.scan_iter("pr:a:*")]
    assert b"crashed_worker" in lines[0].splitlines()[-1]
    assert lines[0].count(b"died") == 3


def test_an_account_that_hangs_leaves_anothers_sends_untouched(
    service: Service, messenger: FakeMessenger, start: Start, client: redis.Redis
) -> None:
    hang_until = time.time() + 60

    def script(call: Call) -> Answer | None:
        if call.path.startswith("/bot"):
            after_s = max(0.0, hang_until - time.time())
            return says(ok=True, result={"message_id": 1}, after_s=min(after_s, 12.0))
        return None

    messenger.script = script
    start("postrider", "worker", WORKER_CONCURRENCY="10")
    wait_until(lambda: client.scard("rq:workers"), 15)
    post(service, 200)
    wait_until(lambda: len(messenger.calls) == 10)
    others = tuple(Recipient(str(n), "whatsapp") for n in range(4915100000, 4915100300))
    service.accept(NewMessage("Hello", others))
    wait_until(lambda: counts(service)["sent"] >= 300, 11, figure=True)
    paths = Counter(call.path.startswith("/bot") for call in messenger.calls)
    assert paths == {True: 10, False: 300}
    hang_until = 0.0


def claims_per_second(client: redis.Redis, within_s: float = 4) -> float:
    """How often scripts run: an idle worker looks once a second, and runs a sweep's few now and then."""

    def calls() -> int:
        return client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)

    first, began = calls(), time.monotonic()
    wait_until(lambda: time.monotonic() - began > within_s, within_s + 1)
    return (calls() - first) / within_s


@pytest.mark.parametrize("waits", ["in queues", "in a line", "alone", "for nobody"])
def test_a_worker_that_can_send_nothing_of_what_waits_does_not_spin(
    service: Service, client: redis.Redis, start: Start, waits: str
) -> None:
    if waits == "for nobody":
        gone = Service(
            service.store, service.settings, {("rogue", "default"): Rogue(), **service.accounts}
        )
        gone.accept(NewMessage("x", tuple(Recipient(str(n), "rogue") for n in range(2500))))
    else:
        client.hset("pr:account:telegram", "until", time.time() + 600)
        post(service, 2500)
    if waits == "alone":
        client.hdel("pr:account:telegram", "until")
        claims = service.sender.claim("dead", 300).claims
        service.sender.record("sweep", [died(c, service.settings) for c in claims])
        client.hset("pr:account:telegram", "until", time.time() + 600)
    if waits in {"in a line", "alone"}:
        for n in range(5):
            service.accept(NewMessage("x", (Recipient(str(n), "sandbox"),)))
            service.sender.claim("dead", 1)
    start("postrider", "worker")
    wait_until(lambda: client.scard("rq:workers"), 15)
    wait_until(lambda: client.zcount("rq:scheduler:scheduled_jobs", 0, time.time()) == 0)
    assert claims_per_second(client) < 8


# -- RQ's own tools


def start_stock(start: Start, url: str, workers: int = 1) -> None:
    start("rqscheduler", "-i", "1", "--url", url)
    for _ in range(workers):
        start("rq", "worker", "--url", url, "high", "default", "low")


def test_stock_rqscheduler_and_rq_worker_deliver_each_once(
    service: Service, redis_url: str, messenger: FakeMessenger, start: Start, client: redis.Redis
) -> None:
    messenger.script = lambda call: (
        says(403, ok=False, error_code=403, description="Forbidden: bot was kicked")
        if call.to == "7"
        else None
    )
    start_stock(start, redis_url)
    post(service, 10, in_s=1.5)
    wait_until(lambda: counts(service) == {"sent": 9, "failed": 1}, 60)
    assert Counter(call.to for call in messenger.calls) == {str(n): 1 for n in range(10)}
    wait_until(lambda: FinishedJobRegistry("default", connection=client).get_job_count() == 9)
    (failed,) = FailedJobRegistry("default", connection=client).get_job_ids()
    assert failed.endswith("-7")
    assert StartedJobRegistry("default", connection=client).get_job_ids() == []


def test_a_stock_worker_retries_too(
    service: Service, redis_url: str, messenger: FakeMessenger, start: Start
) -> None:
    answers = iter(
        [says(500, ok=False, error_code=500, description="Internal Server Error"), Answer(cut=True)]
    )
    messenger.script = lambda _: next(answers, None)
    start_stock(start, redis_url)
    post(service, 1)
    wait_until(lambda: counts(service)["sent"] == 1, 60)
    assert len(messenger.calls) == 3


def test_stock_and_our_workers_together_deliver_each_once(
    service: Service,
    redis_url: str,
    messenger: FakeMessenger,
    start: Start,
    worker: object,
    client: redis.Redis,
) -> None:
    start_stock(start, redis_url, 2)
    wait_until(lambda: client.scard("rq:workers") == 3, 30)
    for batch in range(10):
        post(service, 20, in_s=0.5 + batch / 4, first=batch * 20)
    wait_until(lambda: counts(service)["sent"] == 200, 60)
    assert Counter(call.to for call in messenger.calls) == {str(n): 1 for n in range(200)}


def test_rq_info_reads_our_redis(
    redis_url: str, service: Service, client: redis.Redis, worker: object
) -> None:
    post(service, 3)
    wait_until(lambda: counts(service)["sent"] == 3)
    done = subprocess.run(
        [BIN / "rq", "info", "--url", redis_url],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "3 finished" in done.stdout
    assert "1 workers, 3 queues" in done.stdout


@pytest.mark.parametrize("name", ["high", "default", "low"])
def test_the_queues_stand_from_the_start(client: redis.Redis, worker: object, name: str) -> None:
    assert f"rq:queue:{name}".encode() in client.smembers("rq:queues")


class Reduced:
    """Unpickled, it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def forgeries(command: str) -> list[dict[str, bytes | str]]:
    """What somebody who may write to Redis could put there as a job."""
    call = ("os.system", None, (command,), {})
    said = pickle.dumps(call)
    data: list[bytes | str] = [pickle.dumps(call, protocol) for protocol in range(6)]
    data += [pickle.dumps(Reduced(command), protocol) for protocol in range(2, 6)]
    data += [zlib.compress(said), f"cos\nsystem\n(S'{command}'\ntR.", json.dumps(call)]
    as_pickle = pickle.dumps(Reduced(command))
    beside: list[dict[str, bytes | str]] = [
        {f"{when}_callback_name": "os.system"} for when in ("success", "failure", "stopped")
    ]
    beside += [{"meta": as_pickle}, {"result": as_pickle}, {"exc_info": as_pickle}]
    beside += [{"serializer": "rq.serializers.PickleSerializer", "dependency_ids": as_pickle}]
    return [{"data": each} for each in data] + [{"data": said} | more for more in beside]


def test_a_forged_job_runs_nothing_in_our_worker(
    service: Service,
    client: redis.Redis,
    worker: subprocess.Popen[bytes],
    tmp_path: Path,
) -> None:
    """A stock worker would run each of them: it believes what Redis says."""
    trap = tmp_path / "sprung"
    forged = forgeries(f"touch {trap}")
    assert len(forged) == 20
    pickle.loads(pickle.dumps(Reduced(f"touch {trap}.itself")))  # the trap works
    assert trap.with_suffix(".itself").exists()
    for n, fields in enumerate(forged):
        job_id = f"{n:021}-0"
        job = {"status": "queued", "origin": "default", "created_at": "2030-01-01T00:00:00Z"}
        client.hset(f"rq:job:{job_id}", mapping={**job, **fields})
        client.rpush("rq:queue:default", job_id)
        client.zadd("rq:scheduler:scheduled_jobs", {f"{n + 50:021}-0": 1})
        client.zadd("pr:in:scheduled", {f"{n + 80:021}-0": 1})
    wait_until(lambda: client.llen("rq:queue:default") == 0)
    post(service, 1)
    wait_until(lambda: counts(service)["sent"] == 1)
    assert not trap.exists()
    assert worker.poll() is None
