"""The page in a real browser: Chromium (VDU_CHROMIUM or on the path); clicks need selenium and chromedriver."""

import os
import re
import shutil
import subprocess

import pytest

from vdu.reporting.render import render_report

CHROMIUM = os.environ.get("VDU_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]  # fmt: skip
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it or set VDU_CHROMIUM")


@pytest.fixture(scope="module")
def page(make_run, tmp_path_factory):
    names = [f"</script><script>document.title = 'broken in {i}'</script>" for i in range(10)]
    return render_report(make_run(tmp_path_factory.mktemp("browser") / "run", n=60, names=names, full=True))


def test_the_script_runs_and_foreign_scripts_do_not(page, tmp_path):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    assert re.search(r'<html[^>]*class="js"', dom)
    assert "<title>Evidence report: &lt;/script&gt;" in dom and "<title>broken" not in dom


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install selenium")
    driver_path = shutil.which("chromedriver")
    if not driver_path:
        pytest.skip("no chromedriver: install it")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    driver.get(page.as_uri())
    yield driver
    driver.quit()


def clip(browser):
    return browser.execute_script("return getComputedStyle(document.querySelector('.img.after')).clipPath")


def test_slider_and_flip_by_keyboard(browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    wipe, flip = browser.find_element(By.ID, "wipe"), browser.find_element(By.ID, "flip")
    assert not wipe.is_displayed() and clip(browser) == "none"
    browser.find_element(By.CSS_SELECTOR, "input[value=side]").send_keys(Keys.ARROW_RIGHT)
    assert wipe.is_displayed() and "50%" in clip(browser)
    wipe.send_keys(Keys.ARROW_RIGHT)
    assert "49%" in clip(browser)
    flip.send_keys(Keys.ENTER)
    assert "100%" in clip(browser) and flip.text == "Show after"
    flip.send_keys(Keys.ENTER)
    assert "100%" not in clip(browser) and flip.text == "Show before"
    browser.find_element(By.CSS_SELECTOR, "input[value=overlay]").send_keys(Keys.ARROW_LEFT)
    assert not wipe.is_displayed() and clip(browser) == "none"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_and_the_console_is_silent(browser, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


def test_the_five_answers_are_on_the_first_screen(browser, page, make_run, tmp_path):
    browser.get(render_report(make_run(tmp_path / "run", n=60, full=True)).as_uri())  # with classes of ordinary names
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    bottoms = browser.execute_script(
        "scrollTo(0, 0); return [...document.querySelectorAll('.answer')].map((e) => e.getBoundingClientRect().bottom)"
    )
    browser.get(page.as_uri())
    assert len(bottoms) == 5 and max(bottoms) <= 900


def test_cells_show_whole_pixels_of_their_own_picture(browser):
    script = """const s = getComputedStyle(document.querySelectorAll('.img.after')[13]);
    return [s.width, s.height, s.backgroundSize, s.backgroundPosition, s.imageRendering]"""
    width, height, size, place, rendering = browser.execute_script(script)
    assert (width, height, rendering) == ("96px", "96px", "pixelated")
    assert size.startswith("1152px ") and place == "-96px -96px"  # cell 13 of 12 columns: second row, second column


def test_it_prints_on_six_pages_with_every_test_open_on_eight_and_shows_no_empty_section(browser, make_run, tmp_path):
    """Relearning is printed open or not; a section whose parts are all folded is left out with its heading."""
    from base64 import b64decode

    browser.get(render_report(make_run(tmp_path / "run", n=200, full=True)).as_uri())
    opened = "document.querySelectorAll('.test:not(#provenance, #cost)').forEach((part) => { part.open = %s; })"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    paper = {"paperWidth": 8.27, "paperHeight": 11.69}
    for each, most in (("false", 6), ("true", 8)):
        browser.execute_script(opened % each)
        shown = browser.execute_script(
            "return ['back', 'inside', 'trust'].map((id) => document.getElementById(id).offsetHeight > 0)"
        )
        assert shown == [True, each == "true", True]
        pdf = b64decode(browser.execute_cdp_cmd("Page.printToPDF", paper)["data"])
        assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= most
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
