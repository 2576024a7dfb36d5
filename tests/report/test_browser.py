"""The page in a real browser: nothing is asked of the network, nothing is complained of, and everything works.

It needs a Chromium, Debian's (`apt-get install chromium`) or Playwright's (`playwright install chromium`).
"""

import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, sync_playwright

from pipeline.report.page import report
from pipeline.results.tables import open_run
from tests.support.reported import random_run
from tests.support.runners import give_up

AXE = files("axe_playwright_python") / "axe.min.js"

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    file = folder / "page.html"
    file.write_text(report(open_run(str(random_run(folder / "run", images=12)))), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as started:
        chromium = shutil.which("chromium") or started.chromium.executable_path
        if not Path(chromium).exists():
            give_up("no Chromium on this machine")
        launched = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


class Opened:
    """The page in a window, with what the browser said of it and what it asked the network for."""

    def __init__(self, browser: Browser, file: Path, width: int, scheme: Literal["light", "dark"]) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda each: self.said.append(f"{each.type}: {each.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda each: self.asked.append(each.url))
        self.page.goto(file.as_uri())
        charts = self.page.locator(".chart").count()
        self.page.wait_for_function(f"document.querySelectorAll('.chart svg.marks').length === {charts}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_all_charts_are_drawn_without_a_word_or_a_request(
    width: int, scheme: Literal["light", "dark"], browser: Browser, page_file: Path
) -> None:
    opened = Opened(browser, page_file, width, scheme)
    assert opened.said == []
    assert [each for each in opened.asked if not each.startswith(("file:", "data:"))] == []
    assert opened.page.locator(".chart").count() > 8
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width, "the page scrolls sideways"
    broken = "[...document.images].filter((each) => !each.complete || !each.naturalWidth).length"
    assert opened.page.evaluate(broken) == 0
    opened.context.close()


def test_a_rate_and_its_interval_stay_on_one_line(browser: Browser, page_file: Path) -> None:
    opened = Opened(browser, page_file, 390, "light")
    lines = """each => { const all = document.createRange(); all.selectNodeContents(each);
      return new Set([...all.getClientRects()].map((box) => box.top)).size; }"""
    rates = opened.page.locator("td:visible", has_text=re.compile(r"\d+/\d+ \d+% \[")).all()
    assert len(rates) > 10
    assert {each.evaluate(lines) for each in rates} == {1}
    opened.context.close()


def test_the_gallery_filters_sorts_and_turns_pages(browser: Browser, page_file: Path) -> None:
    opened = Opened(browser, page_file, 1280, "light")
    page, status = opened.page, opened.page.locator("#gallery-status")
    assert status.inner_text() == "1–24 of 60 pictures"
    page.click("#gallery-after")
    assert status.inner_text() == "25–48 of 60 pictures"
    page.select_option("[name=attack]", "aimed")
    assert status.inner_text() == "1–12 of 12 pictures"
    page.select_option("[name=show]", "fooled")
    fooled = page.locator("#gallery-list li").count()
    assert page.locator("#gallery-list li.fooled").count() == fooled
    page.select_option("[name=show]", "held")
    assert page.locator("#gallery-list li").count() == 12 - fooled
    page.select_option("[name=show]", "any")
    page.select_option("[name=sort]", "l2")
    page.select_option("[name=order]", "down")
    shown = page.locator("#gallery-list li").all_inner_texts()
    lengths = [float(text.partition("L2 ")[2].partition(",")[0]) for text in shown]
    assert lengths == sorted(lengths, reverse=True)
    page.fill("[name=confidence]", "100")
    assert status.inner_text() == "No picture is like that."
    assert opened.said == []
    opened.context.close()


def test_slider_download_and_query(browser: Browser, page_file: Path, tmp_path: Path) -> None:
    opened = Opened(browser, page_file, 1280, "light")
    page = opened.page
    page.locator(".pair input").first.focus()
    page.keyboard.press("Home")
    assert page.locator(".pair").first.evaluate("each => each.style.getPropertyValue('--at')") == "0%"
    with page.expect_download() as download:
        page.locator("a[download]").first.click()
    download.value.save_as(tmp_path / "data.csv")
    assert (tmp_path / "data.csv").read_text().startswith("model,view,successes,of,rate,low,high\n")
    page.locator("summary", has_text="SQL").first.click()
    assert page.locator("pre code").first.is_visible()
    opened.context.close()


def test_it_prints(browser: Browser, page_file: Path, tmp_path: Path) -> None:
    opened = Opened(browser, page_file, 1280, "dark")
    opened.page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    opened.context.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_axe_finds_nothing_serious(
    width: int, scheme: Literal["light", "dark"], browser: Browser, page_file: Path
) -> None:
    opened = Opened(browser, page_file, width, scheme)
    # Over the browser's own channel: the page's policy lets no other script in.
    channel = opened.context.new_cdp_session(opened.page)
    channel.send("Runtime.evaluate", {"expression": AXE.read_text()})
    found = opened.page.evaluate("axe.run()")
    serious = [each["id"] for each in found["violations"] if each["impact"] in ("serious", "critical")]
    assert serious == []
    opened.context.close()
