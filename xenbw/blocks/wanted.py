"""What blocks are to hold: values that enforce makes and every block is handed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from xenbw.allow import Exceptions
from xenbw.model import Address


@dataclass(frozen=True)
class Desired:
    """The null routes that must exist, address -> name of the VM that owes them; nothing else may. allow: what they let
    through all the same, by the VM's name."""

    null_routes: Mapping[Address, str]
    allow: Exceptions = field(default_factory=Exceptions)
