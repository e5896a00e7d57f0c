"""A page as its reader gets it: what stands where, that all text is escaped, and how numbers are written."""

import base64
import re
from html.parser import HTMLParser

import pytest

from hpctrain.report import table
from hpctrain.report.html import Code, Facts, Grid, Picture, Section, Table, Text, page

EVIL = """<b>&"'"""
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + (400).to_bytes(4, "big")  # 400 dots wide: two inches
DATA = base64.b64encode(PNG).decode()
SAFE = "&lt;b&gt;&amp;&quot;&#x27;"


def body(*blocks):
    """Returns the blocks as they stand on the page."""
    whole = page("", "", [Section("S", blocks)])
    return whole.partition("<h2>S</h2>")[2].partition("</section>")[0]


def test_a_page_has_titles_links_and_sections_in_order():
    whole = page("A <title>", "of & all", [Section("One", [Text("a")]), Section("Two & 3", [Text("b")])])
    head, _, rest = whole.partition("<style>")
    assert head == (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>A &lt;title&gt;</title>"
    )
    assert rest.partition("</style>")[2].partition("<script>")[0] == (
        "</head><body><header><h1>A &lt;title&gt;</h1><p>of &amp; all</p>"
        '<nav><a href="#s0">One</a><a href="#s1">Two &amp; 3</a></nav></header>'
        '<main><section id="s0"><h2>One</h2><p>a</p></section>'
        '<section id="s1"><h2>Two &amp; 3</h2><p>b</p></section></main>'
    )
    assert whole.endswith("</script></body></html>\n")


def test_sections_without_blocks_are_left_out_and_not_counted():
    whole = page("", "", [Section("Empty", []), Section("One", [Text("a")])])
    assert "Empty" not in whole
    assert '<a href="#s0">One</a>' in whole
    assert '<section id="s0"><h2>One</h2>' in whole


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (Text(EVIL), f"<p>{SAFE}</p>"),
        (Code(EVIL), f"<pre><code>{SAFE}</code></pre>"),
        (
            Facts([("loss", "0.1"), (EVIL, EVIL)]),
            f"<dl><div><dt>loss</dt><dd>0.1</dd></div><div><dt>{SAFE}</dt><dd>{SAFE}</dd></div></dl>",
        ),
        (
            Picture(PNG, EVIL, EVIL),
            f'<figure><img class=wide-img style=\'width:192px\' alt="{SAFE}" src="data:image/png;base64,{DATA}">'
            f"<figcaption>{SAFE}</figcaption></figure>",
        ),
        (
            Picture(PNG, "small", wide=False),
            f'<figure><img style=\'width:192px\' alt="small" src="data:image/png;base64,{DATA}"></figure>',
        ),
        (
            Grid([Picture(PNG, "a", wide=False), Picture(PNG, "b", wide=False)]),
            "<div class=grid>"
            + "".join(
                f'<figure><img style=\'width:192px\' alt="{name}" src="data:image/png;base64,{DATA}"></figure>'
                for name in "ab"
            )
            + "</div>",
        ),
        # Numbers stand to the right, and so do their heads; what is not known is sorted last.
        (
            Table(
                [table.texts("run", ["a", EVIL, "c"]), table.figures(EVIL, [1.0, 0.123456, None])],
                frozenset({1}),
            ),
            "<div class='wide'><table><thead><tr>"
            f"<th scope='col'><button>run</button></th><th scope='col' class=n><button>{SAFE}</button></th>"
            "</tr></thead><tbody>"
            '<tr><td>a</td><td class=n data-v="1.0">1.0000</td></tr>'
            f'<tr class=marked><td>{SAFE}</td><td class=n data-v="0.123456">0.1235</td></tr>'
            "<tr><td>c</td><td class=n>–</td></tr>"
            "</tbody></table></div>",
        ),
        # Truth and absence are words, not numbers to sort by.
        (
            Table([table.texts("a", [True]), table.texts("b", [None])]),
            "<div class='wide'><table><thead><tr>"
            "<th scope='col'><button>a</button></th><th scope='col'><button>b</button></th>"
            "</tr></thead><tbody><tr><td>True</td><td>–</td></tr></tbody></table></div>",
        ),
    ],
)
def test_blocks(block, expected):
    assert body(block) == expected


def test_blocks_stand_in_order():
    assert body(Text("a"), Code("b"), Text("c")) == "<p>a</p><pre><code>b</code></pre><p>c</p>"


class Reader(HTMLParser):
    """Collects the elements that are open at the end, and every address that is not within the page."""

    def __init__(self):
        super().__init__()
        self.open, self.elsewhere = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.elsewhere += [v for k, v in attrs if k in ("href", "src") and not v.startswith(("#", "data:"))]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_is_whole_and_needs_no_network():
    blocks = [
        Text(EVIL), Facts([("a", EVIL)]), Table([table.texts(EVIL, [EVIL])], frozenset({0})),
        Grid([Picture(PNG, EVIL, EVIL)]),
    ]  # fmt: skip
    reader = Reader()
    reader.feed(page(EVIL, EVIL, [Section(EVIL, blocks)]))
    reader.close()
    assert reader.open == []
    assert reader.elsewhere == []


def test_a_picture_comes_back_byte_by_byte():
    png = bytes(range(256))
    data = body(Picture(png, "")).partition("base64,")[2].partition('"')[0]
    assert base64.b64decode(data) == png


def test_what_is_too_wide_scrolls_and_the_page_does_not():
    style = page("", "", []).partition("<style>")[2].partition("</style>")[0]
    assert ".wide{overflow-x:auto" in style
    assert "figure{margin:1em 0;overflow-x:auto}" in style
    assert re.search(r"@media\(max-width:44rem\)\{figure img.wide-img\{max-width:none\}\}", style)
    assert "td.n,th.n{text-align:right" in style
