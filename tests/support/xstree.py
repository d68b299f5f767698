"""The tree inside the xenstored stand-in: nodes with values and permissions, and the paths that each change touched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

# xen docs/misc/xenstore.txt: alphanumerics and -/_@, no double or trailing slash, 3072 bytes at most.
_ABSOLUTE_PATH = re.compile(rb"/|(/[A-Za-z0-9_@-]+)+")
_PATH_MAX = 3072


class RefusedError(Exception):
    """A request that xenstored answers with an error; `code` is its name on the wire, such as b"ENOENT"."""

    def __init__(self, code: bytes) -> None:
        super().__init__(code.decode())
        self.code = code


@dataclass(frozen=True)
class Node:
    """One node: its value, its permissions as on the wire (b"n0", b"r7", …) and its children by name, oldest first."""

    value: bytes = b""
    perms: tuple[bytes, ...] = (b"n0",)
    children: Mapping[bytes, Node] = field(default_factory=dict)


class Tree:
    """The nodes under "/". Paths are absolute; `touched` gathers the path of every change since it was cleared.

    Nodes never change: a change replaces those on the way from "/" and shares the rest with every snapshot. So a
    snapshot costs nothing, and a daemon that needs a transaction for each of 2,000 VMs is not kept waiting for copies.
    """

    def __init__(self) -> None:
        self.root = Node()
        self.generation = 0
        self.touched: list[bytes] = []

    def snapshot(self) -> Tree:
        """An independent tree to run a transaction on, with nothing touched yet."""
        other = Tree()
        other.root, other.generation = self.root, self.generation
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
        way = names(path)
        self._put(way, replace(self._reach(way), value=value))
        self._touch(path)

    def mkdir(self, path: bytes) -> None:
        """Create `path` and its parents with empty values; nothing happens when it exists."""
        try:
            self.node(path)
        except RefusedError:
            way = names(path)
            self._put(way, self._reach(way))
            self._touch(path)

    def remove(self, path: bytes) -> None:
        """Remove `path` and all below. An absent path is fine as long as its parent exists, as in xenstored."""
        *parents, name = names(path) or [b""]
        if not name:
            raise RefusedError(b"EINVAL")
        parent = self.node(b"/" + b"/".join(parents))
        if name in parent.children:
            left = {other: node for other, node in parent.children.items() if other != name}
            self._put(parents, replace(parent, children=left))
            self._touch(path)

    def set_perms(self, path: bytes, perms: tuple[bytes, ...]) -> None:
        """Replace the permissions of `path`."""
        self._put(names(path), replace(self.node(path), perms=perms))
        self._touch(path)

    def _reach(self, way: list[bytes]) -> Node:
        """The node at the end of `way`, or the one that a write there makes."""
        node = self.root
        for name in way:
            # A new node inherits its parent's permissions (xen docs/misc/xenstore.txt, WRITE).
            node = node.children.get(name, Node(perms=node.perms))
        return node

    def _put(self, way: list[bytes], node: Node) -> None:
        """Put `node` at the end of `way`; its parents are made where they are missing."""
        for depth in reversed(range(len(way))):
            parent = self._reach(way[:depth])
            node = replace(parent, children={**parent.children, way[depth]: node})
        self.root = node

    def _touch(self, path: bytes) -> None:
        self.generation += 1
        self.touched.append(path)


def names(path: bytes) -> list[bytes]:
    """The components of an absolute path, checked as xenstored checks them (EINVAL)."""
    if len(path) > _PATH_MAX or not _ABSOLUTE_PATH.fullmatch(path):
        raise RefusedError(b"EINVAL")
    return path.split(b"/")[1:] if path != b"/" else []
