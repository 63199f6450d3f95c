"""Sphinx makes one site of the pages and the executed notebooks: `make docs` puts it in runs/docs/site.

Nothing in it asks any host for anything: equations are MathML, search is Sphinx' own, and no widget is drawn. The
pages stay as they are read in the repository; links to files that are no pages lead to copies in the site.
"""

import json
import re
from importlib.resources import files
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging

project = html_title = "magunet"
extensions = ["myst_nb"]
root_doc = "README"
include_patterns = ["*.md", "*/README.md", "docs/*.md", "data/weights/*.md", "figures/cpu/*.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "runs"]
CONTENTS = {
    "Pages": ["docs/install", "docs/commands", "docs/data", "docs/*",
              *(path.stem for path in Path(__file__).parents[1].glob("README.*.md"))],
    "Notebooks": ["notebooks/README", "notebooks/*"],
    "Results and records": ["figures/cpu/README", "figures/cpu/*", "benchmarks/*", "data/*", "data/*/*", "[!R]*"]}
"""Captions of the side bar and the pages below each, in order; a page stands where it is named first."""

LOGGER = logging.getLogger(__name__)

suppress_warnings = ["myst.header"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the {type}"
highlight_language = "text"
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]

html_theme = "furo"
html_math_renderer = "mathml"
html_copy_source = False
html_css_files = ["site.css"]
html_static_path = ["site.css", str(files("ziamath.fonts") / "STIXTwoMath-Regular.ttf")]
# Excerpts of what was found are fetched page by page, which browsers refuse where the site is opened as files.
html_js_files = [(None, {"body": "DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol != 'file:'"})]


def as_executed(app, name, source):
    """Puts the notebook that was run in the place of the one without outputs, and the side bar on the first page."""
    if name == root_doc:
        source[0] += "".join(f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n{chr(10).join(pages)}\n```\n"
                             for caption, pages in CONTENTS.items())
    if Path(app.env.doc2path(name)).suffix == ".ipynb":
        path = Path(app.srcdir, app.config.executed, f"{Path(name).name}.ipynb")
        notebook = json.loads(path.read_text(encoding="utf-8") if path.exists() else source[0])
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
        if not all(cell["execution_count"] for cell in cells) or any(
                output["output_type"] == "error" for cell in cells for output in cell["outputs"]):
            LOGGER.warning("this notebook has not been run to its end in %s", path.parent, location=name)
        for cell in cells:
            tags = cell["metadata"].setdefault("tags", [])
            if "parameters" in tags or "injected-parameters" in tags:
                tags.append("hide-input")
        source[0] = json.dumps(notebook)
    # JupyterLab's anchors keep capitals, those of pages do not.
    source[0] = re.sub(r"(\]\((?!\w+:)[^()\s#]*)(#[^()\s]+)", lambda link: link[1] + link[2].lower(), source[0])


def mathml(self, node):
    block = isinstance(node, nodes.math_block)
    try:
        math = latex2mathml.tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        LOGGER.warning("%s", error, location=node)
    else:
        self.body.append(f'<div class="wide">{math}</div>' if block else math)
    raise nodes.SkipNode


def setup(app):
    latex2mathml.bigdelimiters |= {"big": 1, "Big": 2, "bigg": 3, "Bigg": 4}         # left and right it knows
    app.add_config_value("executed", "runs/smoke/notebooks", "env")
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("source-read", as_executed)
