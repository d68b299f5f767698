from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from xenbw.doctor.finding import Level
from xenbw.doctor.hook import HookFacts, ScriptFacts, calls_hooks, gather, judge, judge_scripts
from xenbw.runner import Result, Runner

SOUND = HookFacts(
    Path("/etc/xen/scripts/vif-post.d/xenbw.hook"), True, True, True, Path("/usr/lib/xenbw/vif-hook"), True
)


def levels(facts: HookFacts) -> list[Level]:
    return [finding.level for finding in judge(facts)]


def test_an_unchanged_executable_hook_passes() -> None:
    assert levels(SOUND) == [Level.PASS]
    # Installed by hand, so its checksum is unknown.
    assert levels(replace(SOUND, whole=None)) == [Level.PASS]


def test_a_missing_hook_is_restored_only_with_force() -> None:
    (finding,) = judge(replace(SOUND, there=False, executable=False, whole=None))
    assert finding.level is Level.FAIL
    assert "--force-confmiss" in finding.fix


def test_a_hook_that_is_not_executable_is_never_called() -> None:
    (finding,) = judge(replace(SOUND, executable=False))
    assert (finding.level, finding.fix) == (Level.FAIL, f"chmod 755 {SOUND.path}")


def test_a_changed_hook_is_only_a_warning() -> None:
    assert levels(replace(SOUND, whole=False)) == [Level.WARN]


def test_a_hook_without_its_program_does_nothing() -> None:
    assert levels(replace(SOUND, program_works=False)) == [Level.FAIL]


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    path = tmp_path / "xenbw.hook"
    path.write_text("as it was brought\n")
    path.chmod(0o755)
    return path


def recorded(hook: Path, text: str) -> Runner:
    """dpkg-query, as it prints a package's conffiles: each on its own line, after a blank, with its checksum."""
    total = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    return lambda *_, **__: Result(0, f"\n /etc/default/xenbw 0123\n {hook} {total}\n".encode(), b"")


def test_dpkg_knows_the_checksum_of_the_hook(hook: Path) -> None:
    assert gather(hook, hook, recorded(hook, "as it was brought\n")) == replace(SOUND, path=hook, program=hook)
    assert gather(hook, hook, recorded(hook, "of another version\n")).whole is False


def test_without_a_package_the_checksum_of_the_hook_is_unknown(hook: Path) -> None:
    assert gather(hook, hook, lambda *_, **__: Result(1, b"", b"no packages found")).whole is None
    assert gather(hook, hook, recorded(Path("/elsewhere"), "")).whole is None


def test_a_missing_hook_and_one_that_is_not_executable_are_told_apart(hook: Path, tmp_path: Path) -> None:
    hook.chmod(0o644)
    facts = gather(hook, tmp_path / "none", recorded(hook, ""))
    assert (facts.there, facts.executable, facts.program_works) == (True, False, False)
    assert gather(tmp_path, tmp_path, recorded(hook, "")).there is False


@pytest.mark.parametrize("script", ["vif-bridge", "vif-route", "vif-nat"])
def test_xen_s_own_scripts_call_the_hooks(script: str) -> None:
    assert calls_hooks(Path("/etc/xen/scripts") / script) is True


def test_vif_openvswitch_does_not_call_the_hooks() -> None:
    assert calls_hooks(Path("/etc/xen/scripts") / "vif-openvswitch") is False


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('exec /etc/xen/scripts/vif-bridge "$@"\n', True),
        ("# like vif-bridge, but for\n# call_hooks vif post\nsuccess\n", False),
        ('dir=$(dirname "$0")\n  . "$dir/vif-bridge"\n', True),
        ('log debug "Successful vif-bridge $command"\n', False),
        ("call_hooks vif post\n", True),
    ],
)
def test_a_custom_script_may_call_the_hooks_itself_or_by_another_script(tmp_path: Path, text: str, calls: bool) -> None:
    (tmp_path / "vif-bridge").write_text("call_hooks vif post\n")
    (tmp_path / "custom").write_text(f"#!/bin/bash\n{text}")
    assert calls_hooks(tmp_path / "custom") is calls


def test_a_script_that_cannot_be_read_does_not_count_as_calling_the_hooks(tmp_path: Path) -> None:
    assert calls_hooks(tmp_path / "gone") is None
    (finding,) = judge_scripts([ScriptFacts("/etc/xen/scripts/gone", None, (("vif1.0", "web1"),))])
    assert finding.level is Level.WARN


def test_vms_whose_block_comes_a_moment_late_are_named() -> None:
    ovs = ScriptFacts("/etc/xen/scripts/vif-openvswitch", False, (("vif3.0", "web1"), ("vif4.1", "db")))
    bridge = ScriptFacts("/etc/xen/scripts/vif-bridge", True, (("vif5.0", "mail"),))
    (finding,) = judge_scripts([ovs, bridge])
    assert finding.level is Level.WARN
    assert "vif3.0 of web1, vif4.1 of db" in finding.text
    assert "mail" not in finding.text
    assert [finding.level for finding in judge_scripts([bridge])] == [Level.PASS]
