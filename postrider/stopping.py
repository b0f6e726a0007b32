"""What can be stopped, and what the store calls it: everything, a messenger, one of its accounts, a client."""

from collections.abc import Callable, Collection

from postrider.errors import InvalidRequest
from postrider.records import account_key

EVERYTHING = "all"


def name_of(
    accounts: Collection[tuple[str, str]],
    service: str | None,
    account: str | None,
    client: str | None,
    whose: Callable[[str], str],
) -> str:
    """What the store calls it; nothing named: everything. Raises InvalidRequest for what is not among `accounts`.

    `whose` gives a client's id for its id or name.
    """
    if client is not None:
        if service is not None or account is not None:
            raise InvalidRequest("client", "stop a client or a messenger, one at a time")
        return f"client {whose(client)}"
    if account is not None:
        if (service, account) not in accounts:
            raise InvalidRequest("account", "is none that is set up here; name its service, too")
        return f"account {account_key(service or '', account)}"
    if service is not None:
        if service not in {name for name, _ in accounts}:
            raise InvalidRequest("service", "is none that is set up here")
        return f"service {service}"
    return EVERYTHING


def scope_of(name: str) -> dict[str, str | None]:
    """What is called so: `service`, `account`, `client`; all None: everything."""
    kind, _, rest = name.partition(" ")
    scope: dict[str, str | None] = {"service": None, "account": None, "client": None}
    if kind == "client":
        scope["client"] = rest
    elif kind == "service":
        scope["service"] = rest
    elif kind == "account":
        service, _, account = rest.partition("/")
        scope |= {"service": service, "account": account or "default"}
    return scope
