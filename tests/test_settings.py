"""Settings: what beats what, every fault at once, secrets from files, and the documentation equal to the class."""

import re
from pathlib import Path

import pytest

from postrider.errors import Misconfigured
from postrider.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


def test_the_environment_beats_the_file(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("WORKERS=7\nRETRY_COUNT=9\n")
    settings = Settings.from_env({"WORKERS": "3"}, env_file)
    assert (settings.workers, settings.retry_count) == (3, 9)


def test_an_empty_value_counts_as_unset() -> None:
    assert Settings.from_env({"WORKERS": "", "REDIS_URL": ""}, None).workers == 2


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("123:abc\n")
    settings = Settings.from_env({"TELEGRAM_BOT_TOKEN_FILE": str(secret)}, None)
    assert settings.messenger_env()["TELEGRAM_BOT_TOKEN"] == "123:abc"


def test_an_unreadable_secret_file_is_a_fault_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="TELEGRAM_BOT_TOKEN_FILE: cannot read"):
        Settings.from_env({"TELEGRAM_BOT_TOKEN_FILE": str(tmp_path / "none")}, None)


def test_an_empty_secret_file_is_a_fault_and_no_empty_secret(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(Misconfigured, match="API_PASSWORD_FILE: cannot read"):
        Settings.from_env({"API_PASSWORD_FILE": str(tmp_path / "empty")}, None)


def test_every_fault_is_named_at_once() -> None:
    wrong = {
        "BIND": "here",
        "TZ": "Mars/Olympus",
        "WORKERS": "-1",
        "TELEGRAM_API_URL": "ftp://x",
        "WHATSAPP_API_VERSION": "23",
        "SANDBOX": "perhaps",
        "API_USER": "a:b",
    }
    with pytest.raises(Misconfigured) as caught:
        Settings.from_env(wrong, None)
    assert {fault.partition(":")[0] for fault in caught.value.faults} == set(wrong)


def test_tls_files_come_in_pairs() -> None:
    with pytest.raises(Misconfigured, match="set both, or neither"):
        Settings.from_env({"TLS_CERT_FILE": "cert.pem"}, None)


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "http://127.0.0.1:5000"),
        ({"BIND": "0.0.0.0:80"}, "http://127.0.0.1:80"),
        ({"BIND": "[::1]:81", "TLS_CERT_FILE": "c", "TLS_KEY_FILE": "k"}, "https://[::1]:81"),
    ],
)
def test_url_is_how_this_machine_reaches_the_api(env: dict[str, str], url: str) -> None:
    assert Settings.from_env(env, None).url == url


def test_no_secret_shows() -> None:
    env = {
        "API_PASSWORD": "planted-1",
        "VIBER_AUTH_TOKEN": "planted-2",
        "REDIS_URL": "redis://:planted-3@h",
    }
    settings = Settings.from_env(env, None)
    assert "planted" not in repr(settings) + str(settings)


@pytest.mark.parametrize("name", ["WHATSAPP_PHONE_NUMBER_ID", "TELEGRAM_BOT_TOKEN"])
def test_a_rejected_secret_does_not_show_in_the_fault(name: str) -> None:
    with pytest.raises(Misconfigured, match=f"^{name}: ") as caught:
        Settings.from_env({name: "planted-secret"}, None)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "redis://:planted#secret@h",
        "redis://:planted/secret@h:6379",
        "redis://:123#secret@h",
        "redis://:123/secret@h",
        "redis://:123?secret@h",
        "redis://[planted",
        "redis://:planted@h?surprise=secret",
        "redis+sentinel://:planted@h1:26379,h2:26379",
        "redis+sentinel://:planted@/service",
        "redis+sentinel://:planted@h1:99999/service",
        "redis+sentinel://:planted@h1,,h2/service",
        "redis+sentinel://:planted@h1/ser vice",
        "redis+sentinel://:planted@h1/service/secret",
        "redis+sentinel://:planted#secret@h1/service",
        "redis+sentinel://:123/secret@h1/service",
        "redis+sentinel://:planted@h1/service?surprise=secret",
    ],
)
def test_a_redis_url_that_cannot_be_read_shows_nothing_of_its_password(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"^REDIS_URL: cannot be read; write") as caught:
        Settings.from_env({"REDIS_URL": url}, None)
    told = str(caught.value)
    assert not [part for part in ("planted", "123", "secret") if part in told]


@pytest.mark.parametrize(
    "url",
    [
        "redis://:p%23%2Fw@h:6379/1",
        "rediss://u:p@h",
        "unix://u:p@/run/s.sock",
        "unix:///at@s.sock",
        "redis+sentinel://h/service",
        "rediss+sentinel://u:p%2Fw@h1:1,[::1]:2,10.0.0.1/my-service.1/3?sentinel_password=p&ssl_check_hostname=no",
    ],
)
def test_a_redis_url_that_can_be_read_is_taken(url: str) -> None:
    assert Settings.from_env({"REDIS_URL": url}, None).redis_address == url


@pytest.mark.parametrize("durability", ["always", "everysec", "none"])
def test_durability_is_one_of_three(durability: str) -> None:
    assert Settings.from_env({"DURABILITY": durability}, None).durability == durability


def test_a_durability_unheard_of_is_refused() -> None:
    with pytest.raises(Misconfigured, match=r"^DURABILITY: "):
        Settings.from_env({"DURABILITY": "maybe"}, None)


@pytest.mark.parametrize("rate", ["-1", "nan", "inf", "fast", "1e-16", "99999999"])
def test_a_rate_is_a_number_from_0_on(rate: str) -> None:
    with pytest.raises(Misconfigured, match=r"^TELEGRAM_RATE: "):
        Settings.from_env({"TELEGRAM_RATE": rate}, None)


def test_an_env_file_that_is_not_utf_8_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes("API_PASSWORD=\u00fc".encode("latin-1"))
    with pytest.raises(Misconfigured, match=r"^\.env: is not UTF-8$"):
        Settings.from_env({})


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('API_USER="ana\nTZ=UTC\n', [1]),
        ("# mine\n\nAPI USER=ana\nTZ='UTC\n", [3, 4]),
        ("API_USER=ana\n=x\n", [2]),
    ],
)
def test_each_line_of_an_env_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, lines: list[int]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(text)
    with pytest.raises(Misconfigured) as refused:
        Settings.from_env({})
    assert [word.partition(" cannot")[0] for word in str(refused.value).splitlines()] == [
        f".env: line {line}" for line in lines
    ]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("API_PROCESSES", "zero", "is no whole number"),
        ("API_PROCESSES", "1.5", "is no whole number"),
        ("TELEGRAM_RATE", "fast", "is no number"),
        ("SANDBOX", "maybe", "is neither on nor off"),
        ("PUBLIC_URL", "foo", "https://HOST"),
    ],
)
def test_a_fault_is_told_in_words(name: str, value: str, says: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        Settings.from_env({name: value}, None)
    assert says in str(refused.value)
    assert value not in str(refused.value)


def names() -> list[str]:
    return [field.upper() for field in Settings.model_fields]


def test_the_example_file_names_every_setting_and_no_other() -> None:
    example = (ROOT / ".env.example").read_text()
    assert re.findall(r"^#? ?([A-Z][A-Z_]+)=", example, re.MULTILINE) == names()


def test_the_example_file_shows_the_defaults() -> None:
    example = (ROOT / ".env.example").read_text()
    shown = dict(re.findall(r"^#? ?([A-Z][A-Z_]+)=(.*)$", example, re.MULTILINE))
    assert Settings.from_env(shown, None) == Settings.from_env({}, None)


def test_the_readme_table_names_every_setting_once() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme.partition("## Settings")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"`([A-Z][A-Z_]+)`(?= \()", table)) == sorted(names())
