"""The tree of the xenstored stand-in: snapshots that share nodes stay what they were, whatever changes afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from tests.support.effort import cases
from tests.support.xstree import Node, RefusedError, Tree

_Nodes = dict[bytes, tuple[bytes, tuple[bytes, ...]]]
_PATHS = [b"/a", b"/b", b"/a/c", b"/a/d", b"/a/c/e", b"/a/c/f", b"/b/c", b"/b/c/d/e"]


def nodes(tree: Tree) -> _Nodes:
    """Value and permissions of each path."""
    return dict(_walk(b"", tree.root))


def _walk(path: bytes, node: Node) -> Iterator[tuple[bytes, tuple[bytes, tuple[bytes, ...]]]]:
    yield path, (node.value, node.perms)
    for name, child in node.children.items():
        yield from _walk(path + b"/" + name, child)


class _Plain:
    """The same operations on a flat dictionary that a snapshot copies: what the tree is compared with."""

    def __init__(self, known: _Nodes | None = None) -> None:
        self.known: _Nodes = dict(known or {b"": (b"", (b"n0",))})

    def write(self, path: bytes, value: bytes) -> None:
        self.mkdir(path)
        self.known[path] = (value, self.known[path][1])

    def mkdir(self, path: bytes) -> None:
        parent = path.rpartition(b"/")[0]
        if path not in self.known:
            self.mkdir(parent)
            self.known[path] = (b"", self.known[parent][1])

    def remove(self, path: bytes) -> None:
        if path.rpartition(b"/")[0] not in self.known:
            raise RefusedError(b"ENOENT")
        self.known = {p: n for p, n in self.known.items() if p != path and not p.startswith(path + b"/")}

    def set_perms(self, path: bytes, perms: tuple[bytes, ...]) -> None:
        if path not in self.known:
            raise RefusedError(b"ENOENT")
        self.known[path] = (self.known[path][0], perms)


def _change(luck: random.Random) -> Callable[[Tree | _Plain], None]:
    path, number = luck.choice(_PATHS), luck.randrange(100)
    return luck.choice(
        [
            lambda tree: tree.write(path, b"%d" % number),
            lambda tree: tree.mkdir(path),
            lambda tree: tree.remove(path),
            lambda tree: tree.set_perms(path, (b"n%d" % number, b"r7")),
        ]
    )


def _refusal(change: Callable[[Tree | _Plain], None], tree: Tree | _Plain) -> bytes:
    try:
        change(tree)
    except RefusedError as refusal:
        return refusal.code
    return b""


@pytest.mark.parametrize("seed", range(cases(20, 500)))
def test_trees_and_their_snapshots_change_as_copies_do(seed: int) -> None:
    luck = random.Random(seed)
    pairs = [(Tree(), _Plain())]
    for _ in range(60):
        tree, plain = luck.choice(pairs)
        if luck.random() < 0.2:
            pairs.append((tree.snapshot(), _Plain(plain.known)))
            continue
        change = _change(luck)
        assert _refusal(change, tree) == _refusal(change, plain)
    for tree, plain in pairs:
        assert nodes(tree) == plain.known


def test_children_keep_the_order_in_which_they_came() -> None:
    tree = Tree()
    for path in (b"/vm/b", b"/vm/a", b"/vm/c", b"/vm/b"):
        tree.write(path, b"x")
    tree.set_perms(b"/vm/a", (b"r1",))
    assert list(tree.node(b"/vm").children) == [b"b", b"a", b"c"]


def test_a_snapshot_shares_what_does_not_change() -> None:
    tree = Tree()
    tree.write(b"/local/domain/1/name", b"web1")
    tree.write(b"/local/domain/2/name", b"web2")
    transaction = tree.snapshot()
    transaction.write(b"/local/domain/2/name", b"other")
    assert transaction.node(b"/local/domain/1") is tree.node(b"/local/domain/1")
    assert tree.node(b"/local/domain/2/name").value == b"web2"
    tree.adopt(transaction)
    assert tree.node(b"/local/domain/2/name").value == b"other"
