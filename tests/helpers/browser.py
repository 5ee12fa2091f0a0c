"""A headless Chromium, driven over the DevTools protocol, for tests of the web pages."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import websockets

NAMES = ("chromium", "chromium-browser", "google-chrome")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--remote-debugging-port=0",
)

HASTE = "{ const now = performance.now.bind(performance); performance.now = () => %g * now(); }"

START_S, ANSWER_S, STOP_S = 60.0, 30.0, 20.0


def find_chromium() -> str:
    """Its path. Skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser on PATH: {', '.join(NAMES)} (Debian's package is called chromium)")
    return found


class Page:
    """A tab: what it is told, and what it has complained about."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its result."""
        number = next(self._numbers)
        answer = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        return await asyncio.wait_for(answer, ANSWER_S)

    async def open(self, url: str) -> None:
        """Go to an address; returns once its scripts have run."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), ANSWER_S)

    async def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are waited for."""
        answer = await self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition: str, within_s: float = 30.0) -> None:
        """Wait until an expression is true."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while not await self.run(f"Boolean({condition})"):
            if loop.time() > until:
                body = await self.run("document.body.innerText")
                raise AssertionError(f"not within {within_s:g} s: {condition}\n{self.complaints}\n{body}")
            await asyncio.sleep(0.1)

    async def text(self, selector: str) -> str:
        return await self.run(f"document.querySelector({json.dumps(selector)}).textContent")

    async def click(self, selector: str) -> None:
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")

    async def choose_file(self, selector: str, file: Path) -> None:
        """As the user does in the dialogue of a file field."""
        found = await self.call("Runtime.evaluate", expression=f"document.querySelector('{selector}')")
        await self.call("DOM.setFileInputFiles", files=[str(file)], objectId=found["result"]["objectId"])

    async def press(self, key: str) -> None:
        """A key of the keyboard, by its name in DOM events."""
        codes = {"Tab": 9, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key]
            )

    async def close_sockets(self) -> int:
        """Cut the page's WebSockets, as a network that fails does; how many there were."""
        prototype = await self.call("Runtime.evaluate", expression="WebSocket.prototype")
        found = await self.call("Runtime.queryObjects", prototypeObjectId=prototype["result"]["objectId"])
        closed = await self.call(
            "Runtime.callFunctionOn",
            objectId=found["objects"]["objectId"],
            functionDeclaration="""function () {
                const open = this.filter((socket) => socket.readyState === WebSocket.OPEN);
                for (const socket of open) socket.close();
                return open.length;
            }""",
            returnByValue=True,
        )
        return closed["result"]["value"]

    async def screenshot(self, file: Path, width: int, height: int, *, dark: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await asyncio.sleep(0.3)
        shot = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(file.write_bytes, base64.b64decode(shot["data"]))

    async def aclose(self) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if not answer.done():
                    answer.set_result(message.get("result") or {"error": message.get("error")})
            elif message["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif message["method"] == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(message["params"]["exceptionDetails"]))
            elif message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.complaints.append(message["params"]["entry"]["text"])


class Browser:
    """A Chromium whose pages know nothing of each other."""

    def __init__(self, address: str, control: Page) -> None:
        self._address = address
        self._control = control

    @asynccontextmanager
    async def page(
        self, *, microphone: bool = False, haste: float = 1.0, downloads: Path | None = None
    ) -> AsyncGenerator[Page]:
        """An empty tab of a profile of its own.

        Args:
            microphone: whoever asks for it gets it; otherwise nobody does, as there is nobody to ask.
            haste: the page's clock runs so many times as fast: recordings are played in less time.
            downloads: the folder they go to.
        """
        context = await self._control.call("Target.createBrowserContext")
        if microphone:
            await self._control.call("Browser.grantPermissions", permissions=["audioCapture"], **context)
        if downloads is not None:
            save = {"behavior": "allow", "downloadPath": str(downloads)}
            await self._control.call("Browser.setDownloadBehavior", **save, **context)
        target = await self._control.call("Target.createTarget", url="about:blank", **context)
        try:
            tab = f"{self._address}/devtools/page/{target['targetId']}"
            async with websockets.connect(tab, max_size=None, compression=None) as socket:
                page = Page(socket)
                try:
                    await page.call("Emulation.setFocusEmulationEnabled", enabled=True)
                    if haste != 1.0:
                        await page.call("Page.enable")
                        await page.call("Page.addScriptToEvaluateOnNewDocument", source=HASTE % haste)
                    yield page
                finally:
                    await page.aclose()
        finally:
            await self._control.call("Target.disposeBrowserContext", **context)


@asynccontextmanager
async def browser(folder: Path, *flags: str) -> AsyncGenerator[Browser]:
    """A Chromium of its own; ended with all its processes.

    Args:
        folder: an empty one, for its profile.
        flags: more of them.
    """
    command = [find_chromium(), *FLAGS, *flags, f"--user-data-dir={folder}", "about:blank"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        port, path = await asyncio.wait_for(_endpoint(process, folder / "DevToolsActivePort"), START_S)
        address = f"ws://127.0.0.1:{port}"
        async with websockets.connect(address + path, max_size=None, compression=None) as socket:
            control = Page(socket)
            try:
                yield Browser(address, control)
            finally:
                await control.aclose()
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()


async def _endpoint(process: asyncio.subprocess.Process, file: Path) -> tuple[str, str]:
    """The port that it chose and the path to the browser itself, which it wrote into its profile."""

    def lines() -> list[str]:
        return file.read_text().split() if file.is_file() else []

    while len(told := await asyncio.to_thread(lines)) < 2:
        assert process.returncode is None, "the browser ended before it began"
        await asyncio.sleep(0.1)
    return told[0], told[1]
