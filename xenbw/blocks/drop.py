"""The drop on the vif, by tc: all packets of a blocked VM's vif are dropped in both directions (blocks/clsact.py).

No flush of nft's rules undoes it, even with the daemon dead, and the link stays up: netback reads a guest's ring only
while the link is up, and a guest that shuts down may wait for its ring to be read (xenopsd commit 1e0eb873). Where the
drop cannot be had, because the kernel lacks it or a filter of another program is first, the link is taken down instead
(blocks/link.py).

The hook uses this at each boot of a blocked VM, so it imports next to nothing.
"""

from __future__ import annotations

import _socket
import errno
import os

from xenbw.blocks.clsact import HANDLE, PRIORITY, Clsact
from xenbw.errors import XenbwError
from xenbw.rundir.dropped import FOLDER, Dropped
from xenbw.text import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenbw.blocks.block import Outcome, Wanted

UNDO = f"""\
for interface in /sys/class/net/*; do
    ifindex=$(cat "$interface/ifindex" 2>/dev/null) || continue
    mark="$1"/{FOLDER}/$ifindex
    interface=${{interface##*/}}
    for way in ingress egress; do
        tc filter del dev "$interface" "$way" prio {PRIORITY} handle {HANDLE:#x} bpf 2>/dev/null || true
    done
    # The mark has content if xenbw made the clsact, which another program may use by now.
    [ -s "$mark" ] || continue
    others=$(tc filter show dev "$interface" ingress; tc filter show dev "$interface" egress) || continue
    [ -n "$others" ] || tc qdisc del dev "$interface" clsact 2>/dev/null || true
done
rm -rf "$1"/{FOLDER}"""
"""Shell commands that remove all drops, and of the clsacts those that xenbw made and nobody else uses. $1: xenbw's
folder under /run. A drop without a mark there is removed too: priority and handle tell that it is xenbw's."""

_LACKING = (errno.ENOENT, errno.EOPNOTSUPP)  # the kernel has no clsact, no cls_bpf, or no traffic control at all


class Drop:
    """The drops. run_dir: xenbw's folder under /run, where their marks are."""

    name = "drop"

    def __init__(self, run_dir: str) -> None:
        self._marks = Dropped(run_dir)

    def probe(self) -> str | None:
        """None: where there is no drop, links are taken down."""
        return None

    def apply(self, wanted: Wanted) -> Outcome:
        """Put the wanted drops, and remove the others that have a mark. Raises XenbwError if the kernel cannot be asked
        at all."""
        from xenbw.blocks.block import Outcome  # the hook, which only puts drops, cannot afford dataclasses

        surplus = self._marks.since().keys() - wanted.shut.keys() - wanted.starting
        if not surplus and not wanted.shut:
            return Outcome()
        problems, shut = [], set()
        try:
            kernel = Clsact()
        except OSError as error:
            raise XenbwError(f"no drop by tc can be put or removed: {error.strerror}") from None
        try:
            for ifindex in surplus:
                try:
                    self._remove(kernel, ifindex)
                except OSError as error:
                    problems.append(_stays(ifindex, error))
            for ifindex, interface in wanted.shut.items():
                if _name(ifindex) == interface:
                    try:
                        self._put(kernel, ifindex)
                        shut.add(ifindex)
                    except OSError as error:
                        problems += _open(interface, error)
        finally:
            kernel.close()
        return Outcome(problems=tuple(problems), shut=frozenset(shut))

    def put(self, ifindex: int) -> None:
        """Put the drop on one vif. Raises OSError if it cannot be had; then nothing of it is there."""
        kernel = Clsact()
        try:
            self._put(kernel, ifindex)
        finally:
            kernel.close()

    def _put(self, kernel: Clsact, ifindex: int) -> None:
        if kernel.stands(ifindex):
            return
        # Before the drop: one without a mark would never be removed.
        self._marks.put(ifindex)
        try:
            made = kernel.add(ifindex)
        except OSError:
            self._marks.clear(ifindex)
            raise
        if made:
            try:
                self._marks.put(ifindex, made=True)
            except OSError:
                pass  # /run is full: the mark stays empty, so the clsact stays when the drop is removed

    def _remove(self, kernel: Clsact, ifindex: int) -> None:
        kernel.remove(ifindex, made=self._marks.made(ifindex))
        self._marks.clear(ifindex)


def _name(ifindex: int) -> str | None:
    """The interface's present name as xenbw spells it, or None if it is gone."""
    try:
        return decode(os.fsencode(_socket.if_indextoname(ifindex)))
    except OSError:
        return None


def _stays(ifindex: int, error: OSError) -> str:
    name = _name(ifindex) or f"interface {ifindex}"
    return (
        f"{name}: xenbw's tc filter cannot be removed ({error.strerror}), and cuts the guest off:"
        f" tc qdisc del dev {name} clsact"
    )


def _open(interface: str, error: OSError) -> list[str]:
    """What to tell of a vif whose drop cannot be had. Nothing, if its link is taken down instead, if every vif of this
    host is in the same case, or if it is just gone."""
    if error.errno in (*_LACKING, errno.ENODEV) or os.path.exists(f"/sys/class/net/{interface}/brport"):
        return []
    return [
        f"{interface}: tc refuses xenbw's filter ({error.strerror}): without xenbwd, a flush of nft's rules would end"
        f" the seal: tc filter show dev {interface} ingress"
    ]
