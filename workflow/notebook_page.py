"""Makes an executed notebook a page that reads without a network: with MathML, and without fetched scripts.

    python workflow/notebook_page.py NOTEBOOK.ipynb

Writes NOTEBOOK.html beside it. In both, the parameters that it was run with stand once: the defaults go.
"""

import re
import sys
from pathlib import Path

import nbformat
from docutils.utils.math import latex2mathml
from nbconvert import HTMLExporter

from magunet.base.provenance import whole_file

MATH = re.compile(r"(?P<code>`+).+?(?P=code)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", re.DOTALL)
"""Code, which is left as it is, and equations of a Markdown cell."""
FETCHED = re.compile(r'<script[^>]*src="https?:[^>]*>.*?</script>', re.DOTALL)
"""Programs that nbconvert's page asks public hosts for: MathJax, and RequireJS for widgets."""
latex2mathml.bigdelimiters |= {"big": 1, "Big": 2, "bigg": 3, "Bigg": 4}            # left and right it knows


def equation(found: re.Match) -> str:
    """MathML of one equation, in which nothing is Markdown; raises ValueError where it cannot be read."""
    if found["code"]:
        return found[0]
    math = latex2mathml.tex2mathml(found["block"] or found["inline"], as_block=bool(found["block"]))
    return re.sub(r"[*_`\[\]\\$|]", lambda mark: f"&#{ord(mark[0])};", " ".join(math.split()))


def main(path: Path) -> None:
    """Rewrite the notebook without its defaults, and write the page."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "parameters" not in cell.metadata.get("tags", [])]
    with whole_file(path) as part:
        nbformat.write(notebook, part)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = MATH.sub(equation, cell.source)
    page, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    with whole_file(path.with_suffix(".html")) as part:
        part.write_text(FETCHED.sub("", page), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
