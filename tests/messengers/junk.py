"""Whatever may be posted to a sidecar's webhook: none of it breaks who reads it."""

import json
from datetime import datetime

from tests.messengers.test_any import NASTY, WRONG, paths, put


def bodies(whole):
    """Bodies that are none, and `whole` with one value wrong at a time."""
    yield from NASTY.values()
    for path in paths(whole):
        for wrong in WRONG:
            yield json.dumps(put(whole, path, wrong)).encode()


def judge(driver, body):
    """What it reads out of `body` can be stored and shown, whatever that is."""
    assert isinstance(driver.session_of(body), str)
    for link in driver.links(body):
        _judge_text(link.number, link.name, link.reason)
    for receipt in driver.receipts(body):
        assert receipt.provider_id
        _judge_text(receipt.provider_id, receipt.reason, receipt.key)
        assert isinstance(receipt.at, datetime | None)
    for message in driver.incoming(body):
        assert message.id
        assert message.sender
        _judge_text(message.id, message.sender, message.name, message.text, *message.also)
        if message.media:
            _judge_text(message.media.url, message.media.media_type, message.media.name)
            driver.media(message.media.url)


def _judge_text(*texts):
    for text in texts:
        assert isinstance(text, str)
        assert len(text) <= 10_000
        text.encode()
