"""Access control of the page's server: it answers only the addresses that the page uses, under its own host names.

Gradio's server can serve and receive files, fetch addresses of other servers for a browser, record runs and provide an API. The
page needs none of that: its images are part of its events, and the runs' reports are the only files that it links to. This
wrapper precedes all of Gradio's routes. It answers 404 to everything that is not on a short list (including ``file=``, ``proxy=``
and ``upload``), 421 to a request with another host name (a web site that resolves to 127.0.0.1) and 403 to one from another web
site (its ``Origin``). A Content-Security-Policy prevents the browser from loading anything else, so that the page works offline
and sends no data.

Not guaranteed: secrecy from other users of the same machine, who can open 127.0.0.1 as well.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

__all__ = ["POLICY", "Guard", "host_names"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

# Gradio compiles its templates in the browser: without 'unsafe-eval' it shows nothing
POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; font-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
_READ = re.compile(
    r"/|/report/\d+|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/pwa_icon(/\d+)?|/(assets|static|svelte)/[^\\\x00-\x1f]*"
    r"|/gradio_api/(theme\.css|info/?|queue/data|heartbeat/\w+|startup-events|app_id/?|login_check/?)"
)
_DISGUISED = re.compile(
    rb"%(2f|5c|25|00)", re.IGNORECASE
)  # a slash, backslash, per cent sign or null, encoded in an address
_WRITE = re.compile(r"/gradio_api/(queue/join|cancel|reset/?)")


def host_names(host: str) -> frozenset[str]:
    """Valid host names of a server that listens on ``host``; empty: any (it listens on every address).

    Args:
        host: the address that it is bound to.

    Returns:
        Lower-case names without a port.

    Examples:
        >>> sorted(host_names("127.0.0.1"))
        ['127.0.0.1', '[::1]', 'localhost']
    """
    if host in {"0.0.0.0", "::", ""}:
        return frozenset()
    return frozenset({"127.0.0.1", "localhost", "[::1]", host.lower()})


class Guard:
    """An ASGI application that passes only the page's own requests on to another.

    Args:
        app: the application that answers them.
        hosts: valid host names; empty: any.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], hosts: Iterable[str] = ()) -> None:
        self.app, self.hosts = app, frozenset(hosts)

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Answer one request.

        Args:
            scope: of the request.
            receive: gives its body.
            send: takes the answer.
        """
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        status = 404 if scope["type"] != "http" else self._refusal(scope)
        if status:
            await _refuse(scope, send, status)
            return

        async def send_with_policy(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, send_with_policy)

    def _refusal(self, scope: _Message) -> int | None:
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        if self.hosts and re.sub(r":\d+$", "", host).lower() not in self.hosts:
            return 421
        allowed = {"GET": _READ, "HEAD": _READ, "POST": _WRITE}.get(scope["method"])
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        if any(re.sub(r"^https?://", "", origin).lower() != host.lower() for origin in origins):
            return 403
        path = scope["path"]
        plain = ".." not in path and "//" not in path and not _DISGUISED.search(scope.get("raw_path") or b"")
        return None if allowed and allowed.fullmatch(path) and plain else 404


async def _refuse(scope: _Message, send: _Send, status: int) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-security-policy", b"default-src 'none'")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"vdu explore serves its own page and nothing else.\n"})
