import json

import httpx
import pytest
import pywa
from pywa import errors as pywa_errors
from pywa.types.templates import TemplateLanguage

from messengers.base import Identity, Outbound, Rejected, Reply, Retry, Sent, Template, Unclear
from messengers.whatsapp import WhatsApp
from tests.messengers import specs

TOKEN = "EAAGm0PX4ZCpsBAKZCZB"
NUMBER_ID = "106540352242922"
PHONE = "+16505551234"
BSUID = "US.13491208655302741918"
PARENT_BSUID = "US.ENT.11815799212886844830"
KEY = "01JA2B3C4D5E6F7G8H9J0K-12"
TEXT = "Привет, мир 👋 https://example.org"
TEMPLATE = Template(
    "order_confirmation",
    "en_US",
    (
        {"type": "header", "parameters": [{"type": "text", "text": "Hello"}]},
        {"type": "body", "parameters": [{"type": "text", "text": "42"}]},
        {
            "type": "button",
            "sub_type": "quick_reply",
            "index": "0",
            "parameters": [{"type": "payload", "payload": "yes"}],
        },
    ),
)
TEMPLATE_JSON = {
    "name": "order_confirmation",
    "language": {"code": "en_US"},
    "components": list(TEMPLATE.components),
}
BARE = Template("hello_world", "en_US")

HOURS = 3 * 3600
ACCOUNT = (0, 3, 10, 190, *range(200, 300), 368)
ACCOUNT_SETUP = (33, 102, 130497, 131005, 131031, 131037, 131042, 131044, 131045, 133010, 133016)
RECIPIENT = (130472, 131021, 131026, 131030)
REQUEST = (100, 131008, 131009, 131051, 131052, 131053, 131062, 131063)
TEMPLATES = (*range(132000, 132013), 132016, 132068, 137000)

whatsapp = WhatsApp(TOKEN, NUMBER_ID)


def out(to=PHONE, text=TEXT, template=None):
    return Outbound(to, text, KEY, template=template)


def error(code, message="It did not work", details=None, status=400, headers=None, **more):
    body = {"message": message, "type": "OAuthException", "code": code, "fbtrace_id": "Az8", **more}
    if details is not None:
        body["error_data"] = {"messaging_product": "whatsapp", "details": details}
    return Reply(status, json.dumps({"error": body}).encode(), headers or {})


def accepted(status=200, **message):
    body = {
        "messaging_product": "whatsapp",
        "contacts": [{"input": PHONE, "wa_id": "16505551234"}],
        "messages": [{"id": "wamid.HBgLMTY1MDM4Nzk0MzkVAgARGBI=", **message}],
    }
    return Reply(status, json.dumps(body).encode())


def test_it_is_offered_once_token_and_number_are_set():
    env = {"WHATSAPP_ACCESS_TOKEN": TOKEN, "WHATSAPP_PHONE_NUMBER_ID": NUMBER_ID}
    assert WhatsApp.from_env(env) == WhatsApp(
        TOKEN, NUMBER_ID, "https://graph.facebook.com", "v23.0"
    )


def test_address_and_version_of_the_api_are_settings():
    adapter = WhatsApp.from_env(
        {
            "WHATSAPP_ACCESS_TOKEN": TOKEN,
            "WHATSAPP_PHONE_NUMBER_ID": NUMBER_ID,
            "WHATSAPP_API_URL": "http://127.0.0.1:9999/",
            "WHATSAPP_API_VERSION": "v26.0",
        }
    )
    assert adapter.request(out()).url == f"http://127.0.0.1:9999/v26.0/{NUMBER_ID}/messages"


def test_settings_left_empty_count_as_unset():
    env = {"WHATSAPP_ACCESS_TOKEN": TOKEN, "WHATSAPP_PHONE_NUMBER_ID": NUMBER_ID}
    assert WhatsApp.from_env(env | {"WHATSAPP_ACCESS_TOKEN": " "}) is None
    assert WhatsApp.from_env(env | {"WHATSAPP_API_URL": "", "WHATSAPP_API_VERSION": ""}) == whatsapp


def test_the_token_is_in_no_repr():
    shown = repr([whatsapp, whatsapp.request(out()), whatsapp.whoami()])
    assert TOKEN not in shown


@pytest.mark.parametrize(
    "uuid",
    ["1", "16505551234", PHONE, "9" * 15, "+" + "9" * 15, BSUID, PARENT_BSUID, "GB." + "aZ9" * 42],
)
def test_a_number_or_a_bsuid_is_a_recipient(uuid):
    assert whatsapp.check_recipient(uuid) is None


@pytest.mark.parametrize(
    "uuid",
    [
        "",
        "+",
        "9" * 16,
        "+1 650 555 1234",
        "++1",
        "1\n",
        "١٢٣",
        "1²",
        "us.1349",
        "USA.1349",
        "US.",
        "US.13-49",
        "US." + "1" * 129,
        "US.1\n",
        "@name",
    ],
)
def test_anything_else_is_no_recipient(uuid):
    assert "1 to 15 digits" in whatsapp.check_recipient(uuid)


def test_a_text_is_measured_in_utf16_units():
    assert whatsapp.check_text("👋" * 2048) is None
    assert whatsapp.check_text("👋" * 2048 + "!") == (
        "has 4097 characters (UTF-16); whatsapp takes 4096"
    )


def test_an_empty_text_is_refused():
    assert whatsapp.check_text("") == "is empty"


def test_a_lone_surrogate_does_not_stop_the_count():
    assert whatsapp.check_text("\ud800" * 4096) is None
    assert whatsapp.check_text("\ud800" * 4097) is not None


@pytest.mark.parametrize(
    "language",
    sorted({code.value for code in TemplateLanguage} - {"UNKNOWN", "None"}),  # pywa's own fillers
)
def test_every_language_that_pywa_knows_is_taken(language):
    assert whatsapp.check_template(Template("a", language)) is None


def test_a_full_template_is_taken():
    assert whatsapp.check_template(TEMPLATE) is None
    assert whatsapp.check_template(Template("a" * 512, "en")) is None


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (Template("", "en"), "name"),
        (Template("a" * 513, "en"), "name"),
        (Template("Hello", "en"), "name"),
        (Template("hello-world", "en"), "name"),
        (Template("hello\n", "en"), "name"),
        (Template("hello", ""), "language"),
        (Template("hello", "english"), "language"),
        (Template("hello", "en-US"), "language"),
        (Template("hello", "EN"), "language"),
        (Template("hello", "en", ({"type": "body"}, "body")), "components[1]"),
        (Template("hello", "en", ({"parameters": []},)), "components[0]"),
        (Template("hello", "en", ({"type": 1},)), "components[0]"),
        (Template("hello", "en", {"type": "body"}), "components[0]"),
    ],
)
def test_a_template_that_meta_must_refuse_is_refused_here(template, why):
    assert whatsapp.check_template(template).startswith(why)


def test_a_text_goes_to_a_number():
    request = whatsapp.request(out())
    assert (request.method, request.url) == (
        "POST",
        f"https://graph.facebook.com/v23.0/{NUMBER_ID}/messages",
    )
    assert request.headers == {"Authorization": f"Bearer {TOKEN}"}
    assert request.json == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": PHONE,
        "type": "text",
        "text": {"body": TEXT, "preview_url": False},
        "biz_opaque_callback_data": KEY,
    }


def test_a_template_goes_instead_of_the_text():
    body = whatsapp.request(out(template=TEMPLATE)).json
    assert body["type"] == "template"
    assert body["template"] == TEMPLATE_JSON
    assert "text" not in body


@pytest.mark.parametrize("uuid", [BSUID, PARENT_BSUID])
def test_a_bsuid_goes_into_recipient_in_place_of_to(uuid):
    body = whatsapp.request(out(to=uuid)).json
    assert body["recipient"] == uuid
    assert "to" not in body


@pytest.mark.parametrize("to", [PHONE, "16505551234", BSUID])  # the description wants either field
@pytest.mark.parametrize("template", [None, TEMPLATE, BARE])
def test_a_request_is_valid_by_metas_own_description(to, template):
    schema = specs.request_body("/{Version}/{Phone-Number-ID}/messages")
    assert (
        specs.faults(specs.WHATSAPP, schema, whatsapp.request(out(to, template=template)).json)
        == []
    )


def test_the_description_does_object_to_what_is_wrong():
    schema = specs.request_body("/{Version}/{Phone-Number-ID}/messages")
    body = whatsapp.request(out()).json
    for wrong in (
        {k: v for k, v in body.items() if k != "to"},
        body | {"text": {"body": "x" * 4097}},
        body | {"biz_opaque_callback_data": "x" * 513},
        body | {"silent": True},
    ):
        assert specs.faults(specs.WHATSAPP, schema, wrong) != []


def sent_by_pywa(send):
    """The one request that pywa makes, caught where the network would begin."""
    seen = []

    def answer(request):
        seen.append(request)
        # pywa insists on a contact
        return httpx.Response(200, content=accepted().body)

    with httpx.Client(transport=httpx.MockTransport(answer)) as session:
        send(pywa.WhatsApp(NUMBER_ID, TOKEN, session=session, api_version=23.0))
    return seen[0]


@pytest.mark.parametrize("to", [PHONE, "16505551234", BSUID, PARENT_BSUID])
def test_a_text_is_what_pywa_would_send(to):
    ours = whatsapp.request(out(to=to))
    theirs = sent_by_pywa(lambda wa: wa.send_message(to, TEXT, tracker=KEY))
    assert (ours.method, ours.url) == (theirs.method, str(theirs.url))
    assert ours.headers["Authorization"] == theirs.headers["Authorization"]
    assert ours.json == json.loads(theirs.content)


def test_a_template_is_what_pywa_would_send():
    theirs = sent_by_pywa(
        lambda wa: wa.send_template(
            PHONE,
            TEMPLATE.name,
            TemplateLanguage.ENGLISH_US,
            list(TEMPLATE.components),
            tracker=KEY,
        )
    )
    assert whatsapp.request(out(template=TEMPLATE)).json == json.loads(theirs.content)


def test_accepted_is_sent_under_metas_id():
    assert whatsapp.read(accepted()) == Sent("wamid.HBgLMTY1MDM4Nzk0MzkVAgARGBI=")


def test_a_message_held_for_quality_assessment_is_sent_too():
    assert isinstance(whatsapp.read(accepted(message_status="held_for_quality_assessment")), Sent)


@pytest.mark.parametrize("wrong", [None, 7, True, "", ["wamid"], "wamid.\ud800", "a b", "x" * 501])
def test_an_answer_without_a_usable_id_proves_nothing(wrong):
    assert isinstance(whatsapp.read(accepted(id=wrong)), Unclear)


def test_an_id_beside_a_failing_status_is_not_sent():
    assert isinstance(whatsapp.read(accepted(status=502)), Retry)


@pytest.mark.parametrize(
    ("code", "after_s", "pauses"),
    [
        *((code, None, "account") for code in (4, 80007, 130429)),
        *((code, None, "account") for code in (17, 341, 613)),
        (131056, 6, "recipient"),
        *((code, None, None) for code in (1, 2, 131000, 131016, 135000)),
        (131057, 300, None),
        (132069, 3600, None),
        *((code, HOURS, "account") for code in (131048, 131064, 132015)),
        *((code, None, "account") for code in (*ACCOUNT, *ACCOUNT_SETUP)),
    ],
)
def test_what_may_pass_is_tried_again(code, after_s, pauses):
    outcome = Retry(
        f"{code}: It did not work", after_s, pauses, refused=code in (*ACCOUNT, *ACCOUNT_SETUP)
    )
    assert whatsapp.read(error(code)) == outcome


@pytest.mark.parametrize("code", [*RECIPIENT, 131047, 131049, 131050, *REQUEST, *TEMPLATES])
def test_what_cannot_pass_is_rejected(code):
    outcome = whatsapp.read(error(code))
    assert isinstance(outcome, Rejected)
    assert outcome.reason.startswith(f"{code}: It did not work")


@pytest.mark.parametrize(
    ("code", "hint"),
    [(131047, "only a template"), (131049, "after 24 hours"), (131050, "opted out")],
)
def test_a_refusal_that_the_sender_can_act_on_says_how(code, hint):
    assert hint in whatsapp.read(error(code)).reason


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500, 503])
def test_the_code_counts_and_the_http_status_does_not(status):
    assert isinstance(whatsapp.read(error(131026, status=status)), Rejected)
    assert whatsapp.read(error(190, status=status)).pauses == "account"


def test_a_number_id_that_meta_does_not_find_stops_the_account_not_the_message():
    outcome = whatsapp.read(error(100, "Unsupported post request.", error_subcode=33))
    assert outcome == Retry("100: Unsupported post request.", pauses="account", refused=True)


def test_the_longer_of_metas_wait_and_ours_wins():
    def wait_s(code, named):
        return whatsapp.read(error(code, headers={"retry-after": named})).after_s

    assert wait_s(130429, "17") == 17
    assert wait_s(131056, "2") == 6
    assert wait_s(131056, "60") == 60
    assert wait_s(131000, "9") == 9


def test_an_unknown_code_goes_by_the_status():
    assert whatsapp.read(error(999999)) == Rejected("999999: It did not work")
    assert whatsapp.read(error(999999, status=500)) == Retry("999999: It did not work")
    assert whatsapp.read(error(999999, status=429)).pauses == "account"
    assert isinstance(whatsapp.read(error(999999, status=200)), Unclear)


def test_an_unknown_code_called_transient_is_tried_again():
    assert isinstance(whatsapp.read(error(999999, is_transient=True)), Retry)
    assert isinstance(whatsapp.read(error(999999, is_transient=False)), Rejected)
    assert isinstance(whatsapp.read(error(999999, is_transient="true")), Rejected)
    assert whatsapp.read(error(999999, status=429, is_transient=True)).pauses == "account"


def test_a_known_code_called_transient_keeps_its_meaning():
    assert isinstance(whatsapp.read(error(131026, is_transient=True)), Rejected)


@pytest.mark.parametrize("code", ["131026", 131026.0, True, None, [131026]])
def test_a_code_that_is_no_integer_is_no_code(code):
    assert whatsapp.read(error(code, status=400)) == Rejected("It did not work")


def codes_of(*families):
    return sorted(
        {
            code
            for family in families
            for kind in family.__subclasses__()
            for code in kind.__error_codes__ or ()
        }
    )


def test_every_code_that_pywa_knows_of_sending_has_a_meaning_of_its_own():
    codes = codes_of(
        pywa_errors.AuthorizationError,
        pywa_errors.ThrottlingError,
        pywa_errors.IntegrityError,
        pywa_errors.SendMessageError,
    )
    # with 200 the status tells nothing, so that what is not in our table would be Unclear
    assert len(codes) > 140
    assert [c for c in codes if isinstance(whatsapp.read(error(c, status=200)), Unclear)] == []


def test_no_code_that_pywa_knows_at_all_is_unclear():
    codes = codes_of(*pywa_errors.WhatsAppError.__subclasses__())
    assert len(codes) > 190
    assert [c for c in codes if isinstance(whatsapp.read(error(c)), Unclear)] == []


def test_the_reason_is_code_and_metas_words_once():
    reply = error(131026, "(#131026) Message undeliverable", "Receiver is incapable")
    assert whatsapp.read(reply).reason == "131026: Message undeliverable / Receiver is incapable"


def test_a_reason_without_words_is_the_code():
    assert whatsapp.read(error(131000, message=None)).reason == "131000: no reason given"


def test_an_error_without_code_or_words_goes_by_the_status():
    assert whatsapp.read(Reply(400, b'{"error": {}}')) == Rejected("HTTP 400")
    assert whatsapp.read(Reply(503, b'{"error": "down"}')) == Retry("HTTP 503")


def test_a_long_reason_is_cut_but_not_its_hint():
    reason = whatsapp.read(error(131047, "x" * 1000)).reason
    assert len(reason) == 300
    assert reason.endswith("only a template can be sent)")


def test_a_reason_is_one_line_that_can_be_stored():
    assert whatsapp.read(error(131026, "a\r\nb\ud800")).reason == "131026: a b"


@pytest.mark.parametrize("padding", [0, 270, 290])
def test_a_token_that_meta_quotes_back_is_not_in_the_reason(padding):
    reason = whatsapp.read(error(190, "x" * padding + f" Malformed access token {TOKEN}")).reason
    assert TOKEN[:6] not in reason


def test_whoami_asks_for_name_and_number():
    request = whatsapp.whoami()
    assert (request.method, request.url) == (
        "GET",
        f"https://graph.facebook.com/v23.0/{NUMBER_ID}?fields=verified_name,display_phone_number",
    )
    assert request.headers == {"Authorization": f"Bearer {TOKEN}"}
    assert request.json is None


@pytest.mark.parametrize("number", ["1 555-078-3881", "+1 555-078-3881"])
def test_whoami_answers_with_name_and_number(number):
    body = {"verified_name": "Acme", "display_phone_number": number, "id": NUMBER_ID}
    answer = whatsapp.read_whoami(Reply(200, json.dumps(body).encode()))
    assert answer == Identity("Acme (+1 555-078-3881)")


def test_whoami_tells_a_refused_token_from_a_server_that_is_down():
    assert whatsapp.read_whoami(error(190, status=401)).pauses == "account"
    assert whatsapp.read_whoami(Reply(503)) == Retry("HTTP 503")


def test_whoami_takes_no_other_answer_for_an_identity():
    assert isinstance(whatsapp.read_whoami(accepted()), Unclear)
    assert isinstance(whatsapp.read_whoami(Reply(200, b'{"id": "106540352242922"}')), Unclear)
