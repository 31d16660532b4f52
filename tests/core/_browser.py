"""Chromium without a screen, driven through ChromeDriver, which Debian builds from the same sources.

The protocol is the W3C's, JSON over HTTP, of which a page needs four requests.  Selenium would bring trio, whose plugin
makes hypothesis warn, and a warning is an error here; Playwright brings 53 MB and is made for its own browsers.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# no screen, no sandbox inside a container, and nothing of the browser's own that goes to the network
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
]
SECONDS = 120


@contextmanager
def opened(downloads: Path) -> Iterator[Chromium]:
    """A browser that puts downloads into a folder."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.fail("chromium and chromedriver are needed to test pages; tests/browser.sh installs them on Debian")
    options = {
        "binary": browser,
        "args": QUIET,
        "prefs": {"download.default_directory": str(downloads)},
    }
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
    with subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            port = next(found[1] for line in server.stdout if (found := re.search(r"successfully on port (\d+)", line)))
            root = f"http://127.0.0.1:{port}/session"
            session = asked("POST", root, capabilities={"alwaysMatch": wanted})["sessionId"]
            try:
                yield Chromium(f"{root}/{session}")
            finally:
                asked("DELETE", f"{root}/{session}")
        finally:
            server.terminate()


def asked(method: str, address: str, **body: object) -> object:
    data = json.dumps(body).encode() if method == "POST" else None
    with urlopen(
        Request(address, data, {"Content-Type": "application/json"}, method=method), timeout=SECONDS
    ) as answer:
        return json.load(answer)["value"]


class Chromium:
    """A page in a browser, and what the browser says of it."""

    def __init__(self, session: str) -> None:
        self.session = session

    def show(self, page: Path, *, width: int = 1280, dark: bool = False) -> None:
        """Open a file in a window of this width, for an eye that likes it light or dark."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._chrome("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._chrome("Emulation.setEmulatedMedia", features=[scheme])
        self.console()
        self.requests()
        asked("POST", f"{self.session}/url", url=page.as_uri())

    def run(self, expression: str) -> object:
        return asked("POST", f"{self.session}/execute/sync", script=f"return {expression}", args=[])

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def console(self) -> list[str]:
        """What the console has said since the last look."""
        return [entry["message"] for entry in self._log("browser")]

    def requests(self) -> list[str]:
        """What the page has asked for since the last look."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]

    def picture(self, path: Path) -> None:
        """Take a picture of the whole page."""
        shot = self._chrome("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _log(self, kind: str) -> list[dict]:
        return asked("POST", f"{self.session}/se/log", type=kind)

    def _chrome(self, command: str, **parameters: object) -> dict:
        return asked("POST", f"{self.session}/goog/cdp/execute", cmd=command, params=parameters)
