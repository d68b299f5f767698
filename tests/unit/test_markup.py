from __future__ import annotations

from html import escape
from html.parser import HTMLParser

import pytest

from xenbw.tell.markup import html_of


class Page(HTMLParser):
    """The elements and the text of a page, as a mail reader sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html_of(text))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_paragraphs_tables_and_lists_become_elements() -> None:
    page = html_of(
        "web1 was blocked.\n\nTo release it: xenbw lift web1\n\nVM:   web1\nHost: dom0-a\n\nReleased (2)\n  a\n  b\n"
    )
    assert page.partition('sans-serif">\n')[2] == (
        "<p>web1 was blocked.</p>\n<p>To release it: xenbw lift web1</p>\n"
        '<table cellpadding="3">\n<tr><td>VM<td>web1\n<tr><td>Host<td>dom0-a\n</table>\n'
        "<p>Released (2)</p>\n<ul>\n<li>a\n<li>b\n</ul>\n</body></html>\n"
    )


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "a</td><b>", '" onload="x', "&lt;b&gt;", "\U0001f600 é", "<!--", "]]>"]
)
def test_a_name_is_text_and_never_markup(name: str) -> None:
    plain = Page("web1 was blocked.\n\nVM:   web1\nHost: dom0-a\n\n  web1\n")
    page = Page(f"{name} was blocked.\n\nVM:   {name}\nHost: dom0-a\n\n  {name}\n")
    assert page.tags == plain.tags
    assert page.text.count(name) == 3


def test_special_letters_are_written_as_the_html_module_writes_them() -> None:
    letters = "<>&\"'/=`"
    assert escape(letters) in html_of(letters)
