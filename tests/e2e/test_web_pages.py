"""The pages as their users have them: a real browser, a real server, a real model, a microphone that hears a file."""

from __future__ import annotations

import asyncio
import re
import wave
from pathlib import Path

import pytest
from tests.helpers.browser import Browser, Page, browser
from tests.helpers.serve_command import Served, serving, speech, word_errors
from tests.helpers.serving import eventually, fetch

SAMPLE = "city_tour.flac"

pytestmark = [pytest.mark.slow, pytest.mark.model]


def wav_file(folder: Path, seconds: float | None = None) -> Path:
    """The sample, or its beginning, as the browser's microphone wants it."""
    file = folder / "spoken.wav"
    samples = speech(SAMPLE)[: None if seconds is None else round(seconds * 16_000)]
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes(samples.tobytes())
    return file


async def heard(page: Page) -> str:
    """The committed words; what may still change is not among them."""
    words = await page.run("[...document.querySelectorAll('.word')].map((word) => word.textContent)")
    return " ".join(words)


async def start_sample(page: Page, url: str) -> None:
    """Begin to stream the packaged recording from the page, at its pace."""
    await page.open(url + "/")
    await page.until(f"document.querySelector('[name=sample] [value=\"{SAMPLE}\"]')")
    await page.click("[value=sample]")
    await page.run(f"document.querySelector('[name=sample]').value = '{SAMPLE}'")
    await page.click("#start")
    await page.until("document.body.dataset.phase === 'running'")


def words_shown(count: int) -> str:
    return f"document.querySelectorAll('.word').length >= {count}"


IDLE = "document.body.dataset.phase === 'idle'"
SECONDS_SHOWN = (
    "document.querySelector('#time').textContent.split(':').reduce((whole, part) => 60 * whole + +part, 0)"
)
LAG_SHOWN = "parseFloat(document.querySelector('#lag').textContent)"


async def sessions_opened(url: str) -> int:
    answer = await fetch(url + "/metrics")
    found = re.search(rb'sessions_opened_total{model="tiny.en",protocol="native"} (\d+)', answer.body)
    return int(found[1]) if found else 0


async def test_the_microphone_is_captioned(server: Served, tmp_path: Path) -> None:
    hears = f"--use-file-for-fake-audio-capture={wav_file(tmp_path, 8.0)}%noloop"
    async with browser(tmp_path / "profile", hears) as own, own.page(microphone=True) as page:
        await page.open(server.url + "/")
        await page.until("document.querySelector('[name=language]').value")
        await page.click("#start")
        await page.until("document.querySelector('.partial')?.textContent", within_s=60)
        await page.until("document.querySelector('#level').ariaValueNow > 0")
        await page.until("document.querySelector('#time').textContent === '0:09'")  # the last words are said
        await page.click("#start")
        await page.until(IDLE)
        text = (await heard(page)).lower()
        assert "old town" in text
        assert "market hall" in text
        assert await page.text(".partial") == ""
        # The end of the session stops the microphone again, which is waited for as long as for the first time.
        await page.run("new Promise((resolve) => setTimeout(resolve, 1000))")
        assert page.complaints == []


async def test_a_broken_connection_is_resumed_without_losing_or_doubling_a_word(
    server: Served, chromium: Browser
) -> None:
    before = await sessions_opened(server.url)
    async with chromium.page(haste=2) as page:
        await start_sample(page, server.url)
        await page.until(words_shown(8), within_s=60)
        assert await page.close_sockets() == 1
        await page.until("document.querySelector('#notice').textContent.includes('lost')")
        await page.until(words_shown(20))
        nothing = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await page.call("Network.emulateNetworkConditions", offline=True, **nothing)
        await page.until("document.querySelector('#notice').textContent.includes('lost')")
        await asyncio.sleep(1)
        await page.call("Network.emulateNetworkConditions", offline=False, **nothing)
        await page.until(IDLE, within_s=60)
        text = await heard(page)
        assert word_errors(text, SAMPLE) <= 0.1, text
    assert await sessions_opened(server.url) == before + 1


async def test_where_the_session_is_gone_another_one_goes_on_with_the_audio(chromium: Browser) -> None:
    with serving("--resume-s", "0") as forgetful:
        async with chromium.page(haste=2) as page:
            await start_sample(page, forgetful.url)
            await page.until(words_shown(15), within_s=60)
            assert await page.close_sockets() == 1
            await page.until(IDLE, within_s=60)
            text = await heard(page)
            assert word_errors(text, SAMPLE) <= 0.1, text
            assert await sessions_opened(forgetful.url) == 2


async def test_a_file_is_captioned_faster_than_it_was_spoken_and_downloaded_as_subtitles(
    server: Served, chromium: Browser, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    async with chromium.page(downloads=saved) as page:
        await page.open(server.url + "/")
        await page.click("[value=file]")
        await page.click("#start")
        await page.until("document.querySelector('#notice').textContent.includes('Choose a file')")
        await page.choose_file("[name=file]", wav_file(tmp_path))
        await page.click("[name=fast]")
        await page.run("globalThis.startedAt = performance.now()")
        await page.click("#start")
        # A file read at the pace of speech is never ahead of the clock.
        await page.until(f"{SECONDS_SHOWN} > (performance.now() - startedAt) / 1000 + 2")
        await page.until(f"{IDLE} && {words_shown(20)}", within_s=60)
        text = await heard(page)
        assert word_errors(text, SAMPLE) <= 0.1, text
        for action in ("text", "srt", "vtt"):
            await page.click(f"[data-action={action}]")
            await eventually((saved / f"captions.{action.replace('text', 'txt')}").is_file)
        plain, srt, vtt = (
            (saved / f"captions.{ending}").read_text("utf-8") for ending in ("txt", "srt", "vtt")
        )
        assert plain.split() == text.split()
        assert srt.startswith("1\n00:00:0")
        assert vtt.startswith("WEBVTT\n\n00:00:0")
        assert "slippery" in srt.splitlines()[-1]


async def test_silence_is_not_lag(server: Served, chromium: Browser, tmp_path: Path) -> None:
    silence = tmp_path / "silence.wav"
    with wave.open(str(silence), "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes(bytes(16_000 * 2 * 60))
    async with chromium.page(haste=4) as page:
        await page.open(server.url + "/")
        await page.click("[value=file]")
        await page.choose_file("[name=file]", silence)
        await page.click("#start")
        # Counted as lag, silence would be as late as it is long, until the file ends.
        await page.until(f"{SECONDS_SHOWN} >= 12 && ({LAG_SHOWN} < 4 || {SECONDS_SHOWN} > 50)")
        assert float(await page.run(SECONDS_SHOWN)) < 50
        await page.click("#start")
        await page.until(IDLE)
