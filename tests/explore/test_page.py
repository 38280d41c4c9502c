"""The served page: by plain HTTP requests, and in a real browser (as tests/report/test_browser.py)."""

import http.client
import json
import os
import re
import shutil
import socket
import sys
import time
from dataclasses import replace

import pytest

from vdu.core.errors import InputError
from vdu.data.images import to_uint8
from vdu.diffusion.sampling import sample
from vdu.explore.app import ExploreSettings, serve
from vdu.explore.html import data_uri
from vdu.explore.open_run import open_run
from vdu.explore.page import Page

CHROMIUM = os.environ.get("VDU_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1280,1400",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:Fréchet distance:UserWarning")


def test_two_runs_are_told_apart_and_warned_of_where_they_differ(opened, run_copy, edit_json):
    edit_json(run_copy / "metrics.json", "protocol", "seed", value=1)
    page = Page([opened, open_run(run_copy), opened], 12)
    assert page.titles[0] != page.titles[1] and page.titles[1].endswith(f"in {run_copy.parent.resolve()}")
    assert "different seeds: their points are not comparable" in page.comparison()
    assert Page([opened, opened], 12).comparison() == ""


def test_without_checkpoints_the_panel_says_how_to_get_them(opened):
    assert Page([opened], 12).advice(0) == ""
    bare = replace(opened, stops=(opened.stops[0], opened.stops[-1]))
    assert "--checkpointing-steps" in Page([bare], 12).advice(0)


def test_a_checkpoint_is_denoised_by_its_own_weights(opened):
    seed = int(opened.data.original.seeds[4])
    *_, last = Page([opened], 12).denoise(0, str(seed), "checkpoint-2", "expected")
    (image,) = sample(opened.denoiser_at(opened.stops[1]), [seed], opened.sampler)
    shown = re.findall(r'class="vdu-big" src="([^"]+)"', last)
    assert shown == [
        data_uri(opened.data.original.images[4]),
        data_uri(to_uint8(image).permute(1, 2, 0).numpy()),
    ]
    with pytest.raises(InputError, match="this run has original, checkpoint-2, final"):
        list(Page([opened], 12).denoise(0, str(seed), "checkpoint-9", "expected"))


def test_pages_of_pairs_cover_all_of_them_once(opened):
    page = Page([opened], 12)
    seen = []
    for number in (1, 2):
        count, html, pages = page.pairs(0, -1, -1, "any", 0, 100, number)
        seen += re.findall(r'data-seed="(\d+)"', html)
        assert pages == 2 and "<b>60</b> of 60 pairs" in count
    assert seen == [str(seed) for seed in opened.data.original.seeds]


@pytest.fixture(scope="module")
def server(hostile_run):
    pytest.importorskip("gradio", reason="no Gradio: pip install 'vdu[explore]'")
    demo = serve(ExploreSettings(runs=(hostile_run,), n_images=12))
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


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=%2Fetc%2Fpasswd", "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=RUN/metrics.json", "/gradio_api/file=RUN/samples/original.safetensors", "/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/", "/gradio_api/proxy=http://example.com/", "/static/../../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/static/..%2f..%2f..%2fetc%2fpasswd", "/svelte/../../etc/passwd",
        "/assets//etc/passwd", "/gradio_api/openapi.json", "/docs", "/monitoring", "/gradio_api/runs",
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
            serve(ExploreSettings(runs=(finished_run,), n_images=12, port=port))


def test_a_missing_gradio_says_how_to_install_it(finished_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"pip install 'vdu\[explore\]'"):
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
    wait(lambda: find(driver, "#vdu-go").is_displayed())
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


def choose(browser, box, option):
    find(browser, f"#{box} input").click()
    wait(lambda: browser.find_elements("css selector", f"#{box} [role=option], [role=listbox] [role=option]"))
    options = browser.find_elements("css selector", "[role=option]")
    next(each for each in options if option in each.text).click()


def test_a_seed_is_denoised_to_its_stored_image(browser, hostile_run):
    data = open_run(hostile_run).data
    find(browser, "#vdu-go button, button#vdu-go").click()
    wait(lambda: find(browser, ".vdu-status[data-done=yes]"))
    seed = find(browser, "#vdu-seed input, #vdu-seed textarea").get_attribute("value")
    place = data.original.seeds.tolist().index(int(seed))
    shown = [each.get_attribute("src") for each in browser.find_elements("css selector", ".vdu-big")]
    assert shown == [data_uri(data.original.images[place]), data_uri(data.unlearned.images[place])]
    assert len(browser.find_elements("css selector", ".vdu-film img")) == 2 * 5
    rendering = browser.execute_script("return getComputedStyle(document.querySelector('.vdu-big')).imageRendering")
    assert rendering == "pixelated"


def test_a_filter_changes_the_count_and_a_pair_gives_its_seed(browser, hostile_run):
    data = open_run(hostile_run).data
    tab(browser, "Stored samples")
    wait(lambda: "60 of 60 pairs" in find(browser, "#vdu-count").text)
    choose(browser, "vdu-before", "8")
    n = int((data.original.judge_class == 8).sum())
    wait(lambda: f"{n} of 60 pairs" in find(browser, "#vdu-count").text)
    assert 0 < n < 48 and len(browser.find_elements("css selector", ".vdu-pair")) == n
    pair = browser.find_elements("css selector", ".vdu-pair")[-1]
    seed = pair.get_attribute("data-seed")
    pair.click()
    wait(lambda: find(browser, "#vdu-seed input, #vdu-seed textarea").get_attribute("value") == seed)
    wait(lambda: find(browser, "#vdu-go").is_displayed())


def test_the_stopping_step_moves_along_the_front(browser):
    from selenium.webdriver.common.keys import Keys

    tab(browser, "Stopping step")
    wait(lambda: find(browser, "#vdu-measure").is_displayed())
    assert "not measured yet" in find(browser, "#vdu-told").text
    find(browser, "#vdu-measure").click()
    wait(lambda: not [each for each in browser.find_elements("css selector", "#vdu-measure") if each.is_displayed()])
    wait(lambda: find(browser, ".vdu-now").get_attribute("data-stop") == "final")
    assert len(browser.find_elements("css selector", ".vdu-dot")) == 3
    find(browser, "#vdu-where input[type=range]").send_keys(Keys.ARROW_LEFT)
    wait(lambda: find(browser, ".vdu-now").get_attribute("data-stop") == "checkpoint-2")
    wait(lambda: "Stopped at step 2" in find(browser, "#vdu-told").text)


def test_the_console_is_silent_and_nothing_was_fetched_elsewhere(browser, server):
    asked = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    web = {url for url in asked if url.startswith(("http", "ws", "//"))}
    assert len(web) > 10 and {url for url in web if not url.startswith(server.local_url)} == set()
    assert browser.get_log("browser") == []
    assert browser.title == "vdu explore"  # no name of a class has run as a script
