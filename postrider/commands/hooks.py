"""`postrider hooks set`: tells a messenger where to reach us."""

import argparse

from messengers import MESSENGERS
from messengers.base import Identity, NoReply
from messengers.inward import SetsWebhook, Webhook
from postrider.accounts import open_accounts
from postrider.commands.shell import Parsers
from postrider.commands.terminal import refuse, say, told
from postrider.errors import InvalidRequest
from postrider.settings import Settings
from postrider.transport import Blocking


def add_commands(commands: "Parsers[argparse.ArgumentParser]") -> None:
    """Adds this subcommand, with its function as `run`."""
    what = "tell a messenger where to reach us"
    hooks = commands.add_parser("hooks", help=what, description=what)
    what = "have a messenger post receipts and messages to us"
    parser = hooks.add_subparsers(metavar="COMMAND", required=True).add_parser(
        "set", help=what, description=what
    )
    parser.add_argument("messenger", metavar="MESSENGER", choices=MESSENGERS, help="such as viber")
    parser.add_argument("--account", metavar="NAME", default="default", help="left out: default")
    parser.add_argument(
        "--url", help="https:// address; left out: PUBLIC_URL/hooks/MESSENGER/ACCOUNT"
    )
    parser.set_defaults(run=set_hook)


@told
def set_hook(args: argparse.Namespace) -> int:
    """Has the messenger call our webhook from now on."""
    settings = Settings.from_env()
    name, account = args.messenger, args.account
    accounts = open_accounts(settings)
    adapter: object = accounts.get((name, account))
    if adapter is None:
        there = ", ".join(other for messenger, other in accounts if messenger == name)
        needs = ", ".join(MESSENGERS[name].needs) or "SANDBOX=on"
        why = (
            f"has no account {account!r}, only {there}"
            if there
            else f"is not set up; it needs {needs}"
        )
        raise InvalidRequest(name, why)
    if not (isinstance(adapter, Webhook) and isinstance(adapter, SetsWebhook)):
        raise InvalidRequest(name, "calls no webhook, so there is none to set")
    if lacks := adapter.webhook_lacks():
        raise InvalidRequest(
            name,
            f"could not be told from a forger: set {' and '.join(lacks)}, and start the API anew",
        )
    url = _hook_url(args.url, settings, f"/hooks/{name}/{account}")
    transport = Blocking(lambda _: None, tls_verify=settings.tls_verify)
    reply = transport.send(adapter.webhook_request(url))
    outcome = reply if isinstance(reply, NoReply) else adapter.read_webhook(reply)
    if isinstance(outcome, Identity):
        say(f"{name} calls {url} from now on, with: {outcome.name}")
        return 0
    return refuse(
        f"{name}: {outcome.reason or 'refuses without a reason'}: it calls {url} before it answers,"
        " so the API must run and be reached there from outside"
    )


def _hook_url(given: str | None, settings: Settings, path: str) -> str:
    if given is None and settings.public_url is None:
        raise InvalidRequest(
            "PUBLIC_URL", "is not set: how is this API reached from outside? Set it, or give --url"
        )
    name, url = (
        ("--url", given) if given else ("PUBLIC_URL", f"{settings.public_url}".rstrip("/") + path)
    )
    if not url.startswith("https://"):
        raise InvalidRequest(name, f"messengers call https:// addresses only, and {url} is none")
    return url
