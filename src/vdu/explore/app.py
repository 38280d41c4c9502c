"""``vdu explore``: serve the page on this machine until it is interrupted.

The server listens on 127.0.0.1 unless another host is given, makes no public link, sends no statistics, and answers
nothing but the page's own requests (see :mod:`vdu.explore.access`).

Not guaranteed: privacy with another host. Anyone who can reach that address sees the images.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from vdu.commands.options import GivenFirst, within
from vdu.core.errors import InputError
from vdu.core.ranges import PORT
from vdu.explore.access import Guard, host_names

__all__ = ["ExploreSettings", "run", "serve"]

MISSING = "explore: needs Gradio, which is not installed; expected version 6. Install it: pip install '.[explore]' in the clone."


@dataclass(frozen=True, kw_only=True)
class ExploreSettings:
    """Explore an unlearned model on a local page: look at its samples, watch it denoise, compare its checkpoints.

    Attributes:
        runs: one or more run folders of "vdu unlearn", after "vdu evaluate".
        host: the address to listen on; any other than 127.0.0.1 exposes the images to everyone who can reach it.
        port: the port; by default the first free one from 7860.
        browser: open the page in the default browser.
    """

    runs: Annotated[tuple[Path, ...], GivenFirst] = ()
    host: str = "127.0.0.1"
    port: Annotated[int | None, within(PORT)] = None
    browser: bool = False


def serve(settings: ExploreSettings) -> Any:
    """Open the runs and start the server in the background.

    Args:
        settings: see :class:`ExploreSettings`.

    Returns:
        The running ``gradio.Blocks``: ``local_url`` is its address, ``close()`` ends it.

    Raises:
        InputError: if no run is given, one cannot be shown, Gradio is missing, or the port is taken.
    """
    if not settings.runs:
        raise InputError("explore: got no run; expected one or more run folders: vdu explore RUN [RUN…].")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported: its libraries read it then
    try:
        import gradio as gr
    except ImportError as error:
        raise InputError(f"{MISSING} ({error})") from error
    from starlette.middleware import Middleware
    from starlette.routing import Route

    from vdu.explore.open_run import open_run
    from vdu.explore.page import CSS, build, report_file

    runs = [open_run(folder) for folder in settings.runs]
    reports = [Route(f"/report/{place}", _page_of(report_file(run))) for place, run in enumerate(runs)]
    demo = build(runs)
    demo.queue(api_open=False)
    try:
        # fonts by name only: a theme's own would be fetched from the network
        theme = gr.themes.Base(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        )
        demo.launch(
            server_name=settings.host, server_port=settings.port, inbrowser=settings.browser, share=False, quiet=True,
            prevent_thread_lock=True, show_error=True, ssr_mode=False, pwa=False, mcp_server=False, run_history=False,
            enable_monitoring=False, num_workers=0, footer_links=[], allowed_paths=[], blocked_paths=["/"], max_file_size=1,
            theme=theme, css=CSS,
            app_kwargs={"routes": reports, "middleware": [Middleware(Guard, hosts=host_names(settings.host))]},
        )  # fmt: skip
    except OSError as error:
        raise InputError(
            f"explore: cannot listen on {settings.host}, port {settings.port or '7860 to 7959'} ({error}). Give another --port."
        ) from None
    return demo


def _page_of(path: Path) -> Callable[[Any], Any]:
    """Answers with a report as it is at that moment."""
    from starlette.responses import FileResponse, PlainTextResponse

    def answer(_request: Any) -> Any:
        if not path.is_file():
            return PlainTextResponse(f"{path} does not exist: vdu report writes it.", 404)
        return FileResponse(path, media_type="text/html")

    return answer


def run(settings: ExploreSettings) -> dict[str, Any]:
    """Serve the page until Ctrl-C.

    Args:
        settings: see :class:`ExploreSettings`.

    Returns:
        The address that it had.
    """
    demo = serve(settings)
    print(f"explore: open {demo.local_url} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    if settings.host not in {"127.0.0.1", "localhost", "::1"}:
        print(
            f"vdu: warning: listening on {settings.host}: whoever reaches it sees the unwanted images.", file=sys.stderr
        )
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        threading.Event().wait()
    demo.close(verbose=False)
    return {"served": demo.local_url}
