"""A dom0 in miniature: a namespace with a bridge and a world outside, Debian's own vif scripts, real xenstore tools.

Only Xen is missing: tests.support.xenstored stands in for xenstored, veth pairs for netback, and a script that lists
domains for xl. Nothing outside the namespaces is touched, and everything vanishes with the context or the process.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from tests.support.guest import Card, Guest, ScriptResult
from tests.support.netns import Namespace
from tests.support.pace import busy, patient
from tests.support.xenstored import Xenstored

BRIDGE = "xenbr0"
DOM0_ADDRESSES = {4: "10.50.0.1", 6: "fd50::1"}
OUTSIDE_ADDRESSES = {4: "10.50.0.2", 6: "fd50::2"}

_SCRIPTS = Path("/etc/xen/scripts")
_SCRIPT_SECONDS = 40  # LIBXL_HOTPLUG_TIMEOUT
# The environment that xl gives a script on Debian 12, as captured there.
_SCRIPT_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/xen-4.17/bin"

# The format of tools/xl/xl_list.c. Only numbers are domains: Debian's vif-bridge writes the MTU of a renamed vif to
# /local/domain/<vifname>/device/vif/<vifname>/mtu (set_mtu in xen-network-common.sh).
_XL = r"""#!/bin/sh
export XENSTORED_PATH={socket}
if [ "$*" != list ]; then
    echo "xl: this stand-in can only list" >&2
    exit 1
fi
printf 'Name                                        ID   Mem VCPUs\tState\tTime(s)\n'
for domid in $(xenstore-list /local/domain | grep -x '[0-9]*' | sort -n); do
    name=$(xenstore-read "/local/domain/$domid/name") || continue
    memory=$(xenstore-read "/local/domain/$domid/memory/target") || continue
    printf '%-40s %5d %5d %5d     -b----  %8.1f\n' "$name" "$domid" $((memory / 1024)) 1 0.0
done
"""


class Dom0:
    """The machine. `hooks` are installed as /etc/xen/scripts/vif-post.d/NAME, which only its own scripts see.

    `namespace` is dom0's, `outside` is a host on the wire behind the bridge; `store` is xenstored, with its socket at
    `store.path` and, inside, at its usual place. `guests` are the running ones. `hook_env` is given to every vif
    script on top of what xl gives. `bin_dir` holds the `xl`, `etc` is its /etc/xen. Inside, /run and /var/log/xen are
    private and empty. `standing` are all that are entered and not left; `on_failure` is called with one that is left by
    an exception, and where it is set, a capture of the last packets on all its interfaces is in `directory`.
    """

    standing: ClassVar[list[Dom0]] = []
    on_failure: ClassVar[Callable[[Dom0], None] | None] = None

    def __init__(self, hooks: Iterable[Path] = ()) -> None:
        self.hook_env: dict[str, str] = {}
        self.guests: list[Guest] = []
        self._hooks = list(hooks)
        self._next_domid = 1
        self._started = 0
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._exit:
            self._set_up()
            self._exit = self._exit.pop_all()
        self.standing.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.standing.remove(self)
        try:
            on_failure = type(self).on_failure
            if kind is not None and on_failure is not None:
                on_failure(self)
        finally:
            self._exit.close()

    def _set_up(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="xenbw-dom0-"))
        self._exit.callback(shutil.rmtree, self.directory)
        self.store = self._exit.enter_context(Xenstored(self.directory / "xenstored"))
        self.store.write_all({"/local/domain/0/memory/target": str(1536 * 1024)})
        self._install()
        self.namespace = Namespace(mounts=self._mounts())
        self._exit.callback(self.namespace.close)
        self.outside = Namespace()
        self._exit.callback(self.outside.close)
        self._exit.callback(self._drop_guests)
        self._wire()
        self._capture()

    def _install(self) -> None:
        self.etc = self.directory / "etc-xen"
        shutil.copytree(_SCRIPTS, self.etc / "scripts")
        installed = self.etc / "scripts" / "vif-post.d"
        installed.mkdir()
        for hook in self._hooks:
            shutil.copy(hook, installed)
            (installed / hook.name).chmod(0o755)
        self.script_log = self.directory / "log" / "xen-hotplug.log"
        self.script_log.parent.mkdir()
        self.bin_dir = self.directory / "bin"
        self.bin_dir.mkdir()
        xl = self.bin_dir / "xl"
        xl.write_text(_XL.replace("{socket}", shlex.quote(str(self.store.path))))
        xl.chmod(0o755)
        # A shell by the name of xl runs a script as a child, as xl does.
        self.receiver = self.directory / "receiver" / "xl"
        self.receiver.parent.mkdir()
        self.receiver.symlink_to("/bin/bash")

    def _mounts(self) -> str:
        mine = shlex.quote(str(self.directory))
        return f"""
            mount -t sysfs sysfs /sys
            mount --bind {mine}/etc-xen {_SCRIPTS.parent}
            mount --bind {mine}/log /var/log/xen
            mount -t tmpfs tmpfs /run
            mkdir /run/xenstored
            ln -s {mine}/xenstored /run/xenstored/socket
        """

    def _wire(self) -> None:
        self.namespace.ip(
            f"link add {BRIDGE} type bridge forward_delay 0 stp_state 0",
            f"addr add {DOM0_ADDRESSES[4]}/24 dev {BRIDGE}",
            f"addr add {DOM0_ADDRESSES[6]}/64 dev {BRIDGE}",
            f"link add outside type veth peer name eth0 netns {self.outside.path}",
            f"link set outside master {BRIDGE} up",
            f"link set {BRIDGE} up",
        )
        self.outside.ip(
            f"addr add {OUTSIDE_ADDRESSES[4]}/24 dev eth0",
            f"addr add {OUTSIDE_ADDRESSES[6]}/64 dev eth0",
            "link set eth0 up",
            f"route add default via {DOM0_ADDRESSES[4]}",
        )
        with self.namespace.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def _capture(self) -> None:
        """Capture the last packets on all interfaces of dom0: two files of at most 4 MB, with the headers of each
        packet."""
        if self.on_failure is not None:
            argv = ["tcpdump", "-n", "-U", "-Z", "root", "-i", "any", "-s", "128", "-C", "4", "-W", "2"]
            self.namespace.popen([*argv, "-w", str(self.directory / "capture")], output=Path("/dev/null"))

    def start(
        self,
        name: str,
        ips: Sequence[str] | None = None,
        *,
        domid: int | None = None,
        vifs: int = 1,
        bridge: str = BRIDGE,
        vifname: str | None = None,
        script: str = "vif-bridge",
        mac: str | None = None,
        config_ips: Sequence[str] | None = None,
        received: bool = False,
    ) -> Guest:
        """Create and start a guest, as `xl create` does; ScriptError when a vif script fails. received: as
        `xl migrate-receive` does.

        `ips` (default: the next of 10.50.0.11, .12, …) are given to the vifs in turn; `config_ips` are the addresses in
        the config (default: the same; () for a config without `ip=`). `vifname` and `mac` are the first vif's.
        """
        self._started += 1
        own = tuple(ips) if ips is not None else (f"10.50.0.{10 + self._started}",)
        told = own if config_ips is None else tuple(config_ips)
        cards = [
            Card(
                devid=devid,
                mac=mac if mac and devid == 0 else f"00:16:3e:50:{self._started:02x}:{devid:02x}",
                ips=own[devid::vifs],
                config_ips=told[devid::vifs],
                bridge=bridge,
                vifname=vifname if devid == 0 else None,
                script=script,
            )
            for devid in range(vifs)
        ]
        guest = Guest(self, name, str(uuid.uuid4()), cards)
        guest.received = received
        guest.start(domid)
        return guest

    def run(
        self,
        argv: Sequence[str],
        *,
        text_input: str = "",
        env: Mapping[str, str] | None = None,
        timeout: float = busy(30),
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in dom0, with `xl` and the xenstore tools at hand; `env` comes on top of the caller's own."""
        env = self._environment(env)
        return self.namespace.run(patient(argv), text_input=text_input, env=env, timeout=timeout, check=check)

    def popen(
        self, argv: Sequence[str], *, output: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command in dom0, such as a daemon, with its output in a file; it ends with dom0 at the latest."""
        return self.namespace.popen(argv, output=output, env=self._environment(env))

    def run_script(
        self, command: str, domid: int, card: Card, kind: str = "vif", *, received: bool = False
    ) -> ScriptResult:
        """Run a vif script as libxl does (libxl_linux.c, libxl__hotplug_nic and get_hotplug_env); for an HVM guest's
        emulated card, whose kind is "tap", once more. received: from the program that receives a migrating guest."""
        script, vif = f"{_SCRIPTS}/{card.script}", f"vif{domid}.{card.devid}"
        env = {
            "PATH": _SCRIPT_PATH,
            "HOME": "/root",
            "XENSTORED_PATH": str(self.store.path),
            "XENBUS_TYPE": "vif",
            "XENBUS_PATH": f"backend/vif/{domid}/{card.devid}",
            "XENBUS_BASE_PATH": "backend",
            "script": script,
            "vif": vif,
            # vif-route takes dom0's address from it (`gatewaydev=` in the config); the others do not look.
            "netdev": BRIDGE if card.script == "vif-route" else "",
            **({"INTERFACE": f"{vif}-emu"} if kind == "tap" else {}),
        }
        started = time.monotonic()
        under = [str(self.receiver), "-c", '"$@"; exit $?', "migrate-receive"] if received else []
        done = self.namespace.run(
            [*under, script, command, f"type_if={kind}"], env={**env, **self.hook_env}, timeout=_SCRIPT_SECONDS
        )
        seconds = time.monotonic() - started
        return ScriptResult(command, card.devid, done.returncode, seconds, done.stdout, done.stderr)

    def peer(self, who: Guest | str, version: int) -> tuple[Namespace, str]:
        """The namespace and the address of "outside", "dom0" or a running guest."""
        if who == "outside":
            return self.outside, OUTSIDE_ADDRESSES[version]
        if who == "dom0":
            return self.namespace, DOM0_ADDRESSES[version]
        if isinstance(who, Guest):
            return who.namespace, who.address(version)
        raise ValueError(f"{who!r} is not outside, dom0 or a guest")

    def take_domid(self, domid: int | None) -> int:
        """The next domid, or the one that the caller asks for; Xen counts on from the largest."""
        taken = self._next_domid if domid is None else domid
        self._next_domid = max(self._next_domid, taken + 1)
        return taken

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        path = f"{self.bin_dir}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "XENSTORED_PATH": str(self.store.path), **(env or {})}

    def _drop_guests(self) -> None:
        """Let the running guests vanish without their scripts, because the whole dom0 ends."""
        for guest in self.guests:
            guest.namespace.close()
