"""Our reading of xl's config grammar against the toolstack's own parser, libxlutil."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.effort import cases
from tests.support.libxlutil import Libxlutil, Reading
from xenbw.text import decode
from xenbw.xen import xlcfg

CONFIGS = sorted((Path(__file__).parents[1] / "data/domaincfg").glob("*.cfg"))


@pytest.fixture(scope="module")
def xl() -> Libxlutil:
    return Libxlutil()


def agree(xl: Libxlutil, data: bytes) -> bool:
    """Assert that both accept `data` with the same name and vifs, or that both refuse it; whether they accept."""
    theirs = xl.read(data)
    try:
        ours = xlcfg.parse(data)
    except xlcfg.ConfigSyntaxError as error:
        assert theirs is None, f"the library accepts what we refuse: {error}"
        return False
    assert theirs is not None, "the library refuses what we accept"
    assert (_string(ours.get("name")), _strings(ours.get("vif"))) == _decoded(theirs)
    return True


def _string(value: xlcfg.Value | None) -> str | None:
    return value if isinstance(value, str) else None


def _strings(value: xlcfg.Value | None) -> tuple[str | None, ...] | None:
    return tuple(_string(item) for item in value) if isinstance(value, tuple) else None


def _decoded(reading: Reading) -> tuple[str | None, tuple[str | None, ...] | None]:
    def text(raw: bytes | None) -> str | None:
        return None if raw is None else decode(raw)

    return text(reading.name), None if reading.vif is None else tuple(text(item) for item in reading.vif)


# Text in the grammar, with its corners: comments and line breaks inside lists, both quotes, every escape.
blanks = st.sampled_from([b"", b" ", b"\t", b"  "])
plain_bytes = st.sampled_from(
    [b"a", b"7", b" ", b",", b"=", b"#", b";", b"[", b".", b"\xc3\xa9", b"\xff", b"\r", b"bridge=x"]
)
escapes = st.sampled_from([rb"\\", rb"\"", rb"\'", rb"\n", rb"\t", rb"\a", rb"\012", rb"\01234", rb"\7+1", rb"\0 12"])
texts = st.lists(st.one_of(plain_bytes, plain_bytes, escapes), max_size=5).map(b"".join)
strings = st.builds(lambda quote, text: quote + text + quote, st.sampled_from([b"'", b'"']), texts)
numbers = st.sampled_from([b"0", b"42", b"0x1f", b"010", b"9abcx", b"1f0"])
atoms = st.one_of(strings, strings, numbers)
newlines = st.lists(st.sampled_from([b"\n", b" # note ' \"\n", b"#\n"]), max_size=2).map(b"".join)


list_ends = st.sampled_from([b"", b"", b",", b" , \n"])


def lists_of(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    items = st.lists(st.builds(lambda value, after: value + after, values, newlines), min_size=1, max_size=4)
    full = st.builds(lambda gap, items, end: (b"," + gap).join(items) + end, newlines, items, list_ends)
    return st.builds(lambda gap, inside: b"[" + gap + inside + b"]", newlines, st.one_of(full, full, st.just(b"")))


values = st.recursive(atoms, lists_of, max_leaves=6)
names = st.sampled_from([b"name", b"name", b"vif", b"vif", b"vif", b"memory", b"a_b.c9"])
assignments = st.builds(
    lambda name, gap, operator, value: name + gap + operator + gap + value,
    names, blanks, st.sampled_from([b"=", b"=", b"+="]), st.one_of(atoms, lists_of(atoms), values),
)  # fmt: skip
statement_ends = st.sampled_from([b"\n", b";", b"\n\n", b" # note\n", b" ;; \n"])
configs = st.builds(
    lambda statements, end: b"".join(statements) + end,
    st.lists(st.builds(lambda gap, text, end: gap + text + end, blanks, assignments, statement_ends), max_size=5),
    st.one_of(st.just(b""), assignments, st.sampled_from([b"#", b"# cut", b"$", b"'", b"\xff"])),
)


wrong_pieces = st.one_of(
    st.just(b""),
    st.binary(max_size=2),
    st.sampled_from([b"'", b'"', b"\\", b"[", b"]", b",", b"\n", b"+=", b"Name", b"#"]),
    st.sampled_from([rb"\01", rb"\08", rb"\x41", rb"\xzz", rb"\q", rb"\8", rb"\0 1", rb"\0-12"]),
)


@st.composite
def damaged_configs(draw: st.DrawFn) -> bytes:
    """A config with up to three bytes, or all the rest, replaced by something else or nothing."""
    text = draw(configs)
    start = draw(st.integers(0, len(text)))
    end = draw(st.sampled_from([start, start + 1, start + 3, len(text)]))
    return (text[:start] + draw(wrong_pieces) + text[end:]).replace(b"\0", b"")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_hand_written_files_are_read_as_xl_reads_them(xl: Libxlutil, path: Path) -> None:
    agree(xl, path.read_bytes())


@pytest.mark.parametrize(
    "file", ["typical", "lists", "plus", "quotes", "bytes", "nested-vif", "twice", "stray-last-byte"]
)
def test_xl_accepts_these_files(xl: Libxlutil, file: str) -> None:
    assert agree(xl, (CONFIGS[0].parent / f"{file}.cfg").read_bytes())


@pytest.mark.parametrize(
    "file", ["open-string", "cut-in-list", "crlf", "comment-at-end", "mixed-sum", "hex-escape", "xm-style"]
)
def test_xl_refuses_these_files(xl: Libxlutil, file: str) -> None:
    assert not agree(xl, (CONFIGS[0].parent / f"{file}.cfg").read_bytes())


@given(data=configs)
@settings(max_examples=cases(60, 300), deadline=None)
def test_generated_configs_are_read_as_xl_reads_them(xl: Libxlutil, data: bytes) -> None:
    agree(xl, data)


@given(data=damaged_configs())
@example(data=b"name = 0x1F")
@example(data=b"name = 'a'$\n")
@settings(max_examples=cases(60, 300), deadline=None)
def test_damaged_configs_are_accepted_or_refused_as_xl_does(xl: Libxlutil, data: bytes) -> None:
    agree(xl, data)


@given(data=st.binary(max_size=12).map(lambda data: data.replace(b"\0", b"")))
@settings(max_examples=cases(40, 200), deadline=None)
def test_arbitrary_bytes_are_accepted_or_refused_as_xl_does(xl: Libxlutil, data: bytes) -> None:
    agree(xl, data)
