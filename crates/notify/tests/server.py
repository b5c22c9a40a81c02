"""A real SMTP server (Debian's python3-aiosmtpd) that puts what it takes into a Maildir.

server.py MAILDIR PORT [plain|starttls|tls CERTIFICATE KEY | refuse | later]
Prints the port that it listens on, then runs until its standard input ends.
"""
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox


class Refuses:
    async def handle_RCPT(self, server, session, envelope, address, options):
        return "550 5.1.1 there is no such reader"


class Later:
    async def handle_RCPT(self, server, session, envelope, address, options):
        return "451 4.3.0 try again later"


maildir, port, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
handler = {"refuse": Refuses, "later": Later}.get(mode, lambda: Mailbox(maildir))()
options = {}
if mode in ("starttls", "tls"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4], sys.argv[5])
    if mode == "tls":
        options["ssl_context"] = context
    else:
        options.update(tls_context=context, require_starttls=True)
if port == 0:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
controller = Controller(handler, hostname="127.0.0.1", port=port, **options)
controller.start()
print(port, flush=True)
sys.stdin.read()
controller.stop()
