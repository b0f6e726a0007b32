"""WSGI face: `gunicorn app:app`."""

from postrider.settings import Settings
from postrider.web import create_app

app = create_app(Settings.from_env())
