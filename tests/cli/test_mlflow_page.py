import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure

from dist_calo.config import TrackingConfig
from dist_calo.tracking.tracker import Tracker
from tests.support.mlflow_store import Server, Store, made_store

pytestmark = pytest.mark.requires("browser")

METRICS = ("generator/total", "discriminator/total", "validation/score")
PICTURE = "pictures/profiles_step000020.png"
SHOWN_WITHIN_S = 90


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("page"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def page(server):
    """Address of the page of a run that was recorded in an SQLite file, which a server then shows."""
    config = TrackingConfig(
        uri=made_store(server.folder),
        experiment="page",
        spool=str(server.folder / "spool"),
        system_metrics=False,
    )
    tracker = Tracker(config)
    tracker.start({"train.seed": 7})
    for step in range(1, 21):
        tracker.metrics(dict.fromkeys(METRICS, 1 / step), step)
    tracker.figure(longitudinal_profile, "pictures/profiles", step=20)
    assert tracker.finish("FINISHED")
    server.start()
    run = Store(config.uri).only_run("page")
    return f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    profile = tmp_path_factory.mktemp("profile")
    arguments = ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000")
    for argument in (*arguments, "--disable-dev-shm-usage", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    driver = Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def longitudinal_profile():
    depth = np.arange(25)
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    axes.step(depth, depth**3 * np.exp(-depth / 2), where="mid")
    axes.set(xlabel="layer", ylabel="energy / GeV")
    return figure


def wait_for(browser, shown, what):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, SHOWN_WITHIN_S, ignored_exceptions=[StaleElementReferenceException])
    wait.until(shown, f"the page does not show {what}")


def text(browser):
    return browser.execute_script("return document.body.innerText")


def test_the_page_of_a_run_shows_its_metrics(browser, page, tmp_path):
    browser.get(page)
    wait_for(browser, lambda b: all(name in text(b) for name in METRICS), "the metrics")
    assert "train.seed" in text(browser)
    assert browser.save_screenshot(str(tmp_path / "metrics.png"))


def test_the_page_of_a_run_shows_its_pictures(browser, page, tmp_path):
    browser.get(f"{page}/artifacts/{PICTURE}")
    loaded = "return [...document.images].some(image => image.naturalWidth > 300 && image.clientWidth > 0)"
    wait_for(browser, lambda b: PICTURE.split("/")[1] in text(b), "the name of the picture")
    wait_for(browser, lambda b: b.execute_script(loaded), "the picture")
    assert browser.save_screenshot(str(tmp_path / "picture.png"))
