"""Post one message to a web server of the admin's, over TLS, with a signature.

http.client and ssl are imported only when the first message is sent: most hosts never send one.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from urllib.parse import urlsplit

from xenbw import __version__
from xenbw.config import WebhookSection
from xenbw.tell.carrier import DeliveryError, Refusal
from xenbw.text import printable

_REASON = 100  # how many letters of the server's reason are shown


def signature(secret: str, at: int, body: bytes) -> str:
    """The value of X-Xenbw-Signature. The time is signed too, so that a receiver can refuse a request that somebody
    recorded and sends again. at: Unix time."""
    # They load OpenSSL, which takes 3.4 MB; without a webhook the daemon does without.
    import hashlib
    import hmac

    digest = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class Webhook:
    """The server in one [[webhook]]. limit: seconds until the server must have answered."""

    def __init__(self, section: WebhookSection, *, limit: float = 20.0, now: Callable[[], float] = time.time) -> None:
        self._section, self._limit, self._now = section, limit, now
        self._url = urlsplit(section.url)

    def send(self, _subject: str, body: str, message_id: str, _written_at: datetime) -> Mapping[str, Refusal]:
        """See Carrier.send. body: a JSON object; the server gets it with message_id added as "id". Only an answer 2xx
        counts as accepted; redirects are not followed. The rest of the answer is not read."""
        document = json.dumps({"id": message_id, **json.loads(body)}).encode("ascii")
        status, reason = self._post(document, message_id)
        if not 200 <= status < 300:
            moved = "write the new address into [[webhook]] url" if 300 <= status < 400 else None
            raise DeliveryError(f"{self._where()} answered {status} {printable(reason)[:_REASON]}".rstrip(), moved)
        return {}

    def _where(self) -> str:
        """The server's name. The path of the url may be a secret."""
        return f"webhook {self._url.hostname}:{self._url.port or 443}"

    def _post(self, document: bytes, message_id: str) -> tuple[int, str]:
        """The status and the reason that the server answered. Raises DeliveryError."""
        import http.client
        import ssl

        host, port = self._url.hostname or "", self._url.port or 443
        half = self._limit / 2  # for the connection; TLS and the answer have the rest
        try:
            context = ssl.create_default_context()
            with socket.create_connection((host, port), half) as plain, _deadline(plain, half):
                connection = http.client.HTTPSConnection(host, port)
                connection.sock = context.wrap_socket(plain, server_hostname=host)
                with contextlib.closing(connection):
                    connection.request("POST", self._path(), document, self._headers(document, message_id))
                    answer = connection.getresponse()
                    return answer.status, answer.reason
        except ssl.SSLCertVerificationError as error:
            text = f"{self._where()}: its certificate is refused: {error.verify_message}"
            raise DeliveryError(text, "is its authority among this host's?", unreachable=True) from None
        except TimeoutError:
            raise DeliveryError(f"{self._where()} has not answered in time", unreachable=True) from None
        except OSError as error:
            raise DeliveryError(f"{self._where()}: {error.strerror or error}", unreachable=True) from None
        except http.client.HTTPException as error:
            text = f"{self._where()} has not answered in HTTP: {type(error).__name__}"
            raise DeliveryError(text, unreachable=True) from None
        except UnicodeError:
            raise DeliveryError(f"{self._where()}: not a host name", "see [[webhook]] url", unreachable=True) from None

    def _path(self) -> str:
        return (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")

    def _headers(self, document: bytes, message_id: str) -> dict[str, str]:
        return {
            "Content-Type": "application/json",
            "User-Agent": f"xenbw/{__version__}",
            "X-Xenbw-Id": message_id,
            "X-Xenbw-Signature": signature(self._section.secret, int(self._now()), document),
        }


@contextlib.contextmanager
def _deadline(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Cut the connection after this time, and raise TimeoutError: a server that sends a byte now and then never exceeds
    the time limit of a socket."""
    cut = threading.Event()

    def end() -> None:
        cut.set()
        with contextlib.suppress(OSError):
            twin.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    with connection.dup() as twin:  # TLS takes the connection out of the first socket
        timer.start()
        try:
            yield
        except Exception:
            if cut.is_set():
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
            # executable.run needs a process without other threads.
            timer.join()
