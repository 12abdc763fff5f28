"""The page in a real browser, headless Chromium: no errors, no network, filters filter, audio plays.

Needs Playwright's Python package (the extra [dev]) and a Chromium: Debian's (`apt-get install
chromium`, which tests/run.sh does where it may), Google's Chrome, or Playwright's own (`playwright
install chromium`). Without, it skips. Set SPEECHSSL_SCREENSHOTS=DIR to keep what it saw.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import page_experiment as made
import pytest

from speechssl.report.page.material import PageSettings
from speechssl.report.page.write import write_page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
"""The browser that is installed; None: Playwright's own, if that is."""

PLAYWRIGHTS = Path(
    os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache" / "ms-playwright")
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None and not list(PLAYWRIGHTS.glob("chromium*")),
        reason="no Chromium (apt-get install chromium, or playwright install chromium)",
    ),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    names = made.ids()
    names[0] = "<script>alert(1)</script>"
    names[1] = "\u202e</script><img/src=x/onerror=alert(2)>"
    exp = made.experiment(root / "exp", names)
    made.run(exp, "<b>third</b>", "collapse alarm: <img src=x onerror=alert(3)>")
    out = root / "page.html"
    chosen = PageSettings(map_method="pca", clips=10)
    write_page([exp], out, data=[made.data(root, names)], chosen=chosen)
    return out


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as library:
        chromium = library.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(params=[(1400, "light"), (400, "dark")], ids=str)
def tab(request, browser, page_file):
    """A tab that has drawn everything; afterwards: nothing was complained of, or asked for."""
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    tab = context.new_page()
    problems = []
    tab.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    tab.on("request", lambda asked: problems.append(asked.url) if "://" in asked.url[:8] else None)
    tab.goto(page_file.as_uri())
    tab.wait_for_selector("html[data-ready=true]", timeout=60_000)
    tab.width = width
    yield tab
    context.close()
    assert [one for one in problems if one != page_file.as_uri()] == []


def plays(tab) -> bool:
    """Whether the player's time moves (the page's policy forbids Playwright's own waiting: eval)."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if tab.evaluate("document.querySelector('#audio').currentTime") > 0.05:
            return True
        tab.wait_for_timeout(50)
    return False


def screenshot(tab, name: str) -> None:
    folder = os.environ.get("SPEECHSSL_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=Path(folder, f"{name}-{tab.width}.png"), full_page=True)


def test_it_draws_everything_and_fits(tab):
    charts = tab.locator(".plot").count()
    assert charts >= 10 and tab.locator(".plot .main-svg").count() >= charts
    assert tab.evaluate("document.documentElement.scrollWidth") <= tab.width
    screenshot(tab, "page")


def test_systems_are_hidden_in_tables_and_charts(tab):
    rows = tab.locator("#errors tr[data-system=untrained]")
    names = "e => e.data.map(trace => trace.meta)"
    plot = tab.locator("#errors .plot").first
    assert rows.first.is_visible() and "untrained" in plot.evaluate(names)
    tab.locator("#filter summary").click()
    tab.locator("#filter input[value=untrained]").uncheck()
    assert not rows.first.is_visible() and plot.evaluate(names) == ["trained"]
    tab.locator("#filter button[data-all=true]").click()
    assert rows.first.is_visible() and set(plot.evaluate(names)) == {"trained", "untrained"}


def test_the_map_is_filtered_and_coloured(tab):
    figure = tab.locator("figure.map")
    count = figure.locator(".count")
    points = "e => e.data.reduce((sum, trace) => sum + trace.x.length, 0)"
    assert count.inner_text() == "30 of 30 points"
    figure.locator(".search").fill("s3-")
    assert count.inner_text() == "5 of 30 points"
    assert figure.locator(".plot").evaluate(points) == 5
    figure.locator(".search").fill("")
    figure.locator(".field").select_option("emotion")
    assert figure.locator(".plot").evaluate("e => e.data.map(t => t.name).sort()") == [
        "angry",
        "calm",
    ]
    figure.locator(".only").select_option(label="calm")
    assert figure.locator(".plot").evaluate(points) == 15


def test_audio_plays_from_the_keyboard_and_from_the_map(tab):
    button = tab.locator("#worst_trials button[data-play]").first
    button.focus()
    tab.keyboard.press("Enter")
    assert plays(tab)
    name = button.get_attribute("data-name")
    assert tab.locator("#playing").inner_text() == name
    tab.keyboard.press("Escape")
    assert not tab.locator("#player").is_visible()
    heard = tab.evaluate(
        """() => {
            const plot = document.querySelector("figure.map .plot");
            const sizes = plot.data[0].marker.size;
            const i = sizes.findIndex((size) => size > 7);
            plot.emit("plotly_click", { points: [{ customdata: plot.data[0].customdata[i] }] });
            return document.querySelector("#playing").textContent;
        }"""
    )
    assert plays(tab)
    assert heard and tab.locator("#player").is_visible()


def test_text_has_contrast(tab):
    """WCAG 2.2, 1.4.3: at least 4.5 to 1 for text and for what is less important in it."""
    ratios = tab.evaluate(
        """() => {
            const style = getComputedStyle(document.documentElement);
            const light = (name) => {
                const hex = style.getPropertyValue(name).trim().slice(1);
                const parts = [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
                const linear = parts.map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
                return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
            };
            const ratio = (a, b) => {
                const [high, low] = [light(a), light(b)].sort((x, y) => y - x);
                return (high + 0.05) / (low + 0.05);
            };
            return [["--ink", "--page"], ["--faint", "--page"], ["--link", "--page"],
                    ["--ink", "--panel"], ["--ink", "--warn"], ["--ink", "--chosen"]]
                .map(([a, b]) => [a, b, ratio(a, b)]);
        }"""
    )
    assert all(ratio >= 4.5 for _, _, ratio in ratios), ratios


def test_everything_that_can_be_used_has_a_name_and_every_picture_a_text(tab):
    nameless = tab.evaluate(
        """() => [...document.querySelectorAll("button, select, input, summary, a[href]")]
            .filter((e) => !e.closest(".modebar") && !e.textContent.trim()
                && !(e.labels && e.labels.length) && !e.ariaLabel
                && getComputedStyle(e).display !== "none" && e.offsetParent !== null)
            .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert nameless == []
    assert tab.locator("img:not([alt])").count() == 0


def test_it_prints(tab, tmp_path):
    tab.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000


def test_many_names_leave_a_telephone_its_curves(browser, tmp_path):
    for place in range(8):
        system = f"a system with quite a long name {place}"
        made.evaluate(tmp_path / "exp", system, made.ids(), made.embeddings(0.3 * place, place))
    write_page([tmp_path / "exp"], tmp_path / "page.html", chosen=PageSettings(map_method="pca"))
    context = browser.new_context(viewport={"width": 400, "height": 900})
    tab = context.new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    tab.wait_for_selector("html[data-ready=true]", timeout=60_000)
    figure = tab.locator("#det figure.chart")
    box = figure.locator(".plot .bglayer").bounding_box() or figure.locator(".xy").bounding_box()
    assert box["width"] > 250 and box["height"] > 250
    names = figure.locator(".legend li").all_inner_texts()
    assert names == [f"a system with quite a long name {place}" for place in range(8)]
    figure.locator("summary").click()
    figure.locator("th").first.wait_for(state="attached")
    assert figure.locator("th").all_inner_texts()[1:] == [
        "false positives (%)",
        "false negatives (%)",
    ]
    cells = figure.locator("td").all_inner_texts()
    assert all(0 <= float(cell) <= 100 for place, cell in enumerate(cells) if place % 3)
    context.close()


def test_a_menu_shows_what_it_says_where_names_are_whole_numbers(browser, tmp_path):
    for place, system in enumerate(("16", "8")):
        names = made.ids(f"{system}-")
        made.evaluate(tmp_path / "exp", system, names, made.embeddings(0.3, place))
    write_page([tmp_path / "exp"], tmp_path / "page.html", chosen=PageSettings(map_method="pca"))
    tab = browser.new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    tab.wait_for_selector("html[data-ready=true]", timeout=60_000)
    figure = tab.locator("figure.map")
    for system in ("16", "8"):
        figure.locator(".which").select_option(label=system)
        assert f"<b>{system}-" in figure.locator(".plot").evaluate("e => e.data[0].text[0]")
    tab.close()
