"""The page of a report in a real browser: no error, no network, no overflow, light and dark, sorting and CSV."""

from __future__ import annotations

import csv
import json
import time

import pytest
from _browser import opened
from _folders import SEARCH, succeed

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(home, model, tmp_path_factory):
    """The report of one search and two checkpoints, with figures of quality."""
    folder = tmp_path_factory.mktemp("report")
    succeed("search", *model, *SEARCH, "--out", folder / "run")
    both = ("--sparsity", "60%", "--sparsity", "2:4")
    succeed("project", home / "model", folder / "run", *both, "--out", folder / "out")
    rows = [
        {"method": "dense", "sparsity": "", "pruned": 0.0, "perplexity": 40.0, "low": 39.0, "high": 41.0},
        {"method": "wanda", "sparsity": "50%/row", "pruned": 0.5, "perplexity": 44.0, "low": 43.0, "high": 46.0},
        {"method": "wanda", "sparsity": "60%/row", "pruned": 0.6, "perplexity": 60.0, "low": 57.0, "high": 66.0},
    ]
    (folder / "results.json").write_text(json.dumps({"eval_text": "text", "rows": rows}))
    page = folder / "report.html"
    succeed("report", folder / "run", folder / "out", "--results", folder / "results.json", "--out", page)
    return page


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads):
    with opened(downloads) as browser:
        yield browser


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1920])
def test_the_page_opens_without_an_error_a_request_or_an_overflow(browser, page, width, dark):
    browser.show(page, width=width, dark=dark)
    assert browser.console() == []
    requests = browser.requests()
    assert requests[0] == page.as_uri()
    assert set(requests[1:]) <= {"data:,"}
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.documentElement.clientWidth") == width
    # what is wider than the window is inside something that scrolls
    wide = "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && "
    wide += "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    assert browser.run(wide) == []


def luminance(browser, selector, name):
    parts = browser.run(f"getComputedStyle(document.querySelector('{selector}')).{name}.match(/[0-9.]+/g).map(Number)")
    linear = [(part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4) for part in parts[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_letters_stand_out_from_the_paper(browser, page, dark):
    browser.show(page, dark=dark)
    paper = luminance(browser, "body", "backgroundColor")
    assert (paper < 0.1) == dark
    for selector, name, least in [
        ("main p", "color", 7),
        ("figcaption", "color", 4.5),
        ("nav a", "color", 4.5),
        (".f-ink", "fill", 7),
        (".f-muted", "fill", 4.5),
        (".f-c0", "fill", 3),
        (".f-c1", "fill", 3),
    ]:
        inks = luminance(browser, selector, name)
        contrast = (max(paper, inks) + 0.05) / (min(paper, inks) + 0.05)
        assert contrast >= least, (selector, contrast)


def test_the_button_turns_the_colours_whatever_the_system_says(browser, page):
    browser.show(page, dark=True)
    seen = []
    for _ in range(3):
        text = browser.run("document.getElementById('theme').textContent")
        seen.append((text, luminance(browser, "body", "backgroundColor") < 0.1))
        browser.click("#theme")
    assert seen == [("Colours: as the system", True), ("Colours: light", False), ("Colours: dark", True)]


def test_a_column_of_numbers_is_sorted_by_value_and_back(browser, page):
    browser.show(page)
    table = "#matrices details:last-child"
    assert browser.run(f"document.querySelector('{table} summary').textContent") == "Matrices of out/60"
    browser.click(f"{table} summary")
    names = browser.run(f"[...document.querySelectorAll('{table} th')].map(head => head.textContent)")
    column = names.index("pruned") + 1

    def values():
        texts = browser.run(f"[...document.querySelectorAll('{table} td:nth-child({column})')].map(d => d.textContent)")
        return [float(text.removesuffix(" %")) for text in texts]

    def sort():
        browser.click(f"{table} th:nth-child({column}) button")
        return browser.run(f"document.querySelector('{table} th:nth-child({column})').ariaSort")

    before = values()
    assert sort() == "ascending"
    assert values() == sorted(before) != before
    assert sort() == "descending"
    assert values() == sorted(before, reverse=True)
    assert browser.console() == []


def test_a_table_is_downloaded_as_csv(browser, page, downloads):
    browser.show(page)
    browser.click("#overview button.csv")
    file = downloads / "checkpoints.csv"
    ends = time.monotonic() + 20
    while not file.exists() and time.monotonic() < ends:
        time.sleep(0.05)
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["checkpoint"] for row in rows] == ["out/2-4", "out/60"]
    assert [row["pruned"] for row in rows] == ["50.00 %", "60.00 %"]
    assert all(url.startswith(("file:", "data:", "blob:")) for url in browser.requests())
