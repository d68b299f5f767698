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


def test_a_hook_that_is_whole_and_can_run_is_well() -> None:
    assert levels(SOUND) == [Level.PASS]
    # Installed by hand: nobody knows what it should be.
    assert levels(replace(SOUND, whole=None)) == [Level.PASS]


def test_a_hook_that_is_missing_comes_back_only_by_force() -> None:
    (finding,) = judge(replace(SOUND, there=False, executable=False, whole=None))
    assert finding.level is Level.FAIL
    assert "--force-confmiss" in finding.fix


def test_a_hook_that_is_not_executable_is_never_called() -> None:
    (finding,) = judge(replace(SOUND, executable=False))
    assert (finding.level, finding.fix) == (Level.FAIL, f"chmod 755 {SOUND.path}")


def test_a_hook_that_was_changed_may_be_meant_so() -> None:
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
    """dpkg-query, as it tells of a package's conffiles: each on a line of its own, after a blank, with its sum."""
    total = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    return lambda *_, **__: Result(0, f"\n /etc/default/xenbw 0123\n {hook} {total}\n".encode(), b"")


def test_what_the_hook_should_be_is_known_to_dpkg(hook: Path) -> None:
    assert gather(hook, hook, recorded(hook, "as it was brought\n")) == replace(SOUND, path=hook, program=hook)
    assert gather(hook, hook, recorded(hook, "of another version\n")).whole is False


def test_without_a_package_nobody_knows_what_it_should_be(hook: Path) -> None:
    assert gather(hook, hook, lambda *_, **__: Result(1, b"", b"no packages found")).whole is None
    assert gather(hook, hook, recorded(Path("/elsewhere"), "")).whole is None


def test_what_is_no_file_or_cannot_be_executed_is_told_apart(hook: Path, tmp_path: Path) -> None:
    hook.chmod(0o644)
    facts = gather(hook, tmp_path / "none", recorded(hook, ""))
    assert (facts.there, facts.executable, facts.program_works) == (True, False, False)
    assert gather(tmp_path, tmp_path, recorded(hook, "")).there is False


@pytest.mark.parametrize("script", ["vif-bridge", "vif-route", "vif-nat"])
def test_xen_s_own_scripts_call_the_hooks(script: str) -> None:
    assert calls_hooks(Path("/etc/xen/scripts") / script) is True


def test_vif_openvswitch_does_not() -> None:
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
def test_a_custom_script_may_call_them_itself_or_by_one_that_does(tmp_path: Path, text: str, calls: bool) -> None:
    (tmp_path / "vif-bridge").write_text("call_hooks vif post\n")
    (tmp_path / "custom").write_text(f"#!/bin/bash\n{text}")
    assert calls_hooks(tmp_path / "custom") is calls


def test_a_script_that_cannot_be_read_is_not_taken_for_one_that_calls(tmp_path: Path) -> None:
    assert calls_hooks(tmp_path / "gone") is None
    (finding,) = judge_scripts([ScriptFacts("/etc/xen/scripts/gone", None, (("vif1.0", "web1"),))])
    assert finding.level is Level.WARN


def test_who_is_open_for_a_moment_is_named() -> None:
    ovs = ScriptFacts("/etc/xen/scripts/vif-openvswitch", False, (("vif3.0", "web1"), ("vif4.1", "db")))
    bridge = ScriptFacts("/etc/xen/scripts/vif-bridge", True, (("vif5.0", "mail"),))
    (finding,) = judge_scripts([ovs, bridge])
    assert finding.level is Level.WARN
    assert "vif3.0 of web1, vif4.1 of db" in finding.text
    assert "mail" not in finding.text
    assert [finding.level for finding in judge_scripts([bridge])] == [Level.PASS]
