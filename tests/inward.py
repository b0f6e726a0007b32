"""Calls every address that is not ours to call, in a network where somebody listens behind each: python tests/inward.py

To be run in a network namespace of its own (`unshare -rn`): there every address there is leads to this machine.
"""

import json
import socket
import subprocess
import sys
import threading

from messengers.base import NoReply
from postrider.guard import Guard
from postrider.outward import Outward

LITERALS = """
127.0.0.1 127.0.0.53 127.1.2.3 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.254
192.168.0.1 192.168.255.255 169.254.169.254 169.254.170.2 169.254.0.1 100.64.0.1 100.100.100.200 192.0.0.192 192.0.2.1
192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.7 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
168.63.129.16
2130706433 0x7f000001 017700000001 127.1 127.0.1 0177.0.0.1 0x7f.0.0.1 0x7f.1 010.0.0.1 127.0.0.1. 2852039166
[::1] [::] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:10.0.0.1] [::ffff:169.254.169.254]
[64:ff9b::127.0.0.1] [64:ff9b::a9fe:a9fe] [64:ff9b:1::1] [::127.0.0.1] [fe80::1] [fc00::1] [fd00:ec2::254] [fec0::1]
[2002:7f00:1::] [2002:a00:1::1] [2001::1] [2001:db8::1] [ff02::1]
localhost LOCALHOST localhost. a.localhost metadata.google.internal printer.local
""".split()  # noqa: SIM905 - a table
"""Hosts; a port stands behind each."""
WHOLE = """
http://example.com@127.0.0.1:{port}/ http://example.com:80@127.0.0.1:{port}/ http://127.0.0.1:{port}#@example.com/
http://example.com\\@127.0.0.1:{port}/ http://127.0.0.1:{port}\\@example.com/ http://127.0.0.1%00.example.com:{port}/
http://%31%32%37.0.0.1:{port}/ http://①②⑦.0.0.1:{port}/ http://127。0。0。1:{port}/ http:127.0.0.1:{port}/
http:///127.0.0.1:{port}/ //127.0.0.1:{port}/ http://[::1%25lo]:{port}/ http://[::1]@127.0.0.1:{port}/
file:///etc/passwd file://127.0.0.1:{port}/ gopher://127.0.0.1:{port}/_x dict://127.0.0.1:{port}/x
ftp://127.0.0.1:{port}/ ldap://127.0.0.1:{port}/ unix:///tmp/x.sock
""".split()  # noqa: SIM905 - a table
NAMED = """
10.0.0.1 127.0.0.1 169.254.169.254 ::1 ::ffff:127.0.0.1 fd00:ec2::254 fe80::1 64:ff9b::7f00:1 93.184.215.14,127.0.0.1
127.0.0.1,93.184.215.14 2606:4700::1111,10.0.0.1
""".split()  # noqa: SIM905 - a table
"""What an innocent name resolves to."""
PUBLIC = ("93.184.215.14", "[2606:4700::1111]", "[64:ff9b::5db8:d70e]", "[::ffff:93.184.215.14]")
"""Who may be called, so that the others prove something."""


class Listener:
    """A port that is open at every address there is. It sends everybody on to `to`, if that says anywhere.

    `came`: the addresses at which somebody came to it.
    """

    def __init__(self) -> None:
        for command in (
            "ip link set lo up",
            "ip route add local 0.0.0.0/0 dev lo",
            "ip -6 route add local ::/0 dev lo",
        ):
            subprocess.run(command.split(), check=True)
        self.server = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port = self.server.getsockname()[1]
        self.came: list[str] = []
        self.to = ""
        threading.Thread(target=self.take, daemon=True).start()

    def take(self) -> None:
        while True:
            connection, _ = self.server.accept()
            self.came.append(connection.getsockname()[0])
            connection.settimeout(5)
            head = b""
            while b"\r\n\r\n" not in head and (part := connection.recv(65_536)):
                head += part
            says = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
            if self.to:
                says = f"HTTP/1.1 302 Found\r\nLocation: {self.to}\r\nContent-Length: 0\r\n\r\n"
            connection.sendall(says.encode())
            connection.close()


def resolved(text: str) -> list[str]:
    return text.split(",")


def main() -> int:
    listener = Listener()
    port, came = listener.port, listener.came
    tried, connected = 0, []
    urls = [f"http://{host}:{port}/" for host in LITERALS]
    urls += [url.replace("{port}", str(port)) for url in WHOLE]
    for url in urls:
        # A name would lead to a public address, so that only reading the URL strictly refuses it.
        outward = Outward(Guard(), resolve=lambda *_: ["93.184.215.14"])
        before = len(came)
        answer = outward.send("POST", url, {}, b"{}")
        tried += 1
        if len(came) > before or not isinstance(answer, NoReply) or answer.left:
            connected.append(url)
    for addresses in NAMED:
        outward = Outward(Guard(), resolve=lambda *_: resolved(addresses))  # noqa: B023
        before = len(came)
        answer = outward.send("POST", f"http://innocent.example:{port}/", {}, b"{}")
        tried += 1
        if len(came) > before or not isinstance(answer, NoReply):
            connected.append(addresses)
    reached = []
    for host in PUBLIC:
        answer = Outward(Guard()).send("POST", f"http://{host}:{port}/", {}, b"{}")
        if not isinstance(answer, NoReply) and answer.status == 200:
            reached.append(host)
    # The first answer is public and checked, each later one is not: nobody may ask a second time.
    answers = [["93.184.215.14"]] + [["127.0.0.1"]] * 9
    asked: list[list[str]] = []

    def rebinding(_host: str, _port: int) -> list[str]:
        asked.append(answers[len(asked)])
        return asked[-1]

    before = len(came)
    Outward(Guard(), resolve=rebinding).send("POST", f"http://rebinds.example:{port}/", {}, b"{}")
    told = {
        "tried": tried,
        "connected": connected,
        "reached": reached,
        "rebound": came[before:],
        "asked": len(asked),
    }
    sys.stdout.write(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
