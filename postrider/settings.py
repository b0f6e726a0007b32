"""The environment and `.env`, made into one frozen `Settings`. Nobody else reads the environment.

The environment beats `.env`; an empty value counts as unset; `NAME_FILE` may name a file that holds the secret `NAME`.
"""

import io
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import quote

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)

from messengers.apprise import read_targets
from postrider import values
from postrider.errors import Misconfigured
from postrider.guard import Guard, Refused

DAY_S = 86_400


def _secret_in(path: Path) -> str:
    if secret := path.read_text(encoding="utf-8").strip():
        return secret
    raise ValueError("it is empty")  # an empty password would let everybody in


def lines_of(env_file: Path | None) -> dict[str, str | None]:
    """What stands in it; nothing when there is none. Raises Misconfigured, with each line that cannot be read."""
    try:
        text = env_file.read_text(encoding="utf-8") if env_file else ""
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise Misconfigured(f"{env_file}: is not UTF-8") from None
    except OSError as error:
        raise Misconfigured(f"{env_file}: cannot be read: {error.strerror}") from None
    faults = []
    for its in (read.original for read in parse_stream(io.StringIO(text)) if read.error):
        # It begins with the empty ones before it.
        line = its.line + len(its.string) - len(its.string.lstrip("\n"))
        faults.append(
            f"{env_file}: line {line} cannot be read: write it as NAME=VALUE, and close each quote in its line"
        )
    if faults:
        raise Misconfigured(*faults)
    return dict(dotenv_values(stream=io.StringIO(text)))


IN_WORDS = {
    "int_parsing": "is no whole number",
    "int_from_float": "is no whole number",
    "float_parsing": "is no number",
    "bool_parsing": "is neither on nor off",
}
"""What pydantic says at more length."""

Switch = Annotated[bool, BeforeValidator(values.switch)]
Durability = Literal["always", "everysec", "none"]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(values.rate)]
Url = Annotated[str, AfterValidator(values.web_url)]


class Settings(BaseModel):
    """Every setting, its default, its unit. A field `tz` is the variable `TZ`."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    # service
    api_user: Annotated[str, Field(pattern=r"^[^:\s]+$")] = "postrider"
    """Name of the one user of the basic-auth API."""
    api_password: SecretStr | None = None
    """Password of that user; `./run.sh` makes one."""
    bind: Annotated[str, AfterValidator(values.host_port)] = "127.0.0.1:5000"
    """Address and port of the API."""
    api_processes: PositiveInt = 2
    """API processes."""
    public_url: Url | None = None
    """How the outside reaches the API; messengers' webhooks go there, and fetch files there."""
    tz: Annotated[str, AfterValidator(values.known_zone)] = "UTC"
    """Zone of a `send_at` without offset, and of the times in the lists."""
    data_dir: Path = Path("data")
    """Where the embedded Redis keeps its file, and what was uploaded stays."""
    max_recipients: PositiveInt = 100_000
    """Recipients in one message."""
    max_body_bytes: PositiveInt = 32 * 1024 * 1024
    """Bytes of one request body."""
    max_file_bytes: PositiveInt = 2 * 1024 * 1024 * 1024
    """Bytes of one file."""
    file_url_allow_private: Annotated[str, AfterValidator(values.guarded)] = "off"
    """Networks and hosts, between commas, that attachments may be fetched from although they are not public; `on`: all there are."""
    max_ahead_days: PositiveInt = 3660
    """How far ahead a message may be scheduled, in days."""
    tls_cert_file: Path | None = None
    """Certificate (PEM) for HTTPS."""
    tls_key_file: Path | None = None
    """Its private key (PEM)."""
    tls_verify: Switch = True
    """Check messengers' certificates."""
    trusted_proxies: Annotated[str, AfterValidator(values.networks)] = ""
    """Addresses or networks of proxies whose `X-Forwarded-For` is believed, comma-separated."""
    audit_kept: PositiveInt = 100_000
    """Entries kept of each kind in the audit log: sent, refused, changed."""
    encrypt_at_rest: Switch = False
    """Keep texts in Redis, and files on the disk, encrypted under keys in `DATA_DIR/keys`."""
    sandbox: Switch = True
    """Offer the `sandbox` messenger."""
    accounts_file: Path = Path("accounts.toml")
    """Further accounts of the messengers; may be missing."""
    log_format: Literal["text", "json"] = "text"
    """`json`: an object a line, with ids; neither holds a body or a secret."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged, and all that is worse."""
    sentry_dsn: Annotated[SecretStr | None, AfterValidator(values.dsn)] = None
    """Where errors of ours are reported; unset: nowhere."""
    alert_urls: Annotated[SecretStr | None, AfterValidator(values.alert_urls)] = None
    """Apprise URLs, with spaces between them, that are told what needs somebody; unset: none."""

    # Redis
    redis_url: Annotated[SecretStr | None, AfterValidator(values.redis_url)] = None
    """`redis://`, `rediss://`, `unix://` or `redis+sentinel://`; unset: an embedded one."""
    durability: Durability = "everysec"
    """`everysec`: an append-only file is demanded; `always`: a 200 waits until it is on disk; `none`: no file will do."""
    redis_maxmemory: PositiveInt | None = None
    """Bytes the embedded Redis may use; unset: half of the memory."""

    # sending
    workers: Annotated[int, Field(ge=0)] = 2
    """Worker processes; 0 starts none."""
    worker_concurrency: PositiveInt = 100
    """Sends under way at once in one worker, for each account."""
    worker_memory: PositiveInt = 1024 * 1024 * 1024
    """Bytes of memory that one worker may use."""
    retry_count: Annotated[int, Field(ge=0)] = 5
    """Tries after the first one."""
    retry_interval: PositiveFloat = 10
    """Seconds before the first retry; doubles each time, up to an hour."""
    on_unknown: Literal["resend", "hold"] = "resend"
    """What to do with a send that got no answer: `resend` it, or `hold` it for you to decide."""
    unknown_grace: Annotated[float, Field(ge=0, le=30)] = 15
    """Seconds in which a receipt may settle a send that got no answer."""
    delete_finished_timeout: PositiveInt = 7 * DAY_S
    """Seconds a finished delivery stays to be seen."""
    delete_failed_timeout: PositiveInt = 30 * DAY_S
    """Seconds a failed delivery stays to be seen."""
    idempotency_ttl: PositiveInt = DAY_S
    """Seconds for which a POST with an `Idempotency-Key` can be repeated."""

    # receiving
    incoming_kept: PositiveInt = 100_000
    """Incoming messages that stay to be seen, for 30 days at most."""
    incoming_max_bytes: PositiveInt = 100 * 1024 * 1024
    """Bytes of a file that came in with a message; of a larger one only the message is kept."""
    opt_out_words: str = "STOP,STOPALL,UNSUBSCRIBE,OPTOUT"
    """Who sends just one of these words is sent nothing more; `-`: none."""
    opt_in_words: str = "START,UNSTOP,SUBSCRIBE,OPTIN"
    """Who sends just one of these words is sent to again; `-`: none."""

    # callbacks
    webhook_url: Url | None = None
    """What becomes of every delivery is posted there; besides, each message may name a `callback_url`."""
    webhook_secret: Annotated[SecretStr | None, AfterValidator(values.webhook_secret)] = None
    """Signs callbacks (Standard Webhooks), `whsec_...`; `./run.sh` makes one."""
    callback_allow_private: Annotated[str, AfterValidator(values.guarded)] = "off"
    """Networks and hosts, between commas, that callbacks may go to although they are not public; `on`: all there are."""

    # telegram
    telegram_bot_token: Annotated[SecretStr | None, AfterValidator(values.telegram_token)] = None
    """Token from @BotFather."""
    telegram_api_url: Url = "https://api.telegram.org"
    """Bot API server."""
    telegram_webhook_secret: Annotated[SecretStr | None, AfterValidator(values.telegram_secret)] = (
        None
    )
    """1 to 256 of A-Z, a-z, 0-9, _ and -, which Telegram shows with each call to us."""
    telegram_upload_mb: Annotated[int, Field(ge=1, le=2000)] = 50
    """Megabytes that a file may have: 50 at Telegram's own server, up to 2000 at one of yours in its local mode."""
    telegram_rate: Rate = 30
    """Messages per second; 0: no limit."""
    telegram_recipient_rate: Rate = 1
    """Messages per second to one chat; to a group at most 20 a minute."""

    # viber
    viber_auth_token: SecretStr | None = None
    """Token of the bot."""
    viber_sender_name: Annotated[str, Field(max_length=28)] = "Postrider"
    """Name shown with each message, at most 28 characters."""
    viber_api_url: Url = "https://chatapi.viber.com"
    """Viber REST API."""
    viber_rate: Rate = 50
    """Calls per second; one call reaches up to 300 recipients of one message."""
    viber_recipient_rate: Rate = 0
    """Messages per second to one recipient."""

    # whatsapp
    whatsapp_access_token: SecretStr | None = None
    """Cloud API access token."""
    whatsapp_phone_number_id: Annotated[str, Field(pattern=r"^\d+$")] | None = None
    """Id of the sending number."""
    whatsapp_api_url: Url = "https://graph.facebook.com"
    """Graph API."""
    whatsapp_api_version: Annotated[str, Field(pattern=r"^v\d+\.\d+$")] = "v23.0"
    """Graph API version."""
    whatsapp_app_secret: SecretStr | None = None
    """Secret of the app at Meta, which signs its calls to us."""
    whatsapp_verify_token: SecretStr | None = None
    """A word of your own that Meta shows when it first asks for the webhook."""
    whatsapp_rate: Rate = 80
    """Messages per second."""
    whatsapp_recipient_rate: Rate = 0.166
    """Messages per second to one recipient: one in 6 s."""
    whatsapp_daily_cap: Annotated[int, Field(ge=0)] = 0
    """Messages per day, as Meta's messaging limit allows; 0: no limit."""

    # whatsapp-web
    whatsapp_web_driver: Literal["waha", "gowa"] = "waha"
    """The program that holds the sessions of linked phones: WAHA, or go-whatsapp-web-multidevice (gowa)."""
    waha_url: Url | None = None
    """Where WAHA runs; setting it, or `GOWA_URL`, offers `whatsapp-web`, which WhatsApp forbids: docs/linked-phones.md."""
    waha_api_key: SecretStr | None = None
    """Key of WAHA's API."""
    gowa_url: Url | None = None
    """Where gowa runs."""
    gowa_user: Annotated[str, Field(pattern=r"^[^:\s]+$")] | None = None
    """User of gowa's API."""
    gowa_password: SecretStr | None = None
    """Password of that user."""
    whatsapp_web_secret: SecretStr | None = None
    """Signs what WAHA or gowa posts to us; `./run.sh` makes one."""
    whatsapp_web_hook_url: Url | None = None
    """How WAHA or gowa reaches this API; unset: `PUBLIC_URL`, else `BIND`."""
    whatsapp_web_rate: Rate = 0.2
    """Messages per second and phone; 0: no limit."""
    whatsapp_web_recipient_rate: Rate = 0.1
    """Messages per second to one recipient; 0: no limit."""
    whatsapp_web_gap: Annotated[str, AfterValidator(values.gap)] = "3-12"
    """Seconds between two messages of a phone, least and most, chosen at random; 0: no gap."""
    whatsapp_web_daily_cap: Annotated[int, Field(ge=0)] = 200
    """Messages per day and phone; 0: no limit."""
    whatsapp_web_warmup: Annotated[int, Field(ge=0, le=365)] = 14
    """Days over which a phone that was just linked comes to its daily cap, from 20 messages on; 0: at once."""
    whatsapp_web_check_cap: Annotated[int, Field(ge=0)] = 60
    """Numbers that a phone may look up in an hour; 0: no limit."""
    session_check_interval: PositiveFloat = 600
    """Seconds between two looks at a linked phone that is well."""
    ws_session: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,31}$")] | None = None
    """Session of the calls under `/ws/`; unset: the client's only one, else `default`."""
    slack_bot_token: SecretStr | None = None
    """Token of a Slack app that may write files (`files:write`, `chat:write`): it is given the QR codes."""
    slack_channel: str = "whatsapp_services"
    """Channel, by name or id, that is given the QR codes."""
    slack_api_url: Url = "https://slack.com/api/"
    """Slack's Web API."""

    # apprise
    apprise_targets: Annotated[SecretStr | None, AfterValidator(values.targets)] = None
    """Recipients by name and Apprise URL, `ops-slack=slack://...`, with spaces between; a name may have several URLs."""
    apprise_rate: Rate = 1
    """Messages per second to one target; 0: no limit."""
    apprise_recipient_rate: Rate = 0
    """Messages per second to one recipient, which is a target: the lower of the two holds."""

    # mail
    smtp_url: Annotated[SecretStr | None, AfterValidator(values.smtp_url)] = None
    """`smtp://USER:PASSWORD@HOST:587` (STARTTLS is demanded; `?starttls=off`: none) or `smtps://` (TLS at once)."""
    mail_from: Annotated[str | None, AfterValidator(values.senders)] = None
    """Who sends, `Shop <shop@example.org>`; several between commas, of which a message may name one, else the first."""
    mail_subject: Annotated[str | None, AfterValidator(values.header_line)] = None
    """Subject of a mail that has none; unset: its first line."""
    mail_unsubscribe_url: Annotated[str | None, AfterValidator(values.unsubscribe_url)] = None
    """`List-Unsubscribe` of a mail to several recipients; `{uuid}` and `{id}` stand for address and delivery."""
    mail_max_bytes: PositiveInt = 25 * 1024 * 1024
    """Bytes of a mail as it is sent, its files in base64."""
    mail_rate: Rate = 0
    """Mails per second; 0: no limit."""
    mail_recipient_rate: Rate = 0
    """Mails per second to one recipient."""

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] = os.environ, env_file: Path | None = Path(".env")
    ) -> Self:
        """The settings of this process.

        Raises Misconfigured with every fault at once.
        """
        found: dict[str, str | None] = {**lines_of(env_file), **environ}
        values: dict[str, Any] = {}
        faults: list[str] = []
        for field, info in cls.model_fields.items():
            name = field.upper()
            if found.get(name):
                values[field] = found[name]
            elif (path := found.get(f"{name}_FILE")) and SecretStr in get_args(info.annotation):
                try:
                    values[field] = _secret_in(Path(path))
                except (OSError, ValueError) as error:
                    faults.append(f"{name}_FILE: cannot read {path}: {error}")
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            for fault in error.errors(include_input=False, include_url=False):
                name = str(fault["loc"][0]).upper() if fault["loc"] else "settings"
                words = IN_WORDS.get(fault["type"], fault["msg"].removeprefix("Value error, "))
                faults.append(f"{name}: {words}")
            raise Misconfigured(*faults) from None
        if faults:
            raise Misconfigured(*faults)
        return settings

    @model_validator(mode="after")
    def _tls_comes_in_pairs(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("TLS_CERT_FILE and TLS_KEY_FILE: set both, or neither")
        return self

    @model_validator(mode="after")
    def _telegram_takes_such_files(self) -> Self:
        if self.telegram_upload_mb > 50 and "//api.telegram.org" in self.telegram_api_url:
            raise ValueError(
                "TELEGRAM_UPLOAD_MB: over 50 needs a server of yours, TELEGRAM_API_URL"
            )
        return self

    @model_validator(mode="after")
    def _webhook_url_may_be_called(self) -> Self:
        if self.webhook_url:
            if self.webhook_secret is None:
                raise ValueError("WEBHOOK_URL: needs WEBHOOK_SECRET; ./run.sh makes one")
            try:
                self.guard.target(self.webhook_url)
            except Refused as error:
                raise ValueError(f"WEBHOOK_URL: {error}") from None
        return self

    @property
    def guard(self) -> Guard:
        """What callbacks may call."""
        return Guard.read(self.callback_allow_private)

    @property
    def file_guard(self) -> Guard:
        """What attachments may be fetched from."""
        return Guard.read(self.file_url_allow_private, "FILE_URL_ALLOW_PRIVATE")

    @property
    def proxies(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """`trusted_proxies`, read."""
        parts = filter(None, map(str.strip, self.trusted_proxies.split(",")))
        return tuple(map(ipaddress.ip_network, parts))

    @property
    def host(self) -> str:
        """The host part of `bind`."""
        return self.bind.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The port part of `bind`."""
        return int(self.bind.rpartition(":")[2])

    @property
    def url(self) -> str:
        """How this machine reaches the API."""
        scheme = "https" if self.tls_cert_file else "http"
        host = "127.0.0.1" if self.host in {"0.0.0.0", "[::]"} else self.host  # noqa: S104 - compared, not bound
        return f"{scheme}://{host}:{self.port}"

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """What callbacks are signed with, the newest first: each signs, so that receivers can change over."""
        return tuple(self.webhook_secret.get_secret_value().split()) if self.webhook_secret else ()

    @property
    def alert_places(self) -> list[str]:
        """The URLs of `alert_urls`, each a secret."""
        return values.urls(self.alert_urls)

    @property
    def keys_dir(self) -> Path:
        """Where the keys lie for which clients encrypt files; in `at-rest`, those for what is kept; in `links`,
        those that links to files are signed with."""
        return self.data_dir / "keys"

    @property
    def whatsapp_web_gap_s(self) -> tuple[float, float]:
        """`whatsapp_web_gap`, read: least and most."""
        least, _, most = self.whatsapp_web_gap.partition("-")
        return float(least), float(most or least)

    @property
    def whatsapp_web_key(self) -> str:
        """`whatsapp_web_secret` in clear; '' where there is none."""
        return self.whatsapp_web_secret.get_secret_value() if self.whatsapp_web_secret else ""

    @property
    def hooks_url(self) -> str:
        """How the sidecar of linked phones reaches us."""
        return self.whatsapp_web_hook_url or self.public_url or self.url

    @property
    def apprise_urls(self) -> list[str]:
        """Every URL of `apprise_targets`, each a secret."""
        targets = self.apprise_targets.get_secret_value() if self.apprise_targets else ""
        return [url for urls in read_targets(targets).values() for url in urls] if targets else []

    @property
    def redis_socket(self) -> Path:
        """Socket of the embedded Redis."""
        return (self.data_dir / "redis.sock").resolve()

    @property
    def redis_address(self) -> str:
        """URL of the Redis to use: `REDIS_URL`, else the embedded one. May hold a password."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        return f"unix://{quote(str(self.redis_socket))}"

    def messenger_env(self) -> dict[str, str]:
        """What adapters are made from: every set setting by its variable name, secrets in clear."""
        env: dict[str, str] = {}
        for field in type(self).model_fields:
            value = getattr(self, field)
            if isinstance(value, SecretStr):
                env[field.upper()] = value.get_secret_value()
            elif isinstance(value, bool):
                env[field.upper()] = "on" if value else "off"
            elif value is not None:
                env[field.upper()] = str(value)
        return env
