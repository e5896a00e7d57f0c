"""The report's page in a real browser without a network: on a desktop and on a phone."""

import json
import re
import shutil
import subprocess

import pytest

from hpctrain.report import html, plots, table
from hpctrain.report.axis import axis

PROBE = """
<script>addEventListener('load', function () {
  var buttons = document.querySelectorAll('th button'), table = document.querySelector('table');
  buttons[1].click();
  var first = table.tBodies[0].rows[0].cells[0].textContent;
  buttons[1].click();
  var pictures = Array.from(document.images);
  var facts = {
    width: innerWidth, scroll: document.documentElement.scrollWidth,
    sorted: [first, table.tBodies[0].rows[0].cells[0].textContent],
    pictures: pictures.length, broken: pictures.filter(function (i) { return !i.naturalWidth }).length,
    alts: pictures.filter(function (i) { return !i.alt }).length, font: getComputedStyle(document.body).fontSize,
    links: Array.from(document.querySelectorAll('nav a')).filter(function (a) {
      return !document.querySelector(a.hash) }).length,
    loaded: performance.getEntriesByType('resource').filter(function (e) {
      return !e.name.startsWith('data:') }).length
  };
  document.title = 'PROBE' + JSON.stringify(facts);
})</script>
"""


@pytest.fixture(scope="module")
def page():
    values = [0.5, 0.9, 0.7, 0.8]
    params = {
        "optimizer.lr": [0.001, 0.01, 0.1, 1.0],
        "a_setting.with.a_long_name": ["one", "two", "one", "two"],
    }
    axes = {key: axis(given) for key, given in params.items()}
    found = plots.scores("accuracy", values, True)
    curves = [[(1.0, v / 2), (2.0, v)] for v in values]
    blocks = [
        html.Facts([("best accuracy", "0.9 ± 0.01"), ("epochs", "20")]),
        html.Text("Some text that says what was found, long enough to be broken into several lines on a phone."),
        html.Code("hpctrain submit " + " ".join(f"some.setting.number_{n}=0.123456789" for n in range(9))),
        html.Table([
            table.texts("run", [f"run{n}" for n in range(4)]), table.figures("accuracy", values),
            *(table.texts(f"column {n}", ["cell"] * 4) for n in range(12)),
        ], frozenset({1})),
        html.Picture(plots.learning_curves(curves, found, {1}, "curves"), "curves"),
        html.Picture(plots.parallel_coordinates(axes, found, "all"), "coordinates"),
        html.Picture(plots.bars({"optimizer.lr": 0.8, "seed": 0.2}, "what matters", "importance"), "bars", "a caption"),
        html.Grid([html.Picture(plots.slice_of(k, v, found), k, wide=False) for k, v in axes.items()]),
    ]  # fmt: skip
    return html.page("Study x", "four runs", [html.Section("Result", blocks), html.Section("Empty", [])])


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page, tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser, "needs Chromium: slurm/bootstrap --with-slurm installs it"
    file = tmp_path / "page.html"
    # A frame of the phone's width: a browser's own window may not be that narrow.
    file.write_text(page.replace("</body>", PROBE + "</body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe src="page.html" style="width:{width}px;height:2000px;border:0" onload="setTimeout(function(){{'
        "document.title=frames[0].document.title},200)\"></iframe>"
    )  # fmt: skip
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--virtual-time-budget=5000", "--window-size=1400,2000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<title>PROBE(.*?)</title>", done.stdout)
    assert found, f"{done.stdout[-500:]}\n{done.stderr[-1500:]}"
    facts = json.loads(found[1])
    assert facts["width"] == width
    assert facts["scroll"] <= width, "the page itself never scrolls sideways"
    assert (facts["pictures"], facts["broken"], facts["alts"]) == (5, 0, 0)
    assert facts["sorted"] == ["run0", "run1"], "smallest first, then largest first"
    assert (facts["links"], facts["loaded"]) == (0, 0)
    assert float(facts["font"].removesuffix("px")) >= 15
