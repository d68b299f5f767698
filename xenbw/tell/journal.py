"""Log lines to systemd's journal, each as an entry with fields, so that `journalctl XENBW_VM=web1` finds those of a VM.

The protocol is at systemd.io/JOURNAL_NATIVE_PROTOCOL: a datagram is one entry. etc/journal/xenbw.catalog explains each
event.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator

from xenbw.text import printable

SOCKET = "/run/systemd/journal/socket"

# For important lines that are not problems. syslog(3) has this level between INFO and WARNING, logging lacks it.
NOTICE = 25

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (NOTICE, 5), (logging.INFO, 6))  # sd-daemon(3)

MESSAGE_IDS = {
    "warned": "de40bdd875e342deb3fd7573b2185d6d",
    "over": "0b47113c0cb84dbd866b4aad5e2c4d49",
    "null-routed": "0251fc94d1e1422aa41fca040b1f7423",
    "throttled": "af6a9bfc24964152b3628518c7dad0ff",
    "unthrottled": "7a2f144b4cc64c9c877cd5bddb00eb0a",
    "released": "7f18aa161b3b4c21a771246518f70c45",
    "forecast": "b5eaeb9d7ad742a4ac122001a894f532",
    "forecast-off": "6645e0fa9f59481387850a20de7eba5c",
    "flood-began": "ff0816bc65c5483d9375d5657ce27bbb",
    "flood-ended": "4c5b680afa3e4152ad639bd0a0e47b96",
    "trouble": "e4091646822146b7908f9d06c9c23186",
    "trouble-over": "f19185d3718b46d9ab58935559acae04",
    "readdressed": "7b17259ea4c14135adcea04171694675",
    "bound": "6ef0d8786d1c44ceab542a449ac8d513",
    "renamed": "8ec59ab368e84f9497e1989e90cd7f7e",
    "unmetered": "629a2fe2f13e441e906c87ded58caf3a",
    "restarting": "05d012d992774b0bb3f66295f1e8ab23",
    "unattributed": "acba427b436b43d082ea6e316b79aacd",
    "repaired": "9d27de1be2294004b0df1c1f49f18165",
    "meter-gap": "21f0088150024067805897220ba599be",
    "clock": "464073f4f316404f815a494ff88538cc",
    "problem": "507a2948fcfd404ebbe000339942625f",
    "problem-over": "c7a1f9d05f2e4d0b9d8f27f1f7f36a11",
}
"""The MESSAGE_ID of each event. They never change: admins filter by them."""


def about(event: str, vm: str | None = None) -> dict[str, object]:
    """The `extra` of a log call for a line about an event, and about the VM of that name."""
    return {"xenbw_event": event, "xenbw_vm": vm}


def priority(level: int) -> int:
    """The priority of syslog(3) for a level of logging."""
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


class Journal(logging.Handler):
    """Sends each line as one entry. A line that the journal does not take at once goes to `otherwise` instead."""

    def __init__(self, identifier: str, otherwise: logging.Handler) -> None:
        super().__init__()
        self._identifier, self._otherwise = identifier, otherwise
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._socket.sendto(b"".join(_entry(self._identifier, self.format(record), record)), SOCKET)
        except OSError:
            self._otherwise.handle(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _entry(identifier: str, line: str, record: logging.LogRecord) -> Iterator[bytes]:
    yield _field("MESSAGE", printable(line))
    yield _field("PRIORITY", str(priority(record.levelno)))
    yield _field("SYSLOG_IDENTIFIER", identifier)
    event, vm = getattr(record, "xenbw_event", None), getattr(record, "xenbw_vm", None)
    if event is not None:
        yield _field("XENBW_EVENT", event)
        yield _field("MESSAGE_ID", MESSAGE_IDS[event])
    if vm is not None:
        yield _field("XENBW_VM", vm)


def _field(name: str, value: str) -> bytes:
    """One field. A value with line breaks, as a guest's name may have, is sent with its length, so that it cannot add
    fields."""
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
