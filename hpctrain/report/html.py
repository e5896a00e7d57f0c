"""One self-contained HTML page, readable without a network on a desktop or a phone.

Takes sections of blocks (text, code, facts, tables, pictures as PNG bytes); returns the page as text. All text is
escaped. Pure.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from hpctrain.report.canvas import DPI
from hpctrain.report.table import Column


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """A line to copy."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Named figures, the most important first."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table whose column headers sort it on a click. `marked`: indices of rows to mark."""

    columns: Sequence[Column]
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A picture by report/canvas.py, shown in its own size. If `wide`, a narrow window scrolls it sideways."""

    png: bytes
    alt: str
    caption: str = ""
    wide: bool = True


@dataclass(frozen=True)
class Grid:
    """Small pictures side by side, as many as fit."""

    pictures: Sequence[Picture]


Block = Text | Code | Facts | Table | Picture | Grid


@dataclass(frozen=True)
class Section:
    """A titled list of blocks."""

    title: str
    blocks: Sequence[Block]


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Returns the whole page. Sections without blocks are left out."""
    shown = [s for s in sections if s.blocks]
    links = "".join(f'<a href="#s{n}">{_safe(s.title)}</a>' for n, s in enumerate(shown))
    body = "".join(
        f'<section id="s{n}"><h2>{_safe(s.title)}</h2>{"".join(map(_block, s.blocks))}</section>'
        for n, s in enumerate(shown)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_safe(title)}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{_safe(title)}</h1><p>{_safe(subtitle)}</p><nav>{links}</nav></header>"
        f"<main>{body}</main><script>{_SCRIPT}</script></body></html>\n"
    )


def _block(block: Block) -> str:
    match block:
        case Text():
            return f"<p>{_safe(block.text)}</p>"
        case Code():
            return f"<pre><code>{_safe(block.text)}</code></pre>"
        case Facts():
            return f"<dl>{''.join(f'<div><dt>{_safe(k)}</dt><dd>{_safe(v)}</dd></div>' for k, v in block.items)}</dl>"
        case Picture():
            data = base64.b64encode(block.png).decode()
            caption = f"<figcaption>{_safe(block.caption)}</figcaption>" if block.caption else ""
            kind = " class=wide-img" if block.wide else ""
            size = f"style='width:{_width(block.png)}px'"
            image = f'<img{kind} {size} alt="{_safe(block.alt)}" src="data:image/png;base64,{data}">'
            return f"<figure>{image}{caption}</figure>"
        case Grid():
            return f"<div class=grid>{''.join(map(_block, block.pictures))}</div>"
        case Table():
            head = "".join(
                f"<th scope='col'{_kind(c)}><button>{_safe(c.head)}</button></th>" for c in block.columns
            )
            count = len(block.columns[0].cells)
            rows = "".join(
                f"<tr{' class=marked' if n in block.marked else ''}>"
                f"{''.join(_cell(c, n) for c in block.columns)}</tr>"
                for n in range(count)
            )
            return (
                f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
            )


def _kind(column: Column) -> str:
    return "" if column.values is None else " class=n"


def _cell(column: Column, row: int) -> str:
    value = None if column.values is None else column.values[row]
    key = "" if value is None else f' data-v="{value}"'
    return f"<td{_kind(column)}{key}>{_safe(column.cells[row])}</td>"


def _width(png: bytes) -> int:
    """Returns the width in CSS pixels, 96 per inch; a PNG says its own width in bytes 16 to 19."""
    return int.from_bytes(png[16:20], "big") * 96 // DPI


def _safe(text: str) -> str:
    return html.escape(str(text))


_STYLE = """
:root{--ink:#1a1d21;--soft:#5c6670;--paper:#fff;--panel:#f5f6f8;--line:#dfe3e8;--accent:#0b63c5;--mark:#e8f3e6}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#a0a8b2;--paper:#15181c;--panel:#1e2228;--line:#333a43;
--accent:#6cb0ff;--mark:#1f3324}figure img{background:#fff;border-radius:4px}}
*{box-sizing:border-box}body{margin:0;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
header,main{max-width:70rem;margin:0 auto;padding:1rem}h1{margin:.2em 0 0;font-size:1.6rem;overflow-wrap:anywhere}
header p{margin:.2em 0;color:var(--soft)}h2{font-size:1.2rem;margin:1.6em 0 .6em;border-bottom:1px solid var(--line)}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem}a{color:var(--accent)}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.6rem;margin:1em 0}
dl div{background:var(--panel);border-radius:6px;padding:.5rem .8rem}
dt{color:var(--soft);font-size:.85rem;overflow-wrap:anywhere}
dd{margin:0;font-size:1.15rem;font-weight:600;overflow-wrap:anywhere}
pre{background:var(--panel);border-radius:6px;padding:.7rem .9rem;margin:.6em 0;white-space:pre-wrap;
overflow-wrap:anywhere;font-size:.9rem}
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:6px;max-height:34rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}td,th{padding:.3rem .7rem;text-align:left;white-space:pre}
tbody tr:nth-child(even){background:var(--panel)}tbody tr.marked{background:var(--mark)}
tbody tr.marked td:first-child{box-shadow:inset 4px 0 var(--accent)}
thead th{position:sticky;top:0;background:var(--paper);border-bottom:1px solid var(--line)}
th button{font:inherit;font-weight:600;color:inherit;background:none;border:0;padding:0;cursor:pointer}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
figure{margin:1em 0;overflow-x:auto}figure img{max-width:100%;height:auto;display:block}
@media(max-width:44rem){figure img.wide-img{max-width:none}}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(21rem,100%),1fr));gap:0 1rem}
figcaption{color:var(--soft);font-size:.9rem}
"""

_SCRIPT = """
document.querySelectorAll('th button').forEach(function(button){button.onclick=function(){
var th=button.parentNode,i=th.cellIndex,body=th.closest('table').tBodies[0],up=th.dataset.up!=='1';
th.dataset.up=up?'1':'0';
var key=function(r){var c=r.cells[i];return c.dataset.v===undefined?c.textContent:parseFloat(c.dataset.v)};
Array.from(body.rows).sort(function(a,b){var x=key(a),y=key(b);
var d=typeof x===typeof y?(x<y?-1:x>y?1:0):typeof x==='number'?-1:1;return up?d:-d})
.forEach(function(r){body.appendChild(r)})}});
"""
