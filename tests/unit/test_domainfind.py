from __future__ import annotations

from pathlib import Path

import pytest

from xenbw.xen.domaincfg import DomainConfig, read
from xenbw.xen.domainfind import Found, find


def path_in(found: Found) -> Path | None:
    """The path of the config that was found."""
    return found.config and found.config.path


@pytest.mark.parametrize("file", ["web1", "web1.cfg", "web1.conf"])
def test_a_file_called_as_the_vm_is_its_config(write, tmp_path: Path, file: str) -> None:
    path = write(file, "memory = 5\n")
    assert path_in(find("web1", [tmp_path])) == path


def test_another_file_is_found_by_the_name_inside(write, tmp_path: Path) -> None:
    write("a.cfg", "name = 'other'\n")
    path = write("customer-7", "name = 'web1'\n")
    assert path_in(find("web1", [tmp_path])) == path


def test_the_file_name_counts_before_the_name_inside(write, tmp_path: Path) -> None:
    write("a-copy", "name = 'web1'\n")
    path = write("web1.cfg", "name = 'web1'\n")
    assert path_in(find("web1", [tmp_path])) == path


def test_the_plain_name_counts_before_cfg_and_conf_in_any_directory(write, tmp_path: Path) -> None:
    write("one/web1.cfg", "name = 'web1'\n")
    path = write("two/web1", "name = 'web1'\n")
    assert path_in(find("web1", [tmp_path / "one", tmp_path / "two"])) == path


def test_a_file_called_as_the_vm_that_names_another_vm_does_not_match(write, tmp_path: Path) -> None:
    write("web1.cfg", "name = 'web2'\n")
    assert find("web1", [tmp_path]).config is None


@pytest.mark.parametrize("file", ["web1.sxp", "web1.cfg.bak", "sub/web1.cfg"])
def test_other_file_names_and_deeper_directories_do_not_count(write, tmp_path: Path, file: str) -> None:
    write(file, "memory = 5\n")
    assert find("web1", [tmp_path]).config is None


def test_xends_own_files_are_not_read(write, tmp_path: Path) -> None:
    write("web1.sxp", "name = 'web1'\n")
    assert find("web1", [tmp_path]).config is None
    assert find("web1", [tmp_path]).problems == ()


def test_files_of_xen_s_own_are_not_read(write, tmp_path: Path) -> None:
    write("xl.conf", "autoballoon='off'\n")
    write("oxenstored.conf", "# oxenstored's options\nquota-maxentity = 1000\n")
    write("cpupool", "name = 'Example-Cpupool'\n")
    write("xend-pci-quirks.sxp", "(new)\n")
    found = find("xl", [tmp_path])
    assert (found.config, found.problems) == (None, ())
    assert find("Example-Cpupool", [tmp_path]).config is None


def test_a_missing_folder_is_no_problem_if_the_caller_says_so(write, tmp_path: Path) -> None:
    write("web1.cfg", "memory = 5\n")
    found = find("web1", [tmp_path, tmp_path / "auto"], missing_ok=True)
    assert found.problems == ()
    assert found.config is not None
    assert find("web1", [tmp_path, tmp_path / "web1.cfg"], missing_ok=True).problems != ()


def test_a_symlink_as_in_etc_xen_auto_is_followed_and_its_file_read_once(write, tmp_path: Path) -> None:
    write("xen/customer-7", "name = 'web1'\n")
    (tmp_path / "auto").mkdir()
    (tmp_path / "auto/10-web1").symlink_to(tmp_path / "xen/customer-7")
    reads: list[Path] = []

    def counted(path: Path) -> DomainConfig:
        reads.append(path)
        return read(path)

    dirs = [tmp_path / "auto", tmp_path / "xen"]
    assert find("web1", dirs, read=counted).config is not None
    assert find("web2", dirs, read=counted).config is None
    assert reads == [tmp_path / "auto/10-web1"] * 2


@pytest.mark.parametrize("name", ["../secret", "sub/../../secret", "/etc/hostname", "..", ".", "", "a\0b", "x" * 5000])
def test_a_name_never_leads_out_of_the_directories(write, tmp_path: Path, name: str) -> None:
    write("secret", "memory = 5\n")
    write("configs/a.cfg", "memory = 5\n")
    reads: list[Path] = []

    def counted(path: Path) -> DomainConfig:
        reads.append(path)
        return read(path)

    assert find(name, [tmp_path / "configs"], read=counted).config is None
    assert reads == [tmp_path / "configs/a.cfg"]


def test_a_vm_with_a_slash_in_its_name_is_found_by_the_name_inside(write, tmp_path: Path) -> None:
    write("odd.cfg", "name = '../web1'\n")
    assert find("../web1", [tmp_path]).config is not None


def test_files_and_directories_that_are_ignored_are_reported(write, tmp_path: Path) -> None:
    write("a-broken.cfg", "name = 'web1\n")
    write("b-binary", b"\x7fELF\0")
    write("c.cfg", "name = 'web1'\n")
    (tmp_path / "d-dangling").symlink_to(tmp_path / "nowhere")
    found = find("web1", [tmp_path / "missing", tmp_path])
    assert found.config is not None
    assert [Path(problem.split(":")[0]).name for problem in found.problems] == ["missing", "a-broken.cfg", "b-binary"]


def two_copies(write) -> tuple[Path, Path]:
    """The config files of one VM, of which the older is the first by alphabet."""
    old = write("customer7-old.cfg", "name='shop'\nvif=['mac=00:16:3e:00:00:70,ip=192.0.2.70']\n")
    new = write("customer7.cfg", "name='shop'\nvif=['mac=00:16:3e:00:00:77,ip=192.0.2.77']\n")
    return old, new


def test_of_two_files_that_differ_none_is_used_and_both_are_named(write, tmp_path: Path) -> None:
    old, new = two_copies(write)
    found = find("shop", [tmp_path])
    assert found.config is None
    assert [problem for problem in found.problems if str(old) in problem and str(new) in problem] != []


@pytest.mark.parametrize("which", [0, 1])
def test_of_two_files_the_one_with_the_running_mac_is_used(write, tmp_path: Path, which: int) -> None:
    paths = two_copies(write)
    found = find("shop", [tmp_path], macs=["00:16:3e:00:00:7" + "07"[which]])
    assert found.config is not None
    assert (found.config.path, found.problems) == (paths[which], ())


@pytest.mark.parametrize("which", [0, 1])
def test_of_two_files_the_one_that_starts_with_dom0_is_used(write, tmp_path: Path, which: int) -> None:
    paths = two_copies(write)
    (tmp_path / "auto").mkdir()
    (tmp_path / "auto" / "shop").symlink_to(paths[which])
    assert path_in(find("shop", [tmp_path])) == paths[which]


def test_the_running_mac_counts_before_the_file_s_name(write, tmp_path: Path) -> None:
    write("shop.cfg", "name='shop'\nvif=['mac=00:16:3e:00:00:70']\n")
    path = write("customer7.cfg", "name='shop'\nvif=['mac=00:16:3e:00:00:77']\n")
    assert path_in(find("shop", [tmp_path], macs=["00:16:3e:00:00:77"])) == path


def test_two_files_that_say_the_same_are_as_good_as_one(write, tmp_path: Path) -> None:
    for name in ("a.cfg", "b.cfg"):
        write(name, "name='shop'\nvif=['ip=192.0.2.70']\n")
    found = find("shop", [tmp_path])
    assert found.config is not None
    assert found.problems == ()
