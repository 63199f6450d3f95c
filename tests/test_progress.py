"""Progress is plain lines where nobody watches, and never on stdout of a command."""

from magunet.base import progress


def test_a_line_an_item_on_stderr_and_inner_loops_are_silent(capsys, monkeypatch):
    monkeypatch.setattr(progress, "watched", lambda: False)
    assert list(progress.track("ab", "letters")) == ["a", "b"]
    assert capsys.readouterr() == ("", "letters 1/2\nletters 2/2\n")
    assert list(progress.track([1, 2], "windows", lines=False)) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_watched_loop_draws_a_bar_and_no_lines(capsys, monkeypatch):
    assert not progress.in_notebook()
    monkeypatch.setattr(progress, "watched", lambda: True)
    assert list(progress.track([1, 2], "windows")) == [1, 2]
    out, error = capsys.readouterr()
    assert out == "" and "windows" in error and "windows 1/2\n" not in error
