"""The report as a browser shows and prints it."""

import base64
import re
import shutil

import pytest

from tests.support.reports import small_page

pytestmark = pytest.mark.requires("browser")

PHONE, DESK = (400, 900), (1600, 1000)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(small_page(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(params=[PHONE, DESK], ids=["phone", "desk"])
def shown(browser, report, request):
    """The browser with the report open in a window of some width."""
    width, height = request.param
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get(report.as_uri())
    return browser


def test_pictures_and_tables_are_shown_without_an_error(shown):
    pictures = shown.execute_script("return [...document.images].map(i => [i.naturalWidth, i.clientWidth])")
    assert len(pictures) > 12
    assert all(natural > 200 and client > 200 for natural, client in pictures)
    rows = shown.execute_script("return [...document.querySelectorAll('table')].map(t => t.rows.length)")
    assert len(rows) > 8
    assert min(rows) >= 2
    assert shown.get_log("browser") == []


def test_the_page_is_no_wider_than_its_window(shown):
    width, window = shown.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width <= window


def test_links_lead_somewhere_and_sections_open_from_the_keyboard(shown):
    lost = "return [...document.links].filter(a => !document.querySelector(a.getAttribute('href'))).length"
    assert shown.execute_script(lost) == 0
    closed = shown.find_element("css selector", "details:not([open]) > summary")
    closed.send_keys("\ue007")
    assert shown.execute_script("return arguments[0].parentElement.open", closed)


def test_words_stand_out_from_their_background(shown):
    assert min(shown.execute_script(CONTRASTS)) >= 4.5


def test_it_prints_on_several_pages_with_what_is_folded(shown):
    printed = base64.b64decode(shown.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 6
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        folded = (
            "return [...document.querySelectorAll('details table')].filter(t => !t.checkVisibility()).length"
        )
        hidden = "return [...document.querySelectorAll('details table')].filter(t => !t.offsetHeight).length"
        assert shown.execute_script(folded) == shown.execute_script(hidden) == 0
    finally:
        shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


CONTRASTS = """
const channel = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = c => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number);
  return .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b); };
const behind = e => { for (; e; e = e.parentElement) {
  const c = getComputedStyle(e).backgroundColor;
  if (!/^rgba.*, 0\\)$/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
return [...document.querySelectorAll('p, td, th, li, a, span, summary, figcaption, caption, h1, h2, h3')].map(e => {
  const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
  return (a + .05) / (b + .05); });
"""
