"""Progress goes to standard error: a bar on a terminal, at most a line a tenth elsewhere."""

import sys

import pytest

from sigma.shared.progress import progress, track


def test_without_a_terminal_at_most_ten_lines_appear(capsys):
    assert list(track(range(1000), "work", 1000)) == list(range(1000))
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == [f"work: {100 * tenth}/1000" for tenth in range(1, 11)]


def test_a_note_stands_behind_the_count(capsys):
    with progress("training", 2) as meter:
        meter.advance(0)
        meter.advance(2, "loss 0.1")
    assert capsys.readouterr().err == "training: 2/2 loss 0.1\n"


@pytest.mark.parametrize("total", [0, 1, 3])
def test_short_work_ends_complete(capsys, total):
    list(track(range(total), "work", total))
    assert capsys.readouterr().err.splitlines()[-1:] == ([f"work: {total}/{total}"] if total else [])


def test_on_a_terminal_there_is_a_bar_and_nothing_on_standard_output(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(track("ab", "work", 2)) == ["a", "b"]
    assert capsys.readouterr().out == ""
