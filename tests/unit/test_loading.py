"""Whoever waits for a worker sees how far it is: a bar on a terminal of its own, or a line in the log every few seconds."""

import contextlib
import io
import logging

import pytest

from sluice import crashes, loading
from sluice.loading import Loading


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def load() -> None:
    with Loading() as progress:
        for read in range(0, 1_000_001, 5000):
            progress(read, 1_000_000)


def test_a_log_has_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = iter(range(0, 1000))
    monkeypatch.setattr("time.monotonic", lambda: next(clock) / 20)  # 200 steps of 5000 in 10 s
    load()
    said = [one.getMessage() for one in caplog.records]
    assert said[:2] == [
        "Loading references: 0 of 1,000,000 offsets are read.",
        "Loading references: 300,000 of 1,000,000 offsets are read.",
    ]
    assert len(said) == 4


def test_a_terminal_has_a_bar(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("TERM", "xterm")
    with contextlib.redirect_stderr(Terminal()) as terminal:
        load()
    assert "loading references" in terminal.getvalue()
    assert "1000000/1000000" in terminal.getvalue()
    assert not caplog.records


def test_workers_that_share_a_terminal_write_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv(crashes.VARIABLE, "somewhere")
    with contextlib.redirect_stderr(Terminal()) as terminal:
        load()
    assert "loading references" not in terminal.getvalue()
    assert "0 of 1,000,000" in caplog.text


def test_nothing_to_load_is_nothing_to_say(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Loading() as progress:
        progress(0, 0)
    assert not caplog.records
    assert loading.SAY_SECONDS > 1
