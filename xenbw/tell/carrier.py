"""What every way of delivering a message has in common."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from xenbw.errors import XenbwError


class DeliveryError(XenbwError):
    """The message was not accepted. permanent: nor will it be, however often it is sent."""

    def __init__(self, message: str, hint: str | None = None, *, permanent: bool = False) -> None:
        super().__init__(message, hint)
        self.permanent = permanent


class Carrier(Protocol):
    """Takes one message to where it belongs."""

    def send(self, subject: str, body: str, message_id: str, written_at: datetime) -> Mapping[str, str]:
        """Deliver it. Returns the recipients that refused it while others took it, with their words.

        message_id: letters, digits and dots, the same whenever the message is repeated. Raises DeliveryError.
        """
        ...
