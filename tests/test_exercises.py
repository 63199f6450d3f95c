"""The folded answers of every notebook's exercises run, each in a cell right after the one that holds it."""

import re
import textwrap

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient


def answers(cell):
    """The Python code within a Markdown cell's folded answers, in order; of other cells none."""
    folded = re.findall(r"<details>.*?</details>", cell.source, re.S) if cell.cell_type == "markdown" else []
    blocks = re.findall(r"^ *```python\n.*?^ *```", "\n".join(folded), re.M | re.S)
    return ["\n".join(textwrap.dedent(block).strip().splitlines()[1:-1]) for block in blocks]


def with_answers(notebook):
    """The notebook with a code cell for each answer."""
    new = nbformat.v4.new_code_cell
    cells = [part for cell in notebook.cells for part in (cell, *map(new, answers(cell)))]
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


FOLDER = ROOT / "notebooks"
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted(FOLDER.glob("*.ipynb"))}
ANSWERED = [name for name, notebook in NOTEBOOKS.items() if any(map(answers, notebook.cells))]


def test_answers_are_the_python_code_that_is_folded_and_follow_their_cell():
    text = "```python\n0\n```\n<details><summary>Answer</summary>\n{}\n\n```text\n2\n```\n</details>"
    inside = "* one\n\n  ```python\n  if 1:\n      1\n  ```\n```python\n3\n```"
    cells = [nbformat.v4.new_markdown_cell(text.format(inside)), nbformat.v4.new_code_cell("4"),
             nbformat.v4.new_markdown_cell(text.format("5"))]
    ran = with_answers(nbformat.v4.new_notebook(cells=cells)).cells
    assert [cell.source for cell in ran if cell.cell_type == "code"] == ["if 1:\n    1", "3", "4"]
    assert "03_network" in ANSWERED


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWERED)
def test_every_answer_runs_where_it_stands(name):
    """In the smoke profile; a cell that raises fails the test, which then shows it."""
    place = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(with_answers(NOTEBOOKS[name]), timeout=1800, resources=place).execute()
