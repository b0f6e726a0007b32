"""Talks with a sidecar that is not there: what is asked, and what comes of the answers."""

import json
from datetime import UTC, datetime

from messengers.base import Reply

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)


def said(status=200, at=AT, /, **body):
    """A sidecar's answer."""
    return Reply(status, json.dumps(body).encode(), {"content-type": "application/json"}, at)


def talked(talk, *replies):
    """What a talk gives when it is answered so, in turn, and what it has asked. The last answer stands for all further ones."""
    left, asked = list(replies), []
    try:
        asked.append(next(talk))
        while True:
            asked.append(talk.send(left.pop(0) if len(left) > 1 else left[0]))
            assert len(asked) < 12, "it never ends"
    except StopIteration as stop:
        return stop.value, asked


def gives(talk, *replies):
    """What a talk gives when it is answered so."""
    return talked(talk, *replies)[0]
