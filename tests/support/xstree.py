"""The tree inside the xenstored stand-in: nodes with values and permissions, and the paths that each change touched."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field

# xen docs/misc/xenstore.txt: alphanumerics and -/_@, no double or trailing slash, 3072 bytes at most.
_ABSOLUTE_PATH = re.compile(rb"/|(/[A-Za-z0-9_@-]+)+")
_PATH_MAX = 3072


class RefusedError(Exception):
    """A request that xenstored answers with an error; `code` is its name on the wire, such as b"ENOENT"."""

    def __init__(self, code: bytes) -> None:
        super().__init__(code.decode())
        self.code = code


@dataclass
class Node:
    """One node: its value, its permissions as on the wire (b"n0", b"r7", …) and its children by name."""

    value: bytes = b""
    perms: tuple[bytes, ...] = (b"n0",)
    children: dict[bytes, Node] = field(default_factory=dict)


class Tree:
    """The nodes under "/". Paths are absolute; `touched` gathers the path of every change since it was cleared."""

    def __init__(self) -> None:
        self.root = Node()
        self.generation = 0
        self.touched: list[bytes] = []

    def snapshot(self) -> Tree:
        """An independent copy to run a transaction on, with nothing touched yet."""
        other = copy.deepcopy(self)
        other.touched = []
        return other

    def adopt(self, other: Tree) -> None:
        """Take over the result of a transaction that ran on a snapshot of this very generation."""
        self.root = other.root
        self.generation += 1
        self.touched += other.touched

    def node(self, path: bytes) -> Node:
        """The node at `path`; ENOENT when there is none."""
        node = self.root
        for name in names(path):
            if name not in node.children:
                raise RefusedError(b"ENOENT")
            node = node.children[name]
        return node

    def write(self, path: bytes, value: bytes) -> None:
        """Set the value of `path`, creating it and its parents."""
        self._make(path).value = value
        self._touch(path)

    def mkdir(self, path: bytes) -> None:
        """Create `path` and its parents with empty values; nothing happens when it exists."""
        try:
            self.node(path)
        except RefusedError:
            self._make(path)
            self._touch(path)

    def remove(self, path: bytes) -> None:
        """Remove `path` and all below. An absent path is fine as long as its parent exists, as in xenstored."""
        *parents, name = names(path) or [b""]
        if not name:
            raise RefusedError(b"EINVAL")
        parent = self.node(b"/" + b"/".join(parents))
        if parent.children.pop(name, None) is not None:
            self._touch(path)

    def set_perms(self, path: bytes, perms: tuple[bytes, ...]) -> None:
        """Replace the permissions of `path`."""
        self.node(path).perms = perms
        self._touch(path)

    def _make(self, path: bytes) -> Node:
        node = self.root
        for name in names(path):
            # A new node inherits its parent's permissions (xen docs/misc/xenstore.txt, WRITE).
            node = node.children.setdefault(name, Node(perms=node.perms))
        return node

    def _touch(self, path: bytes) -> None:
        self.generation += 1
        self.touched.append(path)


def names(path: bytes) -> list[bytes]:
    """The components of an absolute path, checked as xenstored checks them (EINVAL)."""
    if len(path) > _PATH_MAX or not _ABSOLUTE_PATH.fullmatch(path):
        raise RefusedError(b"EINVAL")
    return path.split(b"/")[1:] if path != b"/" else []
