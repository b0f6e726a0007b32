"""Redis killed, and the API killed: what was acknowledged is there, what was not is not half there."""

import os
import signal
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from postrider.link import connect
from tests.conftest import Api, wait_until
from tests.fake import FakeMessenger
from tests.reliability.redis.conftest import GENEROUS_S, Load, Run, Server, match, nothing_wrong


@pytest.mark.minutes
def test_redis_killed_under_load_loses_nothing_acknowledged(
    server: Server, run: Run, live: Api, messenger: FakeMessenger, long: bool
) -> None:
    """kill -9 of Redis (AOF, everysec) 15 times under load, 3 in the short form.

    Figure: acknowledged and lost 0; the API accepts again <= 5 s after Redis answers.
    """
    run()
    back_after_s = []
    with Load(live) as load:
        for _ in range(15 if long else 3):
            load.wait_for_accepted(50)
            server.kill()
            killed_at = time.monotonic()
            wait_until(lambda at=killed_at: any(p.at > at and p.status == 503 for p in load.posts))
            server.start()
            there_at = time.monotonic()
            wait_until(lambda at=there_at: load.accepted_since(at), GENEROUS_S)
            back_after_s.append(
                min(p.at + p.took_s for p in load.posts if p.accepted and p.at > there_at)
                - there_at
            )
        load.wait_for_accepted(50)
    with connect(server.url) as client:
        found = match(load.posts, messenger, client)
    print(found.accepted, "accepted; back after", [round(s, 2) for s in back_after_s])
    assert nothing_wrong(found), found
    assert max(back_after_s) <= 5
    assert {p.status for p in load.posts} <= {200, 503}


@pytest.mark.minutes
def test_the_api_killed_amid_large_posts_leaves_no_half_of_one(
    server: Server, run: Run, live: Api, long: bool
) -> None:
    """kill -9 of the API, 10 times (short: 2), while 4 clients post messages to 1,000 and 4 others to 2,500.

    Figure: half-stored batches 0; what was acknowledged is stored whole.
    """
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    posts = []
    for _ in range(10 if long else 2):
        api, *_ = run("api")
        with (
            Load(live, clients=4, recipients=1000, body="one step", send_at=later) as small,
            Load(live, clients=4, recipients=2500, body="three steps", send_at=later) as large,
        ):
            small.wait_for_accepted(4)
            os.killpg(api.pid, signal.SIGKILL)
            api.wait(GENEROUS_S)
        posts += small.posts + large.posts
    run("api")  # its sweep tidies up
    with connect(server.url) as client:
        wait_until(lambda: not client.zcard("pr:accepting"), GENEROUS_S, "all is tidied up")
        waiting = Counter(
            id_.decode().partition("-")[0] for id_ in client.zrange("pr:in:scheduled", 0, -1)
        )
        stored = {key.decode().removeprefix("pr:m:") for key in client.scan_iter("pr:m:*")}
        assert set(waiting) == stored
        assert set(waiting.values()) <= {1000, 2500}
    acknowledged = {post.answer["message"]["id"] for post in posts if post.accepted}
    print(len(posts), "posts,", len(acknowledged), "acknowledged,", len(stored), "stored")
    assert acknowledged <= stored
    assert any(post.status == 0 for post in posts)
