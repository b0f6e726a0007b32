"""Certificates that nobody vouches for but who made them."""

import ssl
import subprocess
from pathlib import Path


def make_certificate(folder: Path, name: str = "localhost") -> Path:
    """A certificate of that name; its key lies beside it as key.pem."""
    asked = f"-subj /CN={name} -addext subjectAltName=DNS:{name} -keyout key.pem -out cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 {asked}"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem"


def tls_of(certificate: Path) -> ssl.SSLContext:
    """What a server that has it speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context
