"""``ray-whisper top``: how a server is doing, from its metrics."""

from __future__ import annotations

import asyncio
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial

from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ray_whisper_streaming.cli.console import StdoutConsole
from ray_whisper_streaming.cli.server_metrics import Reading, Span, percentile_s
from ray_whisper_streaming.client.connecting import split_url
from ray_whisper_streaming.errors import RayWhisperError, Unauthorized, Unreachable

__all__ = ["fetch", "run", "view"]

TIMEOUT_S = 10.0
MAX_BYTES = 4 << 20
UNAUTHORIZED_STATUS = (401, 403)
MAX_WORKERS = 16
"""Workers that get a line of their own; the rest are added up."""

console = StdoutConsole()


async def run(url: str, *, api_key: str | None, interval_s: float, once: bool) -> int:
    """Show it until Ctrl-C, or once; return the exit code.

    Raises:
        Unreachable, Unauthorized, ProtocolError: there are no metrics to be had at first. Later on it is shown, and
            tried again.
    """
    url = metrics_url(url)
    before = await asyncio.to_thread(fetch, url, api_key)
    await asyncio.sleep(interval_s)
    now = await asyncio.to_thread(fetch, url, api_key)
    if once:
        console.print(view(url, Span(before, now)))
        return 0
    with Live(
        view(url, Span(before, now)), console=console, auto_refresh=False, screen=console.is_terminal
    ) as live:
        while True:
            await asyncio.sleep(interval_s)
            try:
                before, now = now, await asyncio.to_thread(fetch, url, api_key)
            except RayWhisperError as error:
                live.update(Group(view(url, Span(before, now)), Text(str(error), style="red")), refresh=True)
            else:
                live.update(view(url, Span(before, now)), refresh=True)


def metrics_url(url: str) -> str:
    """Where a server shows its metrics. Raises `ConfigurationError`."""
    parts = split_url(url, "http://127.0.0.1:8000")
    scheme = parts.scheme.replace("ws", "http")
    path = parts.path.rstrip("/")
    return f"{scheme}://{parts.netloc}{path if path.endswith('/metrics') else path + '/metrics'}"


def fetch(url: str, api_key: str | None) -> Reading:
    """Read a server's metrics now.

    Raises:
        Unreachable: nobody answers.
        Unauthorized: whoever answers asks for a key, or for another one.
        ProtocolError: what answers is no server of ours.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    # The environment's proxies are for the world outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            text = answer.read(MAX_BYTES).decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            if error.code in UNAUTHORIZED_STATUS:
                wanted = "takes another key than this one" if api_key else "wants a key: --api-key"
                raise Unauthorized(f"{url} {wanted}", code="unauthorized") from None
            raise Unreachable(f"{url} answers with HTTP status {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(f"{url} can't be reached: {reason}") from None
    return Reading.parse(text, time.monotonic())


def view(url: str, span: Span) -> Group:
    """The figures as tables."""
    now = span.last
    state = ("going down", "red") if now.value("draining") else "serving"
    title = Text.assemble((url.removesuffix("/metrics"), "bold"), "  ", state)
    return Group(
        title, _server_table(span), _models_table(span), _workers_table(span), *_trouble_tables(span)
    )


def _server_table(span: Span) -> Table:
    now = span.last
    latency = span.buckets("commit_latency_seconds")
    protocols = ", ".join(
        f"{count:.0f} {name}" for name, count in now.by_label("protocol", "sessions").items()
    )
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_row("sessions", f"{now.value('sessions'):.0f}")
    table.add_row("by protocol", protocols or "-")
    table.add_row("streams", f"{now.value('streams'):.0f}")
    table.add_row("words/s", _number(span.rate("words_committed_total"), 1))
    table.add_row("commit latency p50", _seconds(percentile_s(latency, 50)))
    table.add_row("commit latency p95", _seconds(percentile_s(latency, 95)))
    table.add_row("sessions opened", f"{now.value('sessions_opened_total'):.0f}")
    return table


def _models_table(span: Span) -> Table:
    """A column for each model: what its workers do."""
    now = span.last
    models = now.values_of("model", "pool_workers")
    table = _table("model", *models)

    def row(title: str, figure: Callable[[str], str]) -> None:
        table.add_row(title, *map(figure, models))

    row("sessions", lambda model: f"{now.value('sessions', model=model):.0f}")
    row("lag (one in ten exceeds)", lambda model: _seconds(now.value("lag_seconds", model=model)))
    row("workers ready", lambda model: f"{now.value('pool_workers', model=model):.0f}")
    row("jobs/s", lambda model: _number(span.rate("pool_jobs_done_total", model=model), 1))
    row(
        "jobs waiting, running",
        lambda model: ", ".join(
            f"{now.value(f'pool_jobs_{state}', model=model):.0f}" for state in ("waiting", "running")
        ),
    )
    ratios = (
        ("jobs per batch", "jobs_batched", "batches", partial(_number, digits=1)),
        ("queue wait", "queue_wait_seconds", "jobs_batched", _seconds),
        ("inference per batch", "inference_seconds", "batches", _seconds),
        ("real-time factor", "inference_seconds", "audio_decoded_seconds", partial(_number, digits=3)),
    )
    for title, above, below, shown in ratios:
        figures = [span.ratio(f"pool_{above}_total", f"pool_{below}_total", model=model) for model in models]
        table.add_row(title, *map(shown, figures))
    return table


def _workers_table(span: Span) -> Table:
    table = _table("worker", "model", "jobs", "jobs/s", "batch", "busy", "RTF")
    counter = "worker_jobs_done_total"
    found = [
        {"worker": worker, "model": model}
        for model in span.last.values_of("model", counter)
        for worker in span.last.by_label("worker", counter, model=model)
    ]
    jobs = [span.last.value(counter, **one) for one in found]
    rates = [span.rate(counter, **one) for one in found]
    for one, done, rate in list(zip(found, jobs, rates, strict=True))[:MAX_WORKERS]:
        batch = span.ratio(counter, "worker_batches_total", **one)
        inference = "worker_inference_seconds_total"
        factor = span.ratio(inference, "worker_audio_decoded_seconds_total", **one)
        table.add_row(
            one["worker"],
            one["model"],
            f"{done:.0f}",
            _number(rate, 1),
            _number(batch, 1),
            f"{100 * min(1.0, span.rate(inference, **one)):.0f} %",
            _number(factor, 3),
        )
    rest = len(found) - MAX_WORKERS
    if rest > 0:
        table.add_row(
            f"{rest} more", "", f"{sum(jobs[MAX_WORKERS:]):.0f}", _number(sum(rates[MAX_WORKERS:]), 1)
        )
    if not found:
        table.add_row("none has done a job yet")
    return table


def _trouble_tables(span: Span) -> list[Table]:
    """Refusals, errors, endings, failed jobs: what there were, in all and lately."""
    shown: list[Table] = []
    kinds = (
        ("refused", "code", "refusals_total"),
        ("error", "type", "errors_total"),
        ("session ended", "reason", "sessions_ended_total"),
        ("job failed", "model", "pool_jobs_failed_total"),
        ("job run again", "model", "pool_jobs_retried_total"),
    )
    for heading, label, counter in kinds:
        counts = span.last.by_label(label, counter)
        if counts:
            table = _table(heading, "in all", "per s")
            for text, count in counts.items():
                table.add_row(text, f"{count:.0f}", _number(span.rate(counter, **{label: text}), 1))
            shown.append(table)
    return shown


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(headings[0], min_width=24)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", min_width=8)
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
