"""Marks of latched domains in the run folder. udev's rule reads them and puts each new interface of a latched domain
into that domain's interface group, so that the latch also holds an interface that its script renames (etc/udev,
hooks/vif-group).

The folder exists only while a domain is latched. The hook uses this module at each boot of a blocked VM, so it imports
next to nothing.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_FOLDER = "latched"


class Marks:
    """The marks by domid. run_dir: xenbw's folder in /run."""

    def __init__(self, run_dir: str) -> None:
        self._folder = f"{run_dir}/{_FOLDER}"

    def keep(self, domids: Collection[int]) -> set[int]:
        """Mark these domains and no others. Returns the domids whose marks were removed. Raises OSError."""
        marked = self._marked()
        for domid in set(domids) - marked:
            self.put(domid)
        gone = marked.difference(domids)
        for domid in gone:
            self.clear(domid)
        return gone

    def put(self, domid: int) -> None:
        """Mark a domain. Raises OSError."""
        try:
            self._touch(domid)
        except FileNotFoundError:
            os.makedirs(self._folder, exist_ok=True)
            self._touch(domid)

    def clear(self, domid: int) -> None:
        """Remove a domain's mark. Raises OSError."""
        try:
            os.unlink(f"{self._folder}/{domid}")
            os.rmdir(self._folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise

    def _touch(self, domid: int) -> None:
        os.close(os.open(f"{self._folder}/{domid}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _marked(self) -> set[int]:
        try:
            return {int(name) for name in os.listdir(self._folder) if name.isdecimal()}
        except FileNotFoundError:
            return set()
