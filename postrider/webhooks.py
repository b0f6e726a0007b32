"""What messengers tell us: receipts and incoming messages, taken once they are known to be theirs."""

from collections.abc import Callable, Mapping

from messengers.base import Messenger, Person
from messengers.inward import Challenge, Webhook
from messengers.whatsapp_web import WhatsAppWeb
from postrider.errors import BadSignature, NotFound
from postrider.forwarding import place
from postrider.inbox import Inbox
from postrider.incoming import Arrivals, plain_words
from postrider.receipts import Receipts
from postrider.records import account_key
from postrider.sessions import owner_of
from postrider.settings import Settings
from postrider.store import Store


class Webhooks:
    """The webhooks of these accounts: (messenger, account name) -> adapter."""

    def __init__(
        self, store: Store, settings: Settings, accounts: Mapping[tuple[str, str], Messenger]
    ) -> None:
        self.store = store
        self.settings = settings
        self.accounts = accounts
        self.receipts = Receipts(store.redis)
        self.arrivals = Arrivals(store.redis, store.vault)
        self.inbox = Inbox(store.redis, store.vault)
        self.heard: Callable[[str], None] = lambda _session: None
        """Told that something about a session of a linked phone is new."""
        self.sync: Callable[[], None] = lambda: None
        """Makes the accounts of linked phones what they are now."""

    def receive(self, service: str, account: str, headers: Mapping[str, str], body: bytes) -> None:
        """Takes what a messenger posted to our webhook. `headers`: lower-case names; `body`: as it came.

        Raises NotFound for one that is not set up or calls nobody, BadSignature. May be called twice with the same.
        """
        adapter = self._adapter(service, account)
        now = self.store.now()
        if not adapter.authentic(headers, body, now):
            raise BadSignature("the signature does not match the body, or is too old")
        self.receipts.take(
            account_key(service, account),
            adapter.receipts(body),
            finished_ttl_s=self.settings.delete_finished_timeout,
            failed_ttl_s=self.settings.delete_failed_timeout,
        )
        if isinstance(adapter, WhatsAppWeb) and adapter.links(body):
            self.heard(account)
        is_phone, told_to = isinstance(adapter, WhatsAppWeb), self.settings.webhook_url
        messages = adapter.incoming(body)
        people = [Person(m.sender, m.name) for m in messages if m.kind != "left"]
        self.inbox.remember_people(f"{service}/{account}", people)
        self.arrivals.take(
            service,
            account,
            messages,
            kept=self.settings.incoming_kept,
            opt_out=plain_words(self.settings.opt_out_words),
            opt_in=plain_words(self.settings.opt_in_words),
            told_at=now if told_to else None,
            owner=owner_of(account) if is_phone else "",
            place=place(told_to, account) if is_phone and told_to else "",
        )

    def _adapter(self, service: str, account: str) -> Webhook:
        if service == WhatsAppWeb.name:
            self.sync()
        adapter: object = self.accounts.get((service, account))
        if not isinstance(adapter, Webhook) or adapter.webhook_lacks():
            raise NotFound("no such webhook")
        return adapter

    def challenge(self, service: str, account: str, query: Mapping[str, str]) -> str:
        """The answer to a messenger that asks whether the webhook is ours. Raises NotFound, BadSignature."""
        adapter: object = self._adapter(service, account)
        if not isinstance(adapter, Challenge):
            raise NotFound("no such webhook")
        if (word := adapter.challenge(query)) is None:
            raise BadSignature("the query does not hold our verify token")
        return word
