"""The guard before a small application that would answer everything."""

import asyncio

import pytest

from vdu.explore.access import POLICY, Guard, host_names


async def everything(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-inner", b"yes")]})
    await send({"type": "http.response.body", "body": b"a secret"})


async def nothing():
    return await asyncio.sleep(0, {})


def ask(path, method="GET", host="127.0.0.1:7860", bound="127.0.0.1", kind="http", origin=None, raw=None):
    sent = []

    async def send(message):
        await asyncio.sleep(0)
        sent.append(message)

    scope = {"type": kind, "method": method, "path": path, "headers": [(b"host", host.encode())]}
    if origin is not None:
        scope["headers"].append((b"origin", origin.encode()))
    if raw is not None:
        scope["raw_path"] = raw
    asyncio.run(Guard(everything, hosts=host_names(bound))(scope, nothing, send))
    return sent


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/report/0",
        "/config",
        "/theme.css",
        "/assets/index-a_b.js",
        "/static/fonts/x.woff2",
        "/gradio_api/queue/data",
    ],
)
def test_what_the_page_needs_passes_with_the_policy(path):
    start, body = ask(path)
    assert start["status"] == 200 and body["body"] == b"a secret"
    assert dict(start["headers"])[b"content-security-policy"] == POLICY.encode()


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/file=/etc/passwd", "/gradio_api/file=../x",
        "/gradio_api/proxy=http://example.com", "/assets/../../etc/passwd", "/static/..\\x", "/gradio_api/upload",
        "/gradio_api/run/predict", "/gradio_api/stream/a/b/1/playlist.m3u8", "/monitoring", "/docs", "/gradio_api/queue/join",
        "/assets/a\n/x", "/report/../x", "/report/0/x", "/static//etc/passwd", "/assets//etc/passwd",
    ],
)  # fmt: skip
def test_everything_else_is_refused(path):
    start, body = ask(path)
    assert start["status"] == 404 and b"secret" not in body["body"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_writing_goes_to_the_queue_alone(method):
    assert ask("/", method)[0]["status"] == 404
    assert ask("/gradio_api/upload", method)[0]["status"] == 404
    assert ask("/gradio_api/queue/join", method)[0]["status"] == (200 if method == "POST" else 404)


@pytest.mark.parametrize(
    ("host", "bound", "status"),
    [
        ("localhost:7860", "127.0.0.1", 200),
        ("[::1]:7860", "127.0.0.1", 200),
        ("evil.example:7860", "127.0.0.1", 421),
        ("127.0.0.1.evil.example", "127.0.0.1", 421),
        ("", "127.0.0.1", 421),
        ("Box.local:1", "box.local", 200),
        ("any.example", "0.0.0.0", 200),
    ],
)
def test_other_host_names_are_refused(host, bound, status):
    assert ask("/", host=host, bound=bound)[0]["status"] == status


@pytest.mark.parametrize("raw", [b"/assets/%2fetc", b"/assets/%2Fetc", b"/assets/%5cetc", b"/assets/%252fetc"])
def test_encoded_slashes_are_refused(raw):
    assert ask("/assets/etc", raw=raw)[0]["status"] == 404
    assert ask("/assets/etc", raw=b"/assets/etc")[0]["status"] == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://127.0.0.1:7860", 200),
        ("https://127.0.0.1:7860", 200),
        ("http://evil.example", 403),
        ("http://127.0.0.1:8000", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_requests_that_another_site_started_are_refused(origin, status):
    assert ask("/gradio_api/queue/join", "POST", origin=origin)[0]["status"] == status
    assert ask("/config", origin=origin)[0]["status"] == status


def test_web_sockets_are_closed():
    assert ask("/gradio_api/queue/join", kind="websocket") == [{"type": "websocket.close", "code": 1008}]
