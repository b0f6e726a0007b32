"""The pages as people see them: a real browser, the real service over HTTP, a real worker process."""

import html
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import requests
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from messengers.sandbox import FAILURES
from postrider.selftest.fleet import free_port
from postrider.service import Service
from postrider.web.dashboard import NOTES_SHOWN
from tests.conftest import PASSWORD, Api, Start, wait_until

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOGIN = {"username": "postrider", "password": PASSWORD}
VECTORS = """
<script>alert(N)</script>
<svg><script>alert(N)</script></svg>
<svg/onload=alert(N)>
<img src=x onerror="alert(N)">
<body onload=alert(N)>
<iframe srcdoc="<script>parent.alert(N)</script>"></iframe>
<iframe src="javascript:parent.alert(N)"></iframe>
<a href="javascript:alert(N)" autofocus onfocus=alert(N)>x</a>
<input autofocus onfocus=alert(N)>
<details open ontoggle=alert(N)><summary>x</summary></details>
<video><source onerror=alert(N)></video>
<math><mtext><style><img src onerror=alert(N)></style></mtext></math>
<style onload=alert(N)>p{background:url(javascript:alert(N))}</style>
<link rel=stylesheet href="data:text/css,p{}" onload=alert(N)>
<meta http-equiv=refresh content="0;url=javascript:alert(N)">
<base href="javascript:alert(N)//">
<object data="javascript:alert(N)"></object>
<form action="javascript:alert(N)"><button autofocus onfocus=alert(N)>x</button></form>
{{ cycler.__init__.__globals__ }}{{ constructor.constructor('alert(N)')() }}
${alert(N)}#{alert(N)}<%= alert(N) %><b>bold</b>
""".strip().splitlines()
PLACES: tuple[Callable[[str], str], ...] = (
    str,
    lambda vector: f"\"'>{vector}",  # behind an attribute
    lambda vector: f"</p></article></template></script>{vector}",  # behind what it stands in
    lambda vector: f"<!--><!-- -->]]>{vector}<!--",
    html.escape,  # to whom it is decoded once too often
)
NASTY = tuple(
    place(vector.replace("N", str(n)))
    for n, (place, vector) in enumerate(itertools.product(PLACES, VECTORS))
)
"""A hundred payloads that would run, or be more than a text, in a page that forgets to escape."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("NO BROWSER: apt-get install chromium, or set CHROMIUM to one")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


class Site(Api):
    """The service, and a way to send."""

    def tell(self, body: str, *uuids: str) -> None:
        """Accepts a message of the sandbox to these recipients."""
        recipients = [{"uuid": uuid, "service": "sandbox"} for uuid in uuids]
        answer = self.post("/send_message", json={"body": body, "recipients": recipients})
        assert answer.status_code == 200, answer.text


class Served(Site):
    """The same under gunicorn, on a port of its own, so that it can go away and come back."""

    def __init__(self, start: Start) -> None:
        self.bind = f"127.0.0.1:{free_port()}"
        super().__init__(f"http://{self.bind}")
        self._start = start

    def serve(self) -> None:
        """Starts it; returns once it answers."""
        self.process = self._start("postrider", "api", BIND=self.bind, API_PROCESSES="1")
        wait_until(self.is_up, 20, "the API")

    def stop(self) -> None:
        """Ends it, and waits for that."""
        self.process.terminate()
        self.process.wait(40)

    def is_up(self) -> bool:
        try:
            return self.get("/healthz", timeout=2).ok
        except (requests.ConnectionError, requests.Timeout):
            return False


@pytest.fixture
def site(api: Api) -> Iterator[Site]:
    with Site(api.url) as found:
        yield found


@dataclass
class Watched:
    """What a page did that a good page does not do."""

    faults: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        def dialog(found: Any) -> None:
            self.faults.append(f"dialog: {found.message}")
            found.dismiss()

        page.on("dialog", dialog)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on(
            "console",
            lambda said: (
                self.faults.append(f"console: {said.text}")
                if said.type in {"error", "warning"}
                else None
            ),
        )
        page.on("request", lambda request: self.asked.append(request.url))

    def outside(self, url: str) -> list[str]:
        """Requests that left the host of `url`."""
        own = urlsplit(url).netloc
        parts = [urlsplit(asked) for asked in self.asked]
        return [p.geturl() for p in parts if p.scheme not in {"data", "blob"} and p.netloc != own]


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    with browser.new_context(
        base_url=site.url, http_credentials=LOGIN, locale="en-GB", timezone_id="Asia/Kolkata"
    ) as found:
        yield found


@pytest.fixture
def page(context: BrowserContext, watched: Watched, site: Site) -> Iterator[Page]:
    """A page that is logged in; what must never happen on any page is checked when the test ends."""
    found = context.new_page()
    watched.watch(found)
    yield found
    assert watched.faults == []
    assert watched.outside(site.url) == []


def card(page: Page, uuid: str) -> Any:
    """The conversation of one recipient."""
    heading = page.locator("h2").get_by_text(uuid, exact=True)
    return page.locator("article.conversation").filter(has=heading)


def texts(page: Page, uuid: str) -> list[str]:
    """Its bubbles' texts, exactly as they stand in the page."""
    return card(page, uuid).locator(".bubble p").evaluate_all("ps => ps.map(p => p.textContent)")


# -- /sandbox


@pytest.mark.usefixtures("worker")
def test_messages_appear_by_themselves_in_a_conversation_per_recipient(
    page: Page, site: Site
) -> None:
    page.goto("/sandbox")
    expect(page.get_by_role("heading", name="No messages yet")).to_be_visible()
    page.evaluate("window.sameDocument = true")

    site.tell("Hello, both", "ann", "bob")
    expect(card(page, "ann").locator(".bubble p")).to_have_text("Hello, both")
    expect(card(page, "bob").locator(".bubble p")).to_have_text("Hello, both")
    site.tell("And one more", "ann")
    expect(card(page, "ann").locator(".bubble")).to_have_count(2)

    assert texts(page, "ann") == ["Hello, both", "And one more"]
    assert page.locator("article h2").all_text_contents()[0] == "ann"  # newest first
    expect(page.locator("#news")).to_have_text("To ann: And one more")
    expect(page.get_by_text("3 messages to 2 recipients")).to_be_visible()
    expect(page.get_by_role("heading", name="No messages yet")).to_be_hidden()
    assert page.evaluate("window.sameDocument")


@pytest.mark.usefixtures("worker")
def test_a_text_is_shown_exactly_as_it_was_sent(page: Page, site: Site) -> None:
    body = "  two\n\nlines\tand 👩‍👩‍👧‍👦 שלום <b>&amp;</b> " + "long" * 300
    site.tell(body, "שירה")
    page.goto("/sandbox")

    bubble = card(page, "שירה").locator(".bubble")
    expect(bubble).to_have_count(1)
    assert texts(page, "שירה") == [body]
    box, outer = bubble.bounding_box(), card(page, "שירה").bounding_box()
    assert box["width"] < outer["width"]
    assert bubble.locator("p").get_attribute("dir") == "auto"


@pytest.mark.usefixtures("worker")
def test_a_time_is_local_and_its_title_exact(page: Page, site: Site) -> None:
    site.tell("Hello", "ann")
    page.goto("/sandbox")

    time = card(page, "ann").locator("time")
    at = datetime.fromisoformat(time.get_attribute("datetime"))
    in_india = page.evaluate(
        "at => new Date(at).toLocaleTimeString('en-GB', {timeZone: 'Asia/Kolkata'})", at.isoformat()
    )
    expect(time).to_have_text(in_india)
    assert at.isoformat() in time.get_attribute("title")


@pytest.mark.usefixtures("worker")
def test_nothing_that_is_sent_runs(page: Page, site: Site) -> None:
    assert len(set(NASTY)) == 100
    page.goto("/sandbox")
    for nasty in NASTY:
        site.tell(nasty, nasty)
    expect(page.locator(".bubble")).to_have_count(len(NASTY), timeout=30_000)
    page.reload()
    expect(page.locator(".bubble")).to_have_count(len(NASTY))

    for nasty in NASTY:
        assert texts(page, nasty) == [nasty]
    smuggled = "a[href^=javascript], b, base, body, form, iframe, img, input, link, math, meta, object, script, style, svg, video"
    assert page.locator(f"article :is({smuggled})").count() == 0


def test_the_way_in_is_a_line_to_paste_that_holds_no_password(page: Page, site: Site) -> None:
    page.goto("/sandbox")

    line = page.locator("#curl")
    expect(line).to_contain_text(f"curl -u postrider \\\n  {site.url}/send_message")
    assert PASSWORD not in page.content()
    pasted = line.text_content().replace("-u postrider", f"-s -u postrider:{PASSWORD}")
    answer = subprocess.run(["sh", "-c", pasted], capture_output=True, check=True, timeout=20)
    assert json.loads(answer.stdout)["message"]["deliveries"][0]["uuid"] == "ann"


def test_the_recipients_that_fail_are_listed_and_fill_the_line(page: Page) -> None:
    page.goto("/sandbox")

    rows = page.locator("#failures button")
    assert rows.all_inner_texts() == [f"{uuid}\n{what}" for uuid, (what, _) in FAILURES.items()]
    rows.filter(has_text="blocked the sender").click()
    expect(page.locator("#curl")).to_contain_text('"uuid": "blocked"')


@pytest.mark.usefixtures("worker")
def test_a_recipient_that_fails_at_first_is_seen_to_get_it(page: Page, site: Site) -> None:
    page.goto("/sandbox")
    site.tell("At last", "flaky", "blocked")

    expect(card(page, "flaky").locator(".bubble p")).to_have_text("At last")
    what, _ = FAILURES["flaky"]
    expect(card(page, "flaky").locator("header p")).to_have_text(f"1 message · {what}")
    assert card(page, "blocked").count() == 0


@pytest.mark.usefixtures("worker")
def test_a_server_that_went_away_is_said_and_waited_for(browser: Browser, start: Start) -> None:
    with Served(start) as site, browser.new_context(http_credentials=LOGIN) as context:
        site.serve()
        page = context.new_page()
        page.goto(site.url + "/sandbox")
        expect(page.get_by_role("status")).to_have_text("Live")

        site.stop()
        expect(page.get_by_role("status")).to_contain_text("Server away, next try in")
        site.serve()
        site.tell("Back", "ann")

        expect(card(page, "ann").locator(".bubble p")).to_have_text("Back", timeout=20_000)
        expect(page.get_by_role("status")).to_have_text("Live")


@pytest.mark.usefixtures("worker")
def test_a_hidden_page_asks_nothing_until_it_is_seen_again(
    page: Page, site: Site, watched: Watched
) -> None:
    # Headless browsers never hide a page by themselves.
    page.add_init_script(
        "Object.defineProperty(document, 'hidden', {get: () => window.away ?? false});"
        "window.setAway = (away) => { window.away = away;"
        " document.dispatchEvent(new Event('visibilitychange')); };"
    )
    page.goto("/sandbox")
    expect(page.get_by_role("status")).to_have_text("Live")

    page.evaluate("setAway(true)")
    page.wait_for_timeout(300)
    asked = len(watched.asked)
    site.tell("While you were away", "ann")
    page.wait_for_timeout(2500)
    assert len(watched.asked) == asked
    page.evaluate("setAway(false)")

    expect(card(page, "ann").locator(".bubble p")).to_have_text("While you were away")


def test_a_page_left_open_keeps_only_the_newest(page: Page, service: Service) -> None:
    page.goto("/sandbox")
    expect(page.get_by_role("status")).to_have_text("Live")
    for n in range(2 * NOTES_SHOWN + 20):
        service.inbox.keep_note(f"key-{n}", {"uuid": f"user {n // 100}", "text": str(n)})

    last = 2 * NOTES_SHOWN + 19
    expect(card(page, f"user {last // 100}").locator(".bubble p").last).to_have_text(str(last))
    expect(page.locator(".bubble")).to_have_count(NOTES_SHOWN)
    shown = page.locator(".bubble p").all_text_contents()
    assert sorted(map(int, shown)) == list(range(last + 1 - NOTES_SHOWN, last + 1))
    expect(page.get_by_text(f"the newest {NOTES_SHOWN} messages")).to_be_visible()


@pytest.mark.usefixtures("worker")
def test_a_phone_needs_no_sideways_scrolling(browser: Browser, site: Site) -> None:
    site.tell("x" * 400, "y" * 200)
    with browser.new_context(
        base_url=site.url, http_credentials=LOGIN, viewport={"width": 360, "height": 740}
    ) as context:
        page = context.new_page()
        page.goto("/sandbox")
        expect(page.locator(".bubble")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.usefixtures("worker")
def test_credentials_in_the_address_do_not_break_the_page(browser: Browser, site: Site) -> None:
    site.tell("Hello", "ann")
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(site.url.replace("://", f"://postrider:{PASSWORD}@") + "/sandbox")
        expect(card(page, "ann").locator(".bubble")).to_have_count(1)
        assert PASSWORD not in page.locator("#curl").text_content()


def test_the_pages_of_the_sandbox_need_a_login(site: Site, browser: Browser) -> None:
    for path in ("/sandbox", "/sandbox.json"):
        answer = requests.get(site.url + path, timeout=10)
        assert answer.status_code == 401
        assert answer.json() == {"error": "Unauthorized access"}
    with browser.new_context(base_url=site.url) as context:
        assert context.request.get("/sandbox").headers["www-authenticate"].startswith("Basic")


# -- /sandbox.json


def test_the_inbox_gives_only_what_came_after_the_cursor(api: Api, service: Service) -> None:
    empty = api.get("/sandbox.json").json()
    assert empty == {"messages": [], "next": "0"}

    for n in range(3):
        service.inbox.keep_note(f"key-{n}", {"uuid": "ann", "text": f"text {n}"})
    first = api.get(f"/sandbox.json?after={empty['next']}").json()
    assert [m["text"] for m in first["messages"]] == ["text 0", "text 1", "text 2"]
    assert {k: v for k, v in first["messages"][0].items() if k != "at"} == {
        "key": "key-0",
        "uuid": "ann",
        "text": "text 0",
    }
    assert datetime.fromisoformat(first["messages"][0]["at"]).utcoffset().total_seconds() == 0

    nothing = api.get(f"/sandbox.json?after={first['next']}").json()
    assert nothing == {"messages": [], "next": first["next"]}
    service.inbox.keep_note("key-3", {"uuid": "ann", "text": "text 3"})
    more = api.get(f"/sandbox.json?after={nothing['next']}").json()
    assert [m["key"] for m in more["messages"]] == ["key-3"]


def test_an_answer_is_bounded_and_the_cursor_leads_through_all(api: Api, service: Service) -> None:
    count = NOTES_SHOWN + 7
    for n in range(count):
        service.inbox.keep_note(f"key-{n}", {"uuid": "ann", "text": str(n)})

    newest = api.get("/sandbox.json").json()["messages"]
    assert [int(m["text"]) for m in newest] == list(range(7, count))
    first = api.get("/sandbox.json?after=0").json()
    rest = api.get(f"/sandbox.json?after={first['next']}").json()
    assert [int(m["text"]) for m in first["messages"] + rest["messages"]] == list(range(count))
    assert len(first["messages"]) == NOTES_SHOWN


@pytest.mark.parametrize("cursor", ["", "x", "nan", "inf", "-inf", "1,5", "%00", "0x10"])
def test_a_cursor_of_somebody_elses_is_refused(api: Api, cursor: str) -> None:
    answer = api.get(f"/sandbox.json?after={cursor}")
    assert answer.status_code == 400
    assert answer.json() == {"error": "after: is not one that this service gave"}


def test_messages_are_not_kept_by_the_browser(api: Api) -> None:
    for path in ("/sandbox", "/sandbox.json"):
        assert api.get(path).headers["Cache-Control"] == "no-store"


def test_a_redis_that_is_away_is_a_503(api: Api, client: redis.Redis) -> None:
    client.execute_command("CLIENT", "PAUSE", "2600", "ALL")
    answer = api.get("/sandbox.json")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"


def test_a_sandbox_that_is_off_has_no_pages(
    env: dict[str, str], request: pytest.FixtureRequest
) -> None:
    env["SANDBOX"] = "off"
    api: Api = request.getfixturevalue("api")

    for path in ("/sandbox", "/sandbox.json"):
        answer = api.get(path)
        assert answer.status_code == 404
        assert answer.json() == {"error": "the sandbox is off here; SANDBOX=on offers it"}
    assert api.get("/", allow_redirects=False).headers["Location"] == "/docs"
    assert "/sandbox" not in api.get("/docs").text


# -- / and /docs


def test_the_front_door_leads_to_the_sandbox(api: Api) -> None:
    assert api.get("/", allow_redirects=False).headers["Location"] == "/sandbox"


def test_the_description_is_readable_without_a_login_or_an_outside_host(
    browser: Browser, site: Site, watched: Watched
) -> None:
    operations = {
        (method.upper(), path)
        for path, item in site.get("/openapi.json").json()["paths"].items()
        for method in item
    }
    assert ("POST", "/send_message") in operations
    with browser.new_context(base_url=site.url) as context:
        page = context.new_page()
        watched.watch(page)
        page.goto("/docs")
        blocks = page.locator(".opblock")
        expect(blocks).to_have_count(len(operations))
        for block in blocks.all()[:: len(operations) // 10]:  # to open each takes a minute
            opens = block.locator(".opblock-summary-control").first
            opens.click()
            expect(block.locator(".opblock-body")).to_be_visible()
            opens.click()  # what stays open makes the next one slower
        shown = {
            tuple(told)
            for told in blocks.evaluate_all(
                """found => found.map(one => [
                    one.querySelector(".opblock-summary-method").innerText,
                    one.querySelector(".opblock-summary-path").dataset.path,
                ])"""
            )
        }

    assert shown == operations
    assert watched.faults == []
    assert watched.outside(site.url) == []


def test_the_description_can_be_tried_out(page: Page) -> None:
    page.goto("/docs")
    page.get_by_role("button", name="Authorize").first.click()
    page.get_by_label("Username").fill("postrider")
    page.get_by_label("Password").fill(PASSWORD)
    page.locator(".auth-btn-wrapper .authorize").first.click()
    page.locator(".btn-done").first.click()
    block = page.locator(".opblock").filter(has=page.locator('[data-path="/get_scheduled"]'))
    block.locator(".opblock-summary-control").first.click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()

    expect(block.locator(".live-responses-table td.response-col_status").last).to_have_text("200")


def test_dark_mode_reaches_the_description(context: BrowserContext) -> None:
    page = context.new_page()
    page.emulate_media(color_scheme="dark")
    page.goto("/docs")
    expect(page.locator("html.dark-mode")).to_have_count(1)
    page.emulate_media(color_scheme="light")
    expect(page.locator("html.dark-mode")).to_have_count(0)


def test_scripts_come_from_files_of_our_own_only(api: Api) -> None:
    for path in ("/sandbox", "/docs"):
        answer = api.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "style=" not in answer.text
        assert "<style" not in answer.text


def test_the_vendored_files_carry_their_licence(api: Api) -> None:
    page = api.get("/docs").text
    folder = page.split("swagger-ui-bundle.js")[0].rsplit('"', 1)[1]
    assert "Apache License" in api.get(folder + "LICENSE").text
