"""A page as its reader gets it: what stands where, that all text is escaped, and how numbers are written."""

import base64
from html.parser import HTMLParser

import pytest

from hpctrain.report.html import Code, Facts, Grid, Picture, Section, Table, Text, number, page

EVIL = """<b>&"'"""
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
            Picture(b"png", EVIL, EVIL),
            f'<figure><img class=wide-img alt="{SAFE}" src="data:image/png;base64,cG5n">'
            f"<figcaption>{SAFE}</figcaption></figure>",
        ),
        (
            Picture(b"png", "small", wide=False),
            '<figure><img alt="small" src="data:image/png;base64,cG5n"></figure>',
        ),
        (
            Grid([Picture(b"1", "a", wide=False), Picture(b"2", "b", wide=False)]),
            '<div class=grid><figure><img alt="a" src="data:image/png;base64,MQ=="></figure>'
            '<figure><img alt="b" src="data:image/png;base64,Mg=="></figure></div>',
        ),
        (
            Table(("run", EVIL), [("a", 1), (EVIL, 0.123456)], frozenset({1})),
            "<div class='wide'><table><thead><tr>"
            f"<th scope='col'><button>run</button></th><th scope='col'><button>{SAFE}</button></th>"
            "</tr></thead><tbody>"
            '<tr><td>a</td><td class=n data-v="1">1</td></tr>'
            f'<tr class=marked><td>{SAFE}</td><td class=n data-v="0.123456">0.1235</td></tr>'
            "</tbody></table></div>",
        ),
        # Truth and absence are words, not numbers to sort by.
        (
            Table(("a", "b"), [(True, None)]),
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


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (12345678, "12345678"),
        ("0.123456", "0.123456"),
        (0.123456, "0.1235"),
        (12345.6, "12,346"),
        (1234.56, "1,235"),
        (1.0, "1"),
        (-999999.0, "-999,999"),
        (1e6, "1,000,000"),
        (-1234567.0, "-1,234,567"),
        (1.2346e-7, "1.235e-07"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value, expected):
    assert number(value) == expected


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
        Text(EVIL), Facts([("a", EVIL)]), Table((EVIL,), [(EVIL,)], frozenset({0})),
        Grid([Picture(b"png", EVIL, EVIL)]),
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
