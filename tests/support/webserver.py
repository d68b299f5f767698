"""A real HTTPS server with a certificate of an authority of the test's own. It keeps what is posted, or misbehaves if
told."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Authority = tuple[Path, ssl.SSLContext]


@dataclass
class Postbox:
    """The posts that arrived and were accepted, and how the server answers.

    posts: (path, headers, body). status: of each answer. raw: what it sends instead of an answer, byte by byte with a
    pause if `drip`. requests: how many requests came, accepted or not.
    """

    posts: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    drip: float = 0.0
    requests: int = 0


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def make_authority(folder: Path, name: str = "localhost") -> Authority:
    """An authority, and a server's certificate for `name` that it signed: (the file to trust, the server's side)."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca, ca_key, key, request, cert = (str(folder / file) for file in ("ca.pem", "ca.key", "key", "csr", "cert.pem"))
    # From 3.13 on Python demands of certificates all that RFC 5280 does (VERIFY_X509_STRICT).
    authority = ["-subj", "/CN=test authority", "-addext", "keyUsage=critical,keyCertSign"]
    _openssl("req", "-x509", *curve, "-days", "2", *authority, "-keyout", ca_key, "-out", ca)
    _openssl("req", *curve, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    names = folder / "names"
    names.write_text(f"subjectAltName=DNS:{name}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    sign = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", str(names)]
    _openssl("x509", "-req", "-in", request, *sign, "-out", cert)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return Path(ca), context


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is no news."""


@contextmanager
def serve(postbox: Postbox, tls: ssl.SSLContext, port: int = 0) -> Iterator[int]:
    """Runs the server on its port, in threads; at its end all its connections are cut."""
    open_sockets: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        def setup(self) -> None:
            self.request = tls.wrap_socket(self.request, server_side=True)
            open_sockets.append(self.request)
            super().setup()

        def finish(self) -> None:
            super().finish()
            with suppress(OSError):
                self.request.unwrap()
            self.request.close()

        def do_POST(self) -> None:  # noqa: N802 (http.server's name)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            postbox.requests += 1
            if postbox.raw is not None:
                self._misbehave(postbox.raw)
                return
            if 200 <= postbox.status < 300:
                postbox.posts.append((self.path, dict(self.headers), body))
            self.send_response(postbox.status)
            for name, value in postbox.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def _misbehave(self, raw: bytes) -> None:
            with suppress(OSError):
                if not postbox.drip:
                    self.wfile.write(raw)
                for number in range(len(raw) if postbox.drip else 0):
                    self.wfile.write(raw[number : number + 1])
                    time.sleep(postbox.drip)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = _Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        for one in open_sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        thread.join()
