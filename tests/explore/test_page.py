"""The served page: by plain HTTP requests, and in a real browser (as tests/reporting/test_browser.py)."""

import http.client
import json
import os
import re
import shutil
import socket
import sys
import time
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

from vdu.core.errors import InputError
from vdu.explore.app import ExploreSettings, serve
from vdu.explore.html import data_uri
from vdu.explore.open_run import open_run
from vdu.explore.page import Page
from vdu.explore.tradeoff import known_curve
from vdu.reporting.render import answers

CHROMIUM = os.environ.get("VDU_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1280,1400",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]  # fmt: skip


def test_two_runs_are_told_apart_and_warned_of_where_they_differ(opened, run_copy, edit_json):
    edit_json(run_copy / "metrics.json", "protocol", "sampler_steps", value=5)
    page = Page([opened, open_run(run_copy)])
    assert page.titles[0] != page.titles[1] and page.titles[1].endswith(f"in {run_copy.parent.resolve()}")
    assert "Not comparable: sampler differs" in page.unlike() and Page([opened]).unlike() == ""
    edit_json(run_copy / "metrics.json", "protocol", "original_configuration_sha256", value="ff" * 32)
    assert "Not comparable: configuration of the original model differs" in page.unlike()


def test_runs_of_few_checkpoints_have_no_curve(opened):
    assert list(Page([opened]).curves) == [opened.title]
    assert Page([opened]).missing().startswith("Measure 2 checkpoints")
    few = Page([replace(opened, checkpoints=opened.checkpoints[1:])])
    assert few.curves == {} and few.missing() == ""


def test_pages_of_pairs_cover_all_of_them_once(opened, monkeypatch):
    monkeypatch.setattr("vdu.explore.page.PAIRS_PER_PAGE", 32)
    seen = []
    for number in (1, 2):
        count, html, pages = Page([opened]).pairs(0, "all", -1, -1, 100, number)
        seen += re.findall(r'data-seed="(\d+)"', html)
        assert pages == 2 and "of 60 pairs" in count
    assert sorted(seen) == sorted(str(seed) for seed in opened.data.original.seeds)


def test_it_begins_with_a_pair_whose_result_is_not_covered(opened):
    data = opened.data
    classes = np.full(len(data.original.seeds), 8), np.array([8, 8, 3, *[8] * (len(data.original.seeds) - 3)])
    sides = (replace(side, judge_class=c) for side, c in zip((data.original, data.unlearned), classes, strict=True))
    inputs = data.run["inputs"] | {"forget": data.run["inputs"]["forget"] | {"source": "/home/me/unwanted"}}
    names = dict(zip(("original", "unlearned"), sides, strict=True))
    private = replace(data, run=data.run | {"inputs": inputs}, **names)
    assert Page([replace(opened, data=private)]).first_seed(0) == str(int(data.original.seeds[2]))
    gone = replace(private, unlearned=replace(private.unlearned, judge_class=classes[0]))
    assert Page([replace(opened, data=gone)]).first_seed(0) == str(int(data.original.seeds[0]))


def test_a_new_noise_is_drawn_under_the_chosen_label_and_says_so(opened, monkeypatch):
    given = []
    monkeypatch.setattr(
        "vdu.explore.page.side_by_side", lambda *asked: given.append(asked[-1]) or (each for each in ())
    )
    words = {"kind": "labels", "asked": ["three", "eight"], "sets": []}
    page = Page([replace(opened, data=replace(opened.data, metrics=opened.data.metrics | {"words": words}))])
    seed = str(max(opened.data.original.seeds) + 1)
    for number, name in ((-1, "three"), (0, "three"), (1, "eight")):
        _, html, _ = page.choose(0, seed, number)
        assert list(page.film(0, seed, number)) == [] and given[-1] == name
        assert re.findall(r'<span class="vdu-asked">(.*?)</span>', html) == [name]


def test_the_answers_are_the_reports(opened, run_copy):
    html = Page([opened]).answers(0)
    assert all(found.title in unescape(html) for found in answers(opened.data).values()) and "href" not in html
    (run_copy / "report.html").touch()
    assert 'href="report/0"' in Page([open_run(run_copy)]).answers(0)


@pytest.fixture(scope="module")
def server(hostile_run):
    pytest.importorskip("gradio", reason="no Gradio: pip install '.[explore]'")
    demo = serve(ExploreSettings(runs=(hostile_run,)))
    yield demo
    demo.close(verbose=False)


def ask(server, path, method="GET", host=None, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body=body, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_it_listens_on_this_machine_alone(server):
    assert server.local_url.startswith("http://127.0.0.1:") and server.share_url is None
    assert server.server.config.host == "127.0.0.1"


def test_the_page_names_no_other_server(server):
    status, body = ask(server, "/")
    assert status == 200 and b"fonts.googleapis.com" not in body and b"cdnjs" not in body
    assert b"</script><script>document.title" not in body
    config = json.loads(ask(server, "/config")[1])
    assert config["analytics_enabled"] is False and config["stylesheets"] == []
    assert not any(entry["api_visibility"] == "public" for entry in config["dependencies"])


def test_the_report_is_served_when_it_exists(server, hostile_run):
    assert ask(server, "/report/0")[0] == 404 == ask(server, "/report/1")[0]
    (hostile_run / "report.html").write_text("<p>the report", "utf-8")
    assert ask(server, "/report/0") == (200, b"<p>the report")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=RUN/metrics.json", "/gradio_api/proxy=http://example.com/",
        "/static/../../../../etc/passwd", "/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/report/../metrics.json", "/docs",
    ],
)  # fmt: skip
def test_no_file_can_be_fetched(server, hostile_run, path):
    status, body = ask(server, path.replace("RUN", str(hostile_run)))
    assert status in {403, 404} and b"root:" not in body and b"format_version" not in body


def test_nothing_can_be_uploaded_and_other_host_names_are_refused(server):
    assert ask(server, "/gradio_api/upload", "POST", body=b"x")[0] == 404
    assert ask(server, "/gradio_api/run/denoise", "POST", body=b"{}")[0] == 404
    assert ask(server, "/", host="evil.example")[0] == 421
    assert ask(server, "/", host=f"localhost:{server.server_port}")[0] == 200


def test_a_taken_port_is_told(finished_run):
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="Give another --port"):
            serve(ExploreSettings(runs=(finished_run,), port=port))


def test_a_missing_gradio_says_how_to_install_it(finished_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"pip install '\.\[explore\]' in the clone"):
        serve(ExploreSettings(runs=(finished_run,)))


def test_no_run_is_refused():
    with pytest.raises(InputError, match="got no run"):
        serve(ExploreSettings())


@pytest.fixture(scope="module")
def browser(server, tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install selenium")
    driver_path = shutil.which("chromedriver")
    if not CHROMIUM or not driver_path:
        pytest.skip("no Chromium with chromedriver: install them or set VDU_CHROMIUM")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    driver.get(server.local_url)
    wait(lambda: find(driver, ".vdu-status[data-done=yes]"))
    yield driver
    driver.quit()


def find(browser, selector):
    return browser.find_element("css selector", selector)


def wait(condition, seconds=60):
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except WebDriverException:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, "the page did not come to that"
        time.sleep(0.05)


def tab(browser, name):
    wait(lambda: [each for each in browser.find_elements("css selector", "button[role=tab]") if each.text == name])[
        0
    ].click()


def pairs(browser):
    return browser.find_elements("css selector", ".vdu-pair")


def seed_shown(browser):
    return find(browser, "[data-shown]").get_attribute("data-shown")


def test_it_opens_on_the_forget_class_and_what_is_still_of_it(browser, hostile_run):
    data = open_run(hostile_run).data
    was, now = data.original.judge_class == 8, data.unlearned.judge_class == 8
    places = [data.original.seeds.tolist().index(int(pair.get_attribute("data-seed"))) for pair in pairs(browser)]
    assert places == [*np.flatnonzero(was & now), *np.flatnonzero(was & ~now)]
    assert int(seed_shown(browser)) == data.original.seeds[places[0]]


def test_a_click_shows_the_stored_pair_and_its_film(browser, hostile_run):
    data = open_run(hostile_run).data
    pair = pairs(browser)[-1]
    seed = pair.get_attribute("data-seed")
    pair.click()
    wait(lambda: find(browser, f".vdu-status[data-film='{seed}'][data-done=yes]").is_displayed())
    place = data.original.seeds.tolist().index(int(seed))
    shown = [each.get_attribute("src") for each in browser.find_elements("css selector", ".vdu-big")]
    assert shown == [data_uri(data.original.images[place]), data_uri(data.unlearned.images[place])]
    assert len(browser.find_elements("css selector", ".vdu-clean")) == 2 * 5
    rendering = browser.execute_script("return getComputedStyle(document.querySelector('.vdu-big')).imageRendering")
    assert rendering == "pixelated"


def test_quick_arrow_keys_end_at_the_pair_they_name_with_its_own_film(browser):
    from selenium.webdriver.common.keys import Keys

    seeds = [pair.get_attribute("data-seed") for pair in pairs(browser)]
    for _ in range(4):
        find(browser, "body").send_keys(Keys.ARROW_LEFT)
    wait(lambda: seed_shown(browser) == seeds[-5])
    wait(lambda: find(browser, f".vdu-status[data-film='{seeds[-5]}'][data-done=yes]").is_displayed())


def test_a_filter_changes_the_pairs(browser, hostile_run):
    wait(
        lambda: [each for each in browser.find_elements("css selector", "#vdu-which label") if "all (60)" in each.text]
    )[0].click()
    wait(lambda: len(pairs(browser)) == 60)


def test_the_checkpoints_are_measured_and_walked(browser, monkeypatch):
    def measure(run):  # the real one is tested without a browser
        curve = known_curve(run)
        for each in curve.missing:
            curve = replace(curve, points={**curve.points, each.name: curve.points["final"]})
            yield curve

    monkeypatch.setattr("vdu.explore.page.measure_checkpoints", measure)
    tab(browser, "Checkpoints")
    wait(lambda: find(browser, "#vdu-measure").is_displayed())
    find(browser, "#vdu-measure").click()
    wait(lambda: not [each for each in browser.find_elements("css selector", "#vdu-measure") if each.is_displayed()])
    assert len(browser.find_elements("css selector", ".vdu-dot")) == 4
    next(each for each in browser.find_elements("css selector", "#vdu-step label") if each.text == "2").click()
    wait(lambda: find(browser, ".vdu-now").get_attribute("data-checkpoint") == "checkpoint-2")


def test_the_console_is_silent_and_nothing_was_fetched_elsewhere(browser, server):
    asked = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    web = {url for url in asked if url.startswith(("http", "ws", "//"))}
    assert len(web) > 10 and {url for url in web if not url.startswith(server.local_url)} == set()
    assert browser.get_log("browser") == []
    assert re.fullmatch(
        r"run · ascent · [0-9-]{10} · vdu explore", browser.title
    )  # no name of a class has run as a script
