"""One channel of a Slack: messages that change, and pictures that go again. Through slack_sdk, which is loaded where it is used.

The app needs `chat:write`, `files:write`, and, to find the channel by its name, `channels:read` and `groups:read`.
https://docs.slack.dev/messaging/working-with-files
"""

import logging
import re
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from messengers.reading import words
from postrider.hands import Bounded, Late
from postrider.settings import Settings

CALL_S = 10.0
"""Seconds for one call; an upload is three."""
AT_ONCE = 8
"""Calls under way in a process, those that were left behind included."""
PAGES, PAGE = 50, 200
"""Lists of channels that are looked through for a name: Slack lets an app ask for 20 a minute."""
WHYS: Mapping[str, str] = {
    "not_in_channel": "invite the app to the channel",
    "channel_not_found": "invite the app to the channel, or give SLACK_CHANNEL its id",
    "is_archived": "the channel is archived",
    "missing_scope": "the app needs the scopes chat:write, files:write, channels:read and groups:read",
    "invalid_auth": "SLACK_BOT_TOKEN is not accepted",
    "not_authed": "SLACK_BOT_TOKEN is not accepted",
    "token_revoked": "SLACK_BOT_TOKEN is not accepted",
    "account_inactive": "SLACK_BOT_TOKEN is not accepted",
}
_ID = re.compile(r"[CG][A-Z0-9]{6,}")
_GONE = {"file_not_found", "file_deleted", "message_not_found"}


class NotTaken(Exception):
    """Slack has not done it. `word`: its own for why; `after_s`: seconds that it asks us to wait."""

    def __init__(self, why: str, word: str = "", after_s: float | None = None) -> None:
        super().__init__(why)
        self.word = word
        self.after_s = after_s


class Slack:
    """The channel. `until` is always of the monotonic clock; every method raises NotTaken, and nothing else."""

    def __init__(self, token: str, channel: str, url: str, *, tls_verify: bool = True) -> None:
        self._token = token
        self._name = channel.strip().removeprefix("#")
        self._url = url.rstrip("/") + "/"
        self._tls_verify = tls_verify
        self._bounded = Bounded("slack", AT_ONCE)
        self._channel = self._name if _ID.fullmatch(self._name) else ""
        self._client: Any = None

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """The one that the settings name."""
        if settings.slack_bot_token is None:
            return None
        token = settings.slack_bot_token.get_secret_value()
        return cls(
            token, settings.slack_channel, settings.slack_api_url, tls_verify=settings.tls_verify
        )

    def post(self, text: str, until: float) -> tuple[str, str]:
        """Says something; gives the channel's id and the message's."""
        channel = self._channel_id(until)
        said = self._call(lambda c: c.chat_postMessage(channel=channel, text=text), until)
        return channel, self._told(said, "ts")

    def change(self, channel: str, ts: str, text: str, until: float) -> bool:
        """Has a message say something else; False when somebody has deleted it."""
        return self._unless_gone(lambda c: c.chat_update(channel=channel, ts=ts, text=text), until)

    def forget(self, channel: str, ts: str, until: float) -> bool:
        """Deletes a message; False when somebody has."""
        return self._unless_gone(lambda c: c.chat_delete(channel=channel, ts=ts), until)

    def upload(self, png: bytes, name: str, title: str, until: float) -> str:
        """Shows a picture; gives its id."""
        channel = self._channel_id(until)
        said = self._call(
            lambda c: c.files_upload_v2(channel=channel, file=png, filename=name, title=title),
            until,
            calls=3,
        )
        match said:
            case {"files": [{"id": str(id_)}, *_]} if id_:
                return id_
        raise NotTaken("Slack answers with something that could not be read")

    def delete(self, file: str, until: float) -> bool:
        """Deletes a picture; False when somebody has."""
        return self._unless_gone(lambda c: c.files_delete(file=file), until)

    # -- the channel's id

    def _channel_id(self, until: float) -> str:
        """Of the channel, which may be given by its name; looked for once."""
        if not self._channel:
            try:
                self._channel = self._found("public_channel,private_channel", until)
            except NotTaken as error:
                if error.word != "missing_scope":
                    raise
                self._channel = self._found("public_channel", until)  # the app may not list others
        return self._channel

    def _found(self, types: str, until: float) -> str:
        cursor = ""
        for _ in range(PAGES):
            asked = {"types": types, "exclude_archived": True, "limit": PAGE}
            page = self._call(lambda c: c.conversations_list(**asked, cursor=cursor), until)  # noqa: B023 - called at once
            for channel in page.get("channels") or []:
                match channel:
                    case {"id": str(id_), "name": str(name)} if name == self._name:
                        return id_
            more = page.get("response_metadata") or {}
            cursor = str(more.get("next_cursor") or "")
            if not cursor:
                break
        raise NotTaken(f"the app sees no channel {self._name}: invite it, or give the channel's id")

    # -- calling

    def _unless_gone(self, ask: Callable[[Any], Any], until: float) -> bool:
        try:
            self._call(ask, until)
        except NotTaken as error:
            if error.word in _GONE:
                return False
            raise
        return True

    def _call(self, ask: Callable[[Any], Any], until: float, calls: int = 1) -> dict[str, Any]:
        """What Slack says, once it says yes. Waits as long as Slack asks, where there is time for that."""
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise NotTaken("no answer in time")
            refused = self._tried(ask, min(left, CALL_S * calls))
            if isinstance(refused, dict):
                return refused
            if refused.word == "channel_not_found":
                self._channel = self._name if _ID.fullmatch(self._name) else ""
            if refused.after_s is None or time.monotonic() + refused.after_s >= until:
                raise refused
            time.sleep(refused.after_s)

    def _tried(self, ask: Callable[[Any], Any], seconds: float) -> dict[str, Any] | NotTaken:
        from slack_sdk.errors import SlackApiError  # noqa: PLC0415 - a tenth of a second

        try:
            data = self._bounded(seconds, lambda: ask(self._made()).data)
        except Late as error:
            return NotTaken(str(error))
        except SlackApiError as error:
            return self._refusal(error.response)
        except Exception as error:  # noqa: BLE001 - its words may hold what was sent
            return NotTaken(f"Slack could not be asked: {type(error).__name__}")
        if isinstance(data, dict):
            return data
        return NotTaken("Slack answers with something that could not be read")

    def _refusal(self, response: Any) -> NotTaken:
        data = response.data if isinstance(response.data, dict) else {}
        # An answer that was no JSON is quoted there; Slack's own words have neither spaces nor capitals.
        said = words(data.get("error"), self._token)
        word = said if re.fullmatch(r"[a-z0-9_]{1,60}", said) else ""
        why = f"Slack says {word or f'HTTP {response.status_code}'}"
        if more := WHYS.get(word):
            why = f"{why}: {more}"
        after_s = None
        if response.status_code == 429 or word in {"ratelimited", "rate_limited"}:
            named = str(response.headers.get("Retry-After") or "")
            after_s = (
                float(named) if named.isascii() and named.isdigit() and len(named) < 6 else 1.0
            )
        return NotTaken(why, word, after_s)

    def _made(self) -> Any:
        """The SDK's client, which logs nothing: its log tells what it sends."""
        if self._client is None:
            from slack_sdk import WebClient  # noqa: PLC0415 - as above

            silent = logging.Logger("slack", logging.CRITICAL + 1)  # noqa: LOG001 - one that no setting reaches
            silent.disabled = True
            trusting = ssl.create_default_context()
            if not self._tls_verify:
                trusting.check_hostname = False
                trusting.verify_mode = ssl.CERT_NONE
            self._client = WebClient(
                self._token,
                base_url=self._url,
                timeout=int(CALL_S),
                ssl=trusting,
                logger=silent,
                retry_handlers=[],
            )
        return self._client

    @staticmethod
    def _told(said: Mapping[str, Any], name: str) -> str:
        if isinstance(found := said.get(name), str) and found:
            return found
        raise NotTaken("Slack answers with something that could not be read")
