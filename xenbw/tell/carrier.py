"""The interface of all ways to deliver a message."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple, Protocol

from xenbw.errors import XenbwError


class DeliveryError(XenbwError):
    """The message was not accepted. permanent: sending it again is useless. unreachable: no other message would be
    accepted now, since nobody is there to take it."""

    def __init__(
        self, message: str, hint: str | None = None, *, permanent: bool = False, unreachable: bool = False
    ) -> None:
        super().__init__(message, hint)
        self.permanent, self.unreachable = permanent, unreachable


class Refusal(NamedTuple):
    """The server's answer for one recipient of a message that it took for others. for_good: asking again is useless."""

    answer: str
    for_good: bool


class Carrier(Protocol):
    """A way to deliver one message."""

    def send(self, subject: str, body: str, message_id: str, written_at: datetime) -> Mapping[str, Refusal]:
        """Deliver the message. Returns the recipients for which it was refused while others accepted it.

        message_id: letters, digits and dots, the same whenever the message is repeated. Raises DeliveryError.
        """
        ...
