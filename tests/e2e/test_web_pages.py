"""The pages as their users have them: a real browser, a real server, a real model, a microphone that hears a file."""

from __future__ import annotations

import asyncio
import wave
from pathlib import Path

import pytest
from tests.helpers.browser import Page, browser
from tests.helpers.serve_command import serving, speech, word_errors

SAMPLE = "city_tour.flac"

pytestmark = [pytest.mark.slow, pytest.mark.model]


def wav_file(folder: Path) -> Path:
    """The sample as the browser's microphone wants it."""
    file = folder / "spoken.wav"
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes(speech(SAMPLE).tobytes())
    return file


async def heard(page: Page) -> str:
    """The committed words; what may still change is not among them."""
    words = await page.run("[...document.querySelectorAll('.word')].map((word) => word.textContent)")
    return " ".join(words)


async def test_the_microphone_is_captioned(tmp_path: Path) -> None:
    with serving() as server:
        async with browser(
            tmp_path / "profile", "--use-fake-ui-for-media-stream", microphone=wav_file(tmp_path)
        ) as page:
            await page.open(server.url + "/")
            await page.until("document.querySelector('[name=language]').value")
            await page.click("#start")
            await page.until("document.body.dataset.phase === 'running'")
            await page.until("document.querySelector('.partial')?.textContent")
            await page.until("document.querySelectorAll('.word').length > 35", within_s=60)
            await asyncio.sleep(3)
            await page.click("#start")
            await page.until("document.body.dataset.phase === 'idle'")
            text = await heard(page)
            assert word_errors(text, SAMPLE) <= 0.25, text
            assert page.complaints == []
