"""Progress is plain lines where nobody watches, and never on stdout of a command."""

import pytest

from magunet.base import progress


@pytest.fixture(autouse=True)
def nobody_watches(monkeypatch):
    monkeypatch.setattr(progress, "watched", lambda: False)


def test_a_line_an_item_on_stderr(capsys):
    assert list(progress.track("ab", "letters")) == ["a", "b"]
    out, error = capsys.readouterr()
    assert out == "" and error == "letters 1/2\nletters 2/2\n"


def test_inner_loops_are_silent(capsys):
    assert list(progress.track([1, 2], "windows", lines=False)) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_watched_loop_draws_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(progress, "watched", lambda: True)
    assert list(progress.track([1, 2], "windows")) == [1, 2]
    assert "windows" in capsys.readouterr().err


def test_this_process_is_no_notebook():
    assert not progress.in_notebook()
