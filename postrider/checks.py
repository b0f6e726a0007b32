"""What is refused before anything is kept: recipients nobody can reach, texts nobody takes, times nobody can keep."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from messengers import MESSENGERS
from messengers.abilities import Headed, TakesFiles, Targets, Templates
from messengers.base import File, Heading, Messenger, Template
from messengers.whatsapp_web import WhatsAppWeb
from postrider.accounts import DEFAULT
from postrider.errors import InvalidRequest, NotFound
from postrider.guard import Refused
from postrider.model import Format, Message, NewMessage, Recipient
from postrider.rendering import html_of
from postrider.settings import Settings

TEMPLATE_MAX_BYTES = 64 * 1024
MARKDOWN_LIMIT = 50_000
"""Characters: the time that Markdown takes to be read may grow with the square of them."""
PAST = "Date must be in a future!"


class Checks:
    """What can be sent with these settings, by these accounts: (messenger, account name) -> adapter."""

    def __init__(
        self,
        settings: Settings,
        accounts: Mapping[tuple[str, str], Messenger],
        session_of: Callable[[str, str], str] = lambda name, _owner: name,
    ) -> None:
        """`session_of`: the account that a client means, by the name and its id; '' when there is none for it."""
        self.settings = settings
        self.accounts = accounts
        self._session_of = session_of
        self._targets: dict[str, Targets] = {}
        for (service, name), adapter in accounts.items():
            found: object = adapter
            if name == DEFAULT and isinstance(found, Targets):
                self._targets[service] = found

    def message(self, new: NewMessage) -> NewMessage:
        """`new` with exact duplicates among its recipients dropped, if it can be sent. Raises InvalidRequest."""
        if self._targets:
            new = replace(new, recipients=tuple(map(self._routed, new.recipients)))
        if any(to.service == WhatsAppWeb.name for to in new.recipients):
            new = replace(new, recipients=self._by_phones(new))
        recipients = tuple(dict.fromkeys(new.recipients))
        if not recipients:
            raise InvalidRequest("recipients", "names nobody; give at least one recipient")
        if len(new.recipients) > self.settings.max_recipients:
            raise InvalidRequest(
                "recipients",
                f"has {len(new.recipients)} entries; at most {self.settings.max_recipients} (MAX_RECIPIENTS) are taken",
            )
        self._recipients(new)
        if new.terms.check_first:
            _only_phones(new.recipients)
        self._body(new)
        self._files(new)
        self._callback(new)
        return replace(self._headed(new, len(recipients)), recipients=recipients)

    def _routed(self, to: Recipient) -> Recipient:
        """The same, by the account that sends there, where that hangs on the address."""
        targets = self._targets.get(to.service)
        if targets and to.account == DEFAULT and (account := targets.account_of(to.uuid)):
            return replace(to, account=account)
        return to

    def _by_phones(self, new: NewMessage) -> tuple[Recipient, ...]:
        """The recipients, by the session that its client means. Raises InvalidRequest."""
        known: dict[str, str] = {}
        found = []
        for index, to in enumerate(new.recipients):
            if to.service == WhatsAppWeb.name:
                if to.account not in known:
                    known[to.account] = self._session_of(to.account, new.owner)
                if not known[to.account]:
                    why = f"there is no session {to.account[:40]!r} of yours: add one at /api/v1/sessions"
                    raise InvalidRequest(f"recipients[{index}].account", why)
                to = replace(to, account=known[to.account])  # noqa: PLW2901 - the same, more exactly
            found.append(to)
        return tuple(found)

    def _recipients(self, new: NewMessage) -> None:
        for index, recipient in enumerate(new.recipients):
            adapter = self.accounts.get((recipient.service, recipient.account))
            if adapter is None:
                raise self._not_offered(index, recipient)
            reason = unstorable(recipient.uuid) or adapter.check_recipient(recipient.uuid)
            if reason:
                raise InvalidRequest(f"recipients[{index}].uuid", reason)

    def _not_offered(self, index: int, to: Recipient) -> InvalidRequest:
        service, which = to.service, "service"
        if there := sorted(name for messenger, name in self.accounts if messenger == service):
            which = "account"
            why = f"{service} has no account {to.account[:40]!r} here; it has {', '.join(there)}"
        elif service in MESSENGERS:
            needs = ", ".join(MESSENGERS[service].needs) or "SANDBOX=on"
            why = f"{service} is not set up here; it needs {needs}"
        else:
            why = self._unknown(service)
        return InvalidRequest(f"recipients[{index}].{which}", why)

    def _unknown(self, name: str) -> str:
        offered = ", ".join(sorted({service for service, _ in self.accounts})) or "none"
        return f"unknown messenger {name[:40]!r}; offered here: {offered}"

    def _body(self, new: NewMessage) -> None:
        if reason := unstorable(new.body):
            raise InvalidRequest("body", reason)
        templated = False
        for index, key in _accounts_of(new.recipients):
            adapter: object = self.accounts[key]
            if new.template and isinstance(adapter, Templates):
                templated = True
                if reason := _unsendable(new.template) or adapter.check_template(new.template):
                    raise InvalidRequest("template", reason)
                continue
            if not new.body.strip():
                if new.files and not new.body:
                    continue
                raise InvalidRequest("body", "must hold more than white space")
            if reason := self.accounts[key].check_text(new.body):
                raise InvalidRequest("body", f"{reason} (recipients[{index}], {key[0]})")
        if new.template and not templated:
            raise InvalidRequest("template", "is for whatsapp, and no recipient is there")

    def _files(self, new: NewMessage) -> None:
        if not new.files:
            return
        if new.template:
            raise InvalidRequest(
                "attachments", "cannot go with a template; name them in its components"
            )
        for index, key in _accounts_of(new.recipients):
            adapter: object = self.accounts[key]
            whose = f"(recipients[{index}], {key[0]})"
            if not isinstance(adapter, TakesFiles):
                raise InvalidRequest("attachments", f"{key[0]} takes no files {whose}")
            if not adapter.takes_links:
                for n, file in enumerate(new.files):
                    if not file.id:
                        why = f"{key[0]} fetches no links: leave out `link` {whose}"
                        raise InvalidRequest(f"attachments[{n}].link", why)
            if wrong := adapter.check_files(new.files, new.body):
                n, reason = wrong
                raise InvalidRequest(f"attachments[{n}]", f"{reason} {whose}")

    def _headed(self, new: NewMessage, total: int) -> NewMessage:
        """`new`, whose heading knows whether it goes to several. Raises InvalidRequest."""
        headed = False
        for index, key in _accounts_of(new.recipients):
            adapter: object = self.accounts[key]
            whose = f"(recipients[{index}], {key[0]})"
            if isinstance(adapter, Headed):
                headed = True
                heading = new.heading or Heading()
                if wrong := _in_letter(adapter, new.format, heading, new.body, new.files):
                    raise InvalidRequest(wrong[0], f"{wrong[1]} {whose}")
            elif new.format != "plain" and not getattr(adapter, "takes_markdown", False):
                raise InvalidRequest(
                    "format", f"{key[0]} takes plain; {new.format} is for mail and apprise {whose}"
                )
        if new.heading and not headed:
            raise InvalidRequest("mail", "is for mail, and no recipient is there")
        if not headed or (total == 1 and new.heading is None):
            return new
        return replace(new, heading=replace(new.heading or Heading(), bulk=total > 1))

    def notices(self, files: Sequence[File], recipients: Sequence[Recipient]) -> list[str]:
        """What a client should know of how these files go to them."""
        found = []
        for _, key in _accounts_of(recipients) if files else ():
            adapter: object = self.accounts.get(key)  # a schedule's may be gone
            if isinstance(adapter, TakesFiles):
                found += [f"{key[0]}: {notice}" for notice in adapter.notices(files)]
        return list(dict.fromkeys(found))

    def _callback(self, new: NewMessage) -> None:
        if new.callback_url is None:
            if new.callback_format != "event":
                raise InvalidRequest("callback_format", "is for a callback_url, and there is none")
            return
        self.callback_url(new.callback_url)

    def callback_url(self, url: str, field: str = "callback_url") -> None:
        """Whether callbacks may go there. Raises InvalidRequest."""
        if self.settings.webhook_secret is None:
            raise InvalidRequest(field, "callbacks need WEBHOOK_SECRET, which is not set")
        try:
            self.settings.guard.target(url)
        except Refused as error:
            raise InvalidRequest(field, str(error)) from None

    def times(self, new: NewMessage, now: datetime) -> None:
        """Whether its times can be kept. Raises InvalidRequest."""
        self.time(new.send_at, now)
        last = new.send_at or now
        own = [(n, to.send_at) for n, to in enumerate(new.recipients) if to.send_at]
        for n, send_at in own:
            self.time(send_at, now, f"recipients[{n}].send_at")
            last = max(last, send_at)
        if own and new.terms.late_s is not None:
            raise InvalidRequest(
                "late_s", "cannot be said where recipients have times of their own"
            )
        if new.terms.expires_at is not None and new.terms.expires_at <= last:
            raise InvalidRequest("expires_at", "must be later than the message is due")

    def time(self, send_at: datetime | None, now: datetime, field: str = "send_at") -> None:
        """Whether this is a moment that a delivery can wait for. Raises InvalidRequest."""
        if send_at is None:
            return
        if send_at <= now:
            raise InvalidRequest(field, PAST, alone=field == "send_at")
        days = self.settings.max_ahead_days
        if send_at - now > timedelta(days=days):
            raise InvalidRequest(field, f"is more than {days} days (MAX_AHEAD_DAYS) ahead")

    def text(self, message: Message, body: str) -> None:
        """Whether `body` can stand for the text of an accepted message. Raises InvalidRequest."""
        if message.template is not None:
            raise InvalidRequest("body", "this message is a template; cancel it and send another")
        for service in message.services:
            adapter = next(a for (name, _), a in self.accounts.items() if name == service)
            if reason := unstorable(body) or adapter.check_text(body):
                raise InvalidRequest("body", f"{reason} ({service})")
            heading = message.heading or Heading()
            if isinstance(adapter, Headed) and (
                wrong := _in_letter(adapter, message.format, heading, body, message.files)
            ):
                raise InvalidRequest("body", f"{wrong[1]} ({service})")
        if not body.strip():
            raise InvalidRequest("body", "must hold more than white space")

    def address(self, service: str, uuid: str) -> None:
        """Whether a messenger could reach `uuid`. Raises NotFound for a messenger that is none, InvalidRequest."""
        adapters = [a for (name, _), a in self.accounts.items() if name == service]
        if not adapters and service not in MESSENGERS:
            raise NotFound(self._unknown(service))
        for check in (unstorable, *(a.check_recipient for a in adapters[:1])):
            if wrong := check(uuid):
                raise InvalidRequest("uuid", wrong)


def _only_phones(recipients: Sequence[Recipient]) -> None:
    """Whether all of them are numbers that can be looked up. Raises InvalidRequest."""
    for index, to in enumerate(recipients):
        if to.service != WhatsAppWeb.name:
            why = f"is for {WhatsAppWeb.name}, and recipients[{index}] is on {to.service[:40]}"
            raise InvalidRequest("check_first", why)


def _in_letter(
    adapter: Headed, format_: Format, heading: Heading, text: str, files: tuple[File, ...]
) -> tuple[str, str] | None:
    """The first field that is wrong, and why; or None."""
    if format_ == "plain":
        return adapter.check_letter(heading, text, "", files)
    if len(text) > MARKDOWN_LIMIT:
        return "body", f"has {len(text)} characters; in markdown {MARKDOWN_LIMIT} are taken"
    return adapter.check_letter(heading, text, html_of(text), files)


def _accounts_of(recipients: Sequence[Recipient]) -> list[tuple[int, tuple[str, str]]]:
    """Each account that sends to them, behind the index of its first."""
    first_of: dict[tuple[str, str], int] = {}
    for index, to in enumerate(recipients):
        first_of.setdefault((to.service, to.account), index)
    return [(index, key) for key, index in first_of.items()]


def _unsendable(template: Template) -> str | None:
    """Why the components of `template` cannot be written as JSON for a messenger, or None."""
    try:
        size = len(json.dumps(template.components, ensure_ascii=False, allow_nan=False).encode())
    except ValueError:  # a lone surrogate, or a number too large to be one
        return "components hold what no JSON can say"
    return None if size <= TEMPLATE_MAX_BYTES else f"components are over {TEMPLATE_MAX_BYTES} bytes"


def unstorable(text: str) -> str | None:
    """Why `text` cannot be kept exactly as it is, or None."""
    if "\0" in text:
        return "must not hold NUL"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "must not hold lone surrogates"
    return None
