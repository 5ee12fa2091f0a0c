"""What the pages do when something is in the way: a real browser, and a server whose workers answer from a script."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.browser import Browser, Page
from tests.helpers.serving import WORDS, Served, eventually, served, session

from ray_whisper_streaming.api import AsyncPool
from ray_whisper_streaming.core.transcript import Word
from ray_whisper_streaming.engines.scripted import ScriptedEngine
from ray_whisper_streaming.server.keys import KeyFile
from ray_whisper_streaming.subtitles import make_cues, to_srt, to_vtt

pytestmark = pytest.mark.slow

PHASE = "document.body.dataset.phase"
NOTICE = "document.querySelector('#notice').textContent"


async def open_page(page: Page, here: Served, source: str = "sample") -> None:
    await page.open(here.http + "/")
    await page.until("document.querySelector('[name=sample]').options.length")
    await page.click(f"[value={source}]")


def has(text: str) -> str:
    return f"{NOTICE}.includes({json.dumps(text)})"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("NotAllowedError", "is not allowed for this page"),
        ("NotFoundError", "No microphone was found"),
        ("NotReadableError", "another program may hold it"),
    ],
)
async def test_a_microphone_that_can_not_be_had(chromium: Browser, error: str, said: str) -> None:
    async with served() as here, chromium.page() as page:
        await open_page(page, here, "microphone")
        await page.run(
            "navigator.mediaDevices.getUserMedia ="
            f" () => Promise.reject(new DOMException('', {json.dumps(error)}))"
        )
        await page.click("#start")
        await page.until(has(said))
        assert await page.run(PHASE) == "idle"
        assert not here.gateway.sessions


async def test_a_muted_microphone(chromium: Browser) -> None:
    async with served() as here, chromium.page(microphone=True) as page:
        await open_page(page, here, "microphone")
        # A track of nothing but noughts, as of a microphone that is switched off.
        await page.run(
            "navigator.mediaDevices.getUserMedia ="
            " async () => new AudioContext().createMediaStreamDestination().stream"
        )
        await page.click("#start")
        await page.until(has("Is it muted?"))
        await page.click("#start")
        await page.until(f"{PHASE} === 'idle'")
        assert page.complaints == []


async def test_a_key_is_asked_for_where_one_is_wanted(chromium: Browser, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = KeyFile.read(path)
    key = keys.create("tests", 0.0)
    keys.write(path)
    async with served(keys_file=str(path)) as here, chromium.page() as page:
        await open_page(page, here)
        await page.until("!document.querySelector('#key-field').hidden")
        await page.click("#start")
        await page.until(has("wants an API key"))
        assert await page.run("document.activeElement.name") == "key"
        field = "document.querySelector('[name=key]')"
        await page.run(f"{field}.value = {json.dumps(key)}")
        await page.run(f"{field}.dispatchEvent(new Event('change', {{ bubbles: true }}))")
        await page.click("#start")
        await page.until(f"{PHASE} === 'running'")
        assert [each.lease.principal.name for each in here.gateway.sessions.values()] == ["tests"]


async def test_no_key_is_asked_for_where_none_is_wanted(chromium: Browser) -> None:
    async with served() as here, chromium.page() as page:
        await open_page(page, here)
        await page.until("document.querySelector('[name=model]').value === 'tiny.en'")
        assert await page.run("document.querySelector('#key-field').hidden")
        assert await page.run("document.querySelector('#model-field').hidden")


async def test_a_full_server_is_waited_for(chromium: Browser) -> None:
    async with served(max_streams=1) as here, chromium.page() as page:
        async with session(here.ws) as other:
            await open_page(page, here)
            await page.click("#start")
            await page.until(has("The server is busy. Trying again in 5 s"))
            await other.say("close")
            await other.hear_all()
        await page.until(f"{PHASE} === 'running'")
        await page.until("document.querySelectorAll('.word').length > 3")
        assert await page.run(NOTICE) == ""


async def test_a_server_that_goes_down_says_so_and_the_last_words_come(chromium: Browser) -> None:
    async with served(drain_s=2.0) as here, chromium.page() as page:
        await open_page(page, here)
        await page.click("#start")
        await page.until("document.querySelectorAll('.word').length > 3")
        here.server.stop()
        await page.until(has("goes down within 2 s"))
        await eventually(lambda: not here.gateway.sessions)
        await page.until(f"{has('Trying again')} || {has('restarting')}")
        await page.click("#start")  # stop waiting for it
        await page.click("#start")
        await page.until(f"{PHASE} === 'idle'")
        assert await page.run("document.querySelectorAll('.word').length") > 3


SKEWED = """{
  globalThis.skewMs = 0;
  const now = performance.now.bind(performance);
  performance.now = () => now() + skewMs;
}"""
"""A clock that jumps ahead, as for a page that is hidden (its timers fire once a minute) or a machine that slept."""

FAKE_SOCKETS = """
globalThis.sockets = [];
globalThis.WebSocket = class {
  sent = []; bufferedAmount = 0; closed = false;
  constructor() { sockets.push(this); }
  send(message) { this.sent.push(message); }
  close() { this.closed = true; }
  hear(type, fields) { this.onmessage({ data: JSON.stringify({ type, ...fields }) }); }
  begin(fields) {
    this.onopen();
    const limits = { idle: 60, message_bytes: 1024 };
    this.hear("ready", { session_id: "a", next_audio: 0, resumed: false, limits, ...fields });
  }
  get packets() { return this.sent.filter((message) => message instanceof Uint8Array); }
  get numbers() { return this.packets.map((packet) => packet[0] + 256 * packet[1]); }
  get samples() { return this.packets.flatMap((packet) => [...new Int16Array(packet.slice(4).buffer)]); }
};
globalThis.wait = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
globalThis.connect = async () => {
  const { Connection } = await import("/page/connection.js");
  const nothing = new Proxy({}, { get: () => () => {} });
  const connection = new Connection({ sample_rate: 16000 }, "", nothing);
  connection.open();
  return connection;
};
"""


async def open_with_fake_sockets(page: Page, here: Served) -> None:
    await page.open(here.http + "/")
    await page.run(SKEWED)
    await page.run(FAKE_SOCKETS)


@pytest.mark.parametrize("message_bytes", [1024, 65_536])
async def test_a_hidden_page_catches_up_within_the_server_s_limit(
    chromium: Browser, message_bytes: int
) -> None:
    async with served(max_message_bytes=message_bytes, resume_s=20.0) as here, chromium.page() as page:
        await open_page(page, here)
        await page.run(SKEWED)
        await page.run("""
            globalThis.opened = 0;
            WebSocket = class extends WebSocket { constructor(...how) { super(...how); opened++; } };
        """)
        await page.click("#start")
        await page.until("document.querySelectorAll('.word').length")
        await page.run("skewMs += 60_000")  # all of the rest is due
        await page.until(f"{PHASE} === 'idle'")
        assert await page.run("opened") == 1


async def test_a_recording_goes_on_where_a_sleeping_machine_left_it(chromium: Browser) -> None:
    async with served() as here, chromium.page() as page:
        await page.open(here.http + "/")
        await page.run(SKEWED)
        await page.run("""(async () => {
            const { Recording } = await import("/page/recording.js");
            globalThis.givenS = 0;
            const recording = new Recording(new Int16Array(16000 * 600), { fast: false, sound: false });
            await recording.start((samples) => { givenS += samples.length / 16000; }, () => {});
            skewMs += 7_200_000;
        })()""")
        await page.until("givenS > 120.5")
        assert await page.run("givenS") < 180


async def test_a_session_gone_while_the_machine_slept_loses_and_doubles_no_sound(chromium: Browser) -> None:
    async with served() as here, chromium.page() as page:
        await open_with_fake_sockets(page, here)
        await page.run("""(async () => {
            const connection = await connect();
            let next = 0;
            globalThis.speak = () => connection.send(Int16Array.from({ length: 1280 }, () => next++));
            speak();  // while nobody knows the server's limit
            sockets[0].begin();
            for (let packet = 0; packet < 10; packet++) speak();
            sockets[0].hear("acknowledged", { n: 0, sample: 2000 });
            skewMs += 7_200_000;
            sockets[0].onclose();
            speak();
            await wait(0.5);
            sockets[1].onopen();
            sockets[1].hear("error", { code: "not_found", fatal: true });
            await wait(0.5);
            sockets[2].begin({ session_id: "b" });
            speak();
        })()""")
        samples = await page.run("sockets.map((socket) => socket.samples)")
        assert samples == [list(range(11 * 1280)), [], list(range(2000, 13 * 1280))]
        for index in (0, 2):
            numbers = await page.run(f"sockets[{index}].numbers")
            assert numbers == list(range(len(numbers)))
            assert await page.run(f"Math.max(...sockets[{index}].packets.map((each) => each.length))") <= 1024
        assert json.loads(await page.run("sockets[1].sent[0]"))["type"] == "resume"


async def test_what_was_sent_just_now_is_not_taken_for_stuck(chromium: Browser) -> None:
    """The server had nothing to say for a minute, and the timers of a hidden page come together."""
    async with served() as here, chromium.page() as page:
        await open_with_fake_sockets(page, here)
        await page.run("""(async () => {
            const connection = await connect();
            sockets[0].begin();
            skewMs += 60_000;
            connection.send(new Int16Array(16_000 * 60));
            sockets[0].bufferedAmount = 1;
            await wait(3);
        })()""")
        assert not await page.run("sockets[0].closed")
        await page.run("skewMs += 20_000")
        await page.until("sockets[0].closed")


async def test_late_captions_are_told(chromium: Browser) -> None:
    async with served(latency_s=6.0) as here, chromium.page() as page:
        await open_page(page, here)
        await page.click("#start")
        await page.until(has("s late. Nothing is lost."), within_s=40)


async def test_words_are_reached_by_keyboard_and_tell_their_time(chromium: Browser) -> None:
    async with served() as here, chromium.page(haste=4) as page:
        await open_page(page, here)
        await page.click("#start")
        await page.until(f"document.querySelectorAll('.word').length > 5 && {PHASE} === 'idle'")
        assert await page.run("document.querySelector('#transcript').ariaLive") == "polite"
        assert await page.run("document.querySelector('.partial').ariaHidden") == "true"
        await page.run("document.querySelector('#start').blur()")
        await page.run("document.querySelector('[name=language]').focus()")
        for _ in range(10):
            await page.press("Tab")
            if await page.run("document.activeElement.className") == "word":
                break
        assert await page.run("document.activeElement.textContent") == "the"
        await page.press("ArrowRight")
        assert await page.run("document.activeElement.textContent") == "quick"
        shown = await page.run("getComputedStyle(document.activeElement, '::after').content")
        word = WORDS[1]
        assert f"{word.start_s:.1f}" in shown
        assert f"{word.end_s:.1f}" in shown
        await page.press("End")
        assert await page.run("document.activeElement === [...document.querySelectorAll('.word')].at(-1)")


async def test_the_microphone_goes_on_behind_what_was_said_before(chromium: Browser) -> None:
    async with served() as here, chromium.page(microphone=True) as page:
        await open_page(page, here, "microphone")

        async def run_for(time: str) -> None:
            await page.click("#start")
            await page.until(f"document.querySelector('#time').textContent === '{time}'")
            await page.click("#start")
            await page.until(f"{PHASE} === 'idle'")

        await run_for("0:02")
        await page.run("document.querySelector('[data-action=clear]').click()")
        await run_for("0:01")  # cleared, it begins anew
        await run_for("0:03")  # and goes on where it was stopped


async def test_subtitles_are_those_of_the_package(chromium: Browser) -> None:
    spoken: list[Word] = []
    at_s = 0.0
    said = (
        " Welcome to the old town, which <some> say & others deny was built about three hundred years ago. Is it?"
        " 我們 站在 市場 大廳 前面， 請 跟 我 上 樓梯。 On your left: the river and a stone bridge"
        " which is so very long that nobody has ever counted its arches without falling asleep halfway over"
    )
    for index, text in enumerate(said.split(" ")[1:]):
        at_s += 1.4 if index % 17 == 16 else 0.06
        spoken.append(Word(f" {text}", at_s, at_s + 0.31, 1.0))
        at_s += 0.31
    told = [{"text": word.text, "start": word.start_s, "end": word.end_s} for word in spoken]
    async with served() as here, chromium.page() as page:
        await open_page(page, here)
        made: dict[str, Any] = await page.run(
            "import('/page/subtitles.js').then("
            f"({{ toSrt, toVtt }}) => ({{ srt: toSrt({json.dumps(told)}), vtt: toVtt({json.dumps(told)}) }}))"
        )
    assert made["srt"] == to_srt(make_cues(spoken))
    assert made["vtt"] == to_vtt(make_cues(spoken))


async def test_the_pool_is_shown_live(chromium: Browser) -> None:
    async with served() as here, chromium.page() as page:
        await page.open(here.http + "/status")
        await page.until("document.querySelector('#state').textContent === 'Ready'")
        first = "document.querySelector('.plot svg').ariaLabel"
        await page.until(f"{first}?.includes('now 0')")
        async with session(here.ws) as client:
            await page.until(f"{first}.includes('now 1')")
            await client.say("close")
            await client.hear_all()
        await page.until(f"{first}.includes('now 0; at most 1')")
        assert await page.run("document.querySelectorAll('.plot .line-0[d^=M]').length") > 4
        here.gateway.admission.draining = True
        await page.until("document.querySelector('#state').textContent.startsWith('Going down')")
        await asyncio.sleep(0)
        assert page.complaints == []


async def test_one_of_several_models_is_shown(chromium: Browser) -> None:
    pools = [
        AsyncPool(model, backend="local", engine_factory=partial(ScriptedEngine, {}, WORDS))
        for model in ("tiny.en", "base")
    ]
    async with served(pools=pools) as here, chromium.page() as page:
        await page.open(here.http + "/status")
        await page.until("document.querySelector('#model select')?.length === 2")
        first = "document.querySelector('.plot svg').ariaLabel"
        async with session(here.ws, model="base"):
            await page.until("document.querySelector('#sessions').textContent === '0'")
            await page.run(
                "(() => { const select = document.querySelector('#model select'); select.value = 'base';"
                " select.dispatchEvent(new Event('change')); })()"
            )
            await page.until(f"{first}.includes('now 1')")
        assert page.complaints == []
