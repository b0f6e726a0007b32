"""The messengers of the self-test, and what they say to those who ask who they are."""

from postrider.selftest.fake import Answer, Call, FakeMessenger, says

__all__ = ["Answer", "Call", "FakeMessenger", "introduces_itself", "says"]

ANA = {"id": 42, "type": "private", "first_name": "Ana", "username": "ana"}
CHOIR = {"id": -100123, "type": "supergroup", "title": "Choir [red]"}
UPDATES = [
    {"update_id": 1, "message": {"chat": ANA, "from": ANA}},
    {"update_id": 2, "message": {"chat": CHOIR, "from": ANA}},
]


def introduces_itself(call: Call) -> Answer | None:
    """What messengers say who know us."""
    match call.path.rpartition("/")[2]:
        case "getMe":
            return says(ok=True, result={"id": 1, "is_bot": True, "username": "post_bot"})
        case "getUpdates":
            return says(ok=True, result=UPDATES)
        case "get_account_info":
            return Answer(200, b'{"status": 0, "name": "Shop", "uri": "shop"}')
        case "106540352242922":
            return says(verified_name="Shop", display_phone_number="+49 30 123")
    return None
