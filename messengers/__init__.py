"""The registry: the word on the wire -> its adapter. Adapters import nothing but the standard library."""

from messengers.apprise import Apprise
from messengers.base import Messenger
from messengers.mail import Mail
from messengers.sandbox import Sandbox
from messengers.telegram import Telegram
from messengers.viber import Viber
from messengers.whatsapp import WhatsApp
from messengers.whatsapp_web import WhatsAppWeb

MESSENGERS: dict[str, type[Messenger]] = {
    "telegram": Telegram,
    "viber": Viber,
    "whatsapp": WhatsApp,
    "whatsapp-web": WhatsAppWeb,
    "mail": Mail,
    "apprise": Apprise,
    "sandbox": Sandbox,
}
