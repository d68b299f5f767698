"""Check whether the hook is installed, and whether the vif scripts of running VMs call it."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xenbw.doctor.finding import Finding, bad, doubt, good
from xenbw.doctor.host import Host
from xenbw.runner import CommandError, Runner
from xenbw.xen.xenstore import StoreError

_TOPIC = "hook"
_SCRIPTS = Path("/etc/xen/scripts")
HOOK = _SCRIPTS / "vif-post.d" / "xenbw.hook"
PROGRAM = Path("/usr/lib/xenbw/vif-hook")
_AGAIN = "apt install --reinstall -o Dpkg::Options::=--force-confmiss xenbw"
# xen-hotplug-common.sh, call_hooks: sources every executable /etc/xen/scripts/vif-post.d/*.hook.
_CALL = "call_hooks vif post"
_LARGEST = 1 << 20


@dataclass(frozen=True)
class HookFacts:
    """whole: whether the hook is unchanged since its package installed it; None if no package did."""

    path: Path
    there: bool
    executable: bool
    whole: bool | None
    program: Path
    program_works: bool


@dataclass(frozen=True)
class ScriptFacts:
    """A vif script in use. calls: whether it calls the hooks; None if it cannot be read. vifs: the interfaces that it
    set up, with their VMs' names."""

    path: str
    calls: bool | None
    vifs: tuple[tuple[str, str], ...]


def files(host: Host) -> Iterator[Finding]:
    """The hook's own files."""
    yield from judge(gather(HOOK, _program(), host.run))


def scripts(host: Host) -> Iterator[Finding]:
    """The vif scripts of running VMs."""
    try:
        used = _scripts(host)
    except StoreError as error:
        yield doubt("vif scripts", f"not checked: {error.message}", error.hint or "systemctl status xen.service")
        return
    yield from judge_scripts(used)


def judge(facts: HookFacts) -> list[Finding]:
    """The findings about the hook's own files."""
    shown = shlex.quote(str(facts.path))
    if not facts.there:
        return [bad(_TOPIC, f"{facts.path} is missing: no VM is blocked or metered from its first packet", _AGAIN)]
    found = []
    if not facts.executable:
        found.append(bad(_TOPIC, f"{facts.path} is not executable: Xen skips it", f"chmod 755 {shown}"))
    if facts.whole is False:
        fix = f"rm {shown} && {_AGAIN}"
        found.append(doubt(_TOPIC, f"{facts.path} was changed since the package installed it", fix))
    if not facts.program_works:
        fix = "apt install --reinstall xenbw"
        found.append(bad(_TOPIC, f"{facts.program}, which the hook runs, is missing or not executable", fix))
    return found or [good(_TOPIC, f"{facts.path} is in place")]


def judge_scripts(scripts: Iterable[ScriptFacts]) -> list[Finding]:
    """The findings about the vif scripts that set up the running VMs."""
    found, calling = [], 0
    for script in scripts:
        if script.calls:
            calling += len(script.vifs)
            continue
        vifs = ", ".join(f"{interface} of {name}" for interface, name in script.vifs)
        fault = "cannot be read" if script.calls is None else "never calls vif-post.d"
        found.append(
            doubt(
                "vif scripts",
                f"{script.path} {fault} ({vifs}): for up to 1 s after its start a VM that is over is not blocked yet,"
                " until xenbwd sees its interface",
                f"put '{_CALL}' into the script before it reports success, as vif-bridge does",
            )
        )
    return found or [good("vif scripts", f"the scripts of all {calling} running interfaces call the hook")]


def calls_hooks(script: Path) -> bool | None:
    """Whether a vif script, or another one in its folder that it runs, calls the hooks; None if it cannot be read."""
    text = _text(script)
    if text is None:
        return None
    if _CALL in text:
        return True
    beside = (other for other in script.parent.glob("vif-*") if other != script and _runs(text, other.name))
    return any(_CALL in (_text(other) or "") for other in beside)


def _runs(text: str, name: str) -> bool:
    """Whether a line of the script runs another one, or sources it."""
    command = rf"""^\s*(?:exec\s+|\.\s+|source\s+)?["']?[^\s"']*{re.escape(name)}["']?(?:\s|$)"""
    return re.search(command, text, re.MULTILINE) is not None


def _text(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_LARGEST).splitlines()
    except OSError:
        return None
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def _program() -> Path:
    # The hook itself reads this variable too.
    return Path(os.environ.get("XENBW_HOOK") or PROGRAM)


def gather(hook: Path, program: Path, run: Runner) -> HookFacts:
    """The facts about the hook and about the program that it runs."""
    there = hook.is_file()
    return HookFacts(
        hook,
        there,
        there and os.access(hook, os.X_OK),
        _whole(hook, run) if there else None,
        program,
        program.is_file() and os.access(program, os.X_OK),
    )


def _whole(hook: Path, run: Runner) -> bool | None:
    """Whether the file has the checksum that dpkg recorded for it; None if dpkg has none."""
    try:
        answer = run(["dpkg-query", "--show", "--showformat=${Conffiles}", "xenbw"])
    except CommandError:
        return None
    lines = (line.split() for line in answer.stdout.decode(errors="replace").splitlines())
    sums = {words[0]: words[1] for words in lines if len(words) >= 2}
    if answer.status != 0 or str(hook) not in sums:
        return None
    return hashlib.md5(hook.read_bytes(), usedforsecurity=False).hexdigest() == sums[str(hook)]


def _scripts(host: Host) -> list[ScriptFacts]:
    used: dict[str, list[tuple[str, str]]] = {}
    for interface, facts in host.backends.items():
        if facts.script:
            used.setdefault(facts.script, []).append((interface, facts.name or f"domain {facts.domid}"))
    return [ScriptFacts(path, calls_hooks(_SCRIPTS / path), tuple(vifs)) for path, vifs in sorted(used.items())]
