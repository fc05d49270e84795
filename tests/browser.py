"""A headless Chromium for the tests of pages, driven through its DevTools pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

NAMES = ("chromium", "chromium-browser", "google-chrome")
Scheme = Literal["light", "dark"]


def find_chromium() -> str | None:
    """Path of the browser, None where there is none (`apt-get install chromium`)."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def find_axe() -> Path | None:
    """axe-core as one script, None where it is not installed (`bash tests/install_axe.sh`)."""
    script = Path(__file__).parents[1] / "out/axe/node_modules/axe-core/axe.min.js"
    return script if script.exists() else None


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """One tab of a browser of its own, with its profile in that folder."""
    program = find_chromium()
    assert program is not None
    to_browser, write_end = os.pipe()
    read_end, from_browser = os.pipe()

    def hand_over() -> None:  # the browser reads commands from 3 and answers on 4
        os.dup2(to_browser, 3)
        os.dup2(from_browser, 4)

    process = subprocess.Popen(
        [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--remote-debugging-pipe", "--autoplay-policy=no-user-gesture-required", "--mute-audio",
         "--hide-scrollbars", f"--user-data-dir={profile}"],
        preexec_fn=hand_over, pass_fds=(3, 4), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Tab(write_end, read_end)
    finally:
        process.kill()
        process.wait()
        os.close(write_end)
        os.close(read_end)


class Tab:
    """One open page.

    Attributes:
        requests: URLs that the page has asked for, itself and data URIs excepted.
        said: Errors and warnings on its console.
    """

    def __init__(self, write_end: int, read_end: int) -> None:
        self._write_end, self._read_end = write_end, read_end
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.said: list[str] = []
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._do("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._do(f"{domain}.enable")

    def open(self, page: Path, *, width: int, height: int = 900, scheme: Scheme = "light") -> None:
        """Shows a file in a window of that size and colour scheme."""
        self.visit(page.as_uri(), width=width, height=height, scheme=scheme)

    def visit(self, url: str, *, width: int, height: int = 900, scheme: Scheme = "light") -> None:
        """Shows an address in a window of that size and colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._do("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._do("Emulation.setEmulatedMedia", features=features)
        self._do("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")
        self.requests.clear()
        self.said.clear()
        answer = self._do("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        protocol = url.partition(":")[0]
        self.wait(
            f"location.protocol === '{protocol}:' && document.readyState === 'complete'",
            timeout_s=60,
        )

    def press(self, key: str) -> None:
        """Types one key, as a person does: the focused element gets it."""
        text = key if len(key) == 1 else ""
        for kind in ("keyDown", "keyUp"):
            code = {"key": key, "text": text} if kind == "keyDown" else {"key": key}
            self._do("Input.dispatchKeyEvent", type=kind, **code)

    def type(self, text: str) -> None:
        """Types text into the focused element."""
        self._do("Input.insertText", text=text)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self._do("Runtime.evaluate", **asked, userGesture=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, timeout_s: float = 40) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.run(f"Boolean({condition})"):  # an element would come back as {}
            assert time.monotonic() < deadline, f"waited in vain for {condition}"
            time.sleep(0.05)

    def inject(self, script: Path) -> None:
        """Runs a script file in the page, whatever the page's policy says of scripts."""
        self._do("Runtime.evaluate", expression=script.read_text())

    def downloads_to(self, folder: Path) -> None:
        """What the page downloads lands there."""
        self._do("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def picture(self, *, whole: bool = False) -> bytes:
        """PNG of what is seen, or of the whole page."""
        answer = self._do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def _do(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write_end, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next(timeout_s=60)
            self._note(message)
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                found: dict[str, Any] = message["result"]
                return found

    def _next(self, timeout_s: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read_end], [], [], timeout_s)
            assert ready, "the browser does not answer"
            data = os.read(self._read_end, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        event, parameters = message.get("method"), message.get("params", {})
        if event == "Network.requestWillBeSent" and parameters.get("type") != "Document":
            url = parameters["request"]["url"]
            if not url.startswith("data:"):
                self.requests.append(url)
        elif event == "Log.entryAdded":
            self.said.append(parameters["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.said.append(str(parameters["exceptionDetails"]))
