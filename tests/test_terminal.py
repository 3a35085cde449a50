"""Progress of the commands: a bar on a terminal, a line for each tenth in a log."""

import io
import sys

import pytest

from diffusers_helper.commands.progress import ProgressBar

Capture = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_for_each_tenth(capsys: Capture) -> None:
    with ProgressBar(total=1000, desc="copy", unit="step") as bar:
        for _ in range(1000):
            bar.update()
    shown = capsys.readouterr().err
    assert shown.splitlines() == [f"copy: {percent}%" for percent in range(10, 101, 10)]
    assert "\r" not in shown


def test_a_log_gets_a_text_when_its_words_change(capsys: Capture) -> None:
    with ProgressBar(total=None) as bar:
        for part in range(100):
            bar.set_description_str(f"Fetching the VAE: {part / 10:.1f} of 9.9 GB")
            bar.update()
        bar.set_description_str("Reading the prompt")
        bar.silence = 0
        bar.set_description_str("Reading the prompt")
    assert capsys.readouterr().err.splitlines() == ["Fetching the VAE: 0.0 of 9.9 GB", *["Reading the prompt"] * 2]


def test_what_was_there_before_a_download_is_no_progress_of_its_own(capsys: Capture) -> None:
    with ProgressBar(desc="vae") as bar:
        bar.reset(100)
        bar.update(55)
        bar.update(1)
    assert (bar.n, capsys.readouterr().err) == (56, "vae: 50%\n")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar(total=4, desc="copy") as bar:
        bar.update(4)
        bar.set_description_str("done")
    assert "\rcopy" in stream.getvalue()
    assert "4/4" in stream.getvalue()
    assert "copy: 100%" not in stream.getvalue()
