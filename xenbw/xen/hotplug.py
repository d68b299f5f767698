"""Read a call of a hotplug script from the environment in which Xen's scripts run a vif-post hook.

The hook is part of every VM's boot, so this module imports only the exceptions. HotplugCall is no dataclass because
importing `dataclasses` takes longer than everything else that the hook reads.
"""

from __future__ import annotations

from xenbw.errors import XenbwError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# xen/include/public/xen.h: numbers from DOMID_FIRST_RESERVED (0x7FF0) on are not domains; 0 is dom0.
_DOMID_END = 0x7FF0
# linux/if.h IFNAMSIZ, with its final NUL.
_INTERFACE_MAX = 15
_COMMANDS = {"vif": ("online", "offline"), "tap": ("add", "remove")}
_KINDS = {"vif": "vif", "tap": "emu"}


class HotplugCall:
    """One call of a vif script; read only.

    `command` is online or offline for a vif, add or remove for the emulated card (`kind` "emu") of an HVM guest.
    `interface` is the name that the script gave the interface. `bridge` and `ips` (as configured: separated by spaces,
    perhaps with prefix lengths) are None when they are not set.
    """

    __slots__ = ("bridge", "command", "devid", "domid", "interface", "ips", "kind")

    command: str
    kind: str
    domid: int
    devid: int
    interface: str
    bridge: str | None
    ips: str | None

    def __init__(
        self, command: str, kind: str, domid: int, devid: int, interface: str, bridge: str | None, ips: str | None
    ) -> None:
        values = (bridge, command, devid, domid, interface, ips, kind)
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is read only")

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HotplugCall) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"HotplugCall({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


def parse(env: Mapping[str, str]) -> HotplugCall:
    """The call that the variables of Xen's vif-common.sh describe: command, type_if, XENBUS_PATH, dev, bridge, ip.

    Raises XenbwError when they do not describe a call.
    """
    type_if = env.get("type_if") or "vif"  # vif-common.sh's own default
    if type_if not in _KINDS:
        raise XenbwError(f"type_if is {type_if!r}, not vif or tap")
    command = env.get("command", "")
    if command not in _COMMANDS[type_if]:
        raise XenbwError(f"command is {command!r}, not {' or '.join(_COMMANDS[type_if])} (type_if={type_if})")
    domid, devid = _backend(env.get("XENBUS_PATH", ""))
    bridge = env.get("bridge") or None
    return HotplugCall(
        command=command,
        kind=_KINDS[type_if],
        domid=domid,
        devid=devid,
        interface=_interface("dev", env.get("dev", "")),
        bridge=_interface("bridge", bridge) if bridge else None,
        ips=env.get("ip", "").strip() or None,
    )


def _backend(path: str) -> tuple[int, int]:
    """domid and devid from `backend/vif/7/0`, which vif-common.sh may also write as an absolute path."""
    parts = path.removeprefix("/local/domain/0/").split("/")
    if len(parts) == 4 and parts[:2] == ["backend", "vif"] and _is_number(parts[2]) and _is_number(parts[3]):
        domid, devid = int(parts[2]), int(parts[3])
        if 0 < domid < _DOMID_END:
            return domid, devid
    raise XenbwError(f"XENBUS_PATH is {path!r}, not backend/vif/<domid>/<devid>")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _interface(variable: str, name: str) -> str:
    """`name` if the kernel accepts it as an interface's name (net/core/dev.c, dev_valid_name), else XenbwError."""
    if (
        not name
        or len(name.encode("utf-8", "surrogateescape")) > _INTERFACE_MAX
        or name in {".", ".."}
        or any(char in "/:" or char.isspace() for char in name)
    ):
        raise XenbwError(f"{variable} is {name!r}, not the name of an interface")
    return name
