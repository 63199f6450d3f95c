"""Sphinx makes one site of the pages and the executed notebooks: `make docs` puts it in runs/docs/site.

Nothing in it asks any host for anything: equations are MathML, search is Sphinx' own, and no widget is drawn.
The pages stay as they are read in the repository; links to files that are no pages lead to copies of these.
"""

import json
import re
from importlib.resources import files
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.search.en import SearchEnglish
from sphinx.util import logging

project = html_title = "magunet"
extensions = ["myst_nb"]
root_doc = "README"
include_patterns = ["*.md", "*/README.md", "docs/*.md", "data/weights/*.md", "figures/cpu/*.md",
                    "notebooks/*.ipynb"]
exclude_patterns = [".*", "runs"]
CONTENTS = {
    "Pages": ["docs/install", "docs/commands", "docs/data", "docs/glossary", "docs/*",
              *(f"中文 <{path.stem}>" for path in Path(__file__).parents[1].glob("README.zh.md"))],
    "Notebooks": ["notebooks/README", "notebooks/*"],
    "Results and records": ["figures/cpu/README", "figures/cpu/*", "benchmarks/*", "data/*", "data/*/*",
                            "[!R]*"]}
"""Captions of the side bar and the pages below each, in order; a page stands where it is named first."""

suppress_warnings = ["myst.header"]                 # stored tables begin with headings of the second rank
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_render_markdown_format = "myst"                  # tables of outputs, too
nb_execution_mode = "off"                           # the workflow has run them
nb_merge_streams = True
nb_code_prompt_show = "Show the {type}"
nb_ipywidgets_js = {}                               # nor any other script from elsewhere
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]

html_theme = "furo"
html_favicon = "icon.svg"
html_math_renderer = "mathml"
highlight_language = "text"
html_copy_source = html_show_copyright = False
html_css_files = ["site.css"]
html_static_path = ["site.css", str(files("ziamath.fonts") / "STIXTwoMath-Regular.ttf")]
# Excerpts of what was found are fetched from the pages, which browsers refuse of local files.
html_js_files = [(None, {"body": "DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol != 'file:'"})]
LOGGER = logging.getLogger(__name__)


def read(app, name, source):
    """Changes a page's text as it is read: what a reader of the repository has no need of."""
    if name == root_doc:
        for caption, pages in CONTENTS.items():
            entries = "\n".join([":hidden:", ":glob:", f":caption: {caption}", *pages])
            source[0] += f"\n```{{toctree}}\n{entries}\n```\n"
    if name.startswith("notebooks/") and not name.endswith("README"):
        path = Path(app.srcdir, app.config.executed, f"{Path(name).name}.ipynb")
        notebook = json.loads(path.read_text(encoding="utf-8") if path.exists() else source[0])
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and any(cell["source"])]
        errors = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
        if errors or not all(cell["execution_count"] for cell in cells):
            LOGGER.warning("not run to its end; make docs does that", location=name)
        for cell in cells:
            if {"parameters", "injected-parameters"} & {*cell["metadata"].get("tags", [])}:
                cell["metadata"]["tags"].append("hide-input")
        source[0] = json.dumps(notebook)
    # Lines of Chinese are joined without a space.
    source[0] = re.sub(r"(?<=[\u3000-\u9fff])\n(?=[\u3000-\u9fff])", "", source[0])
    # JupyterLab's anchors keep capitals, those of pages do not.
    anchor = r"(\]\((?!\w+:)[^()\s#]*)(#[^()\s]+)"
    source[0] = re.sub(anchor, lambda link: link[1] + link[2].lower(), source[0])


class Search(SearchEnglish):
    """English, and every two to four Chinese characters in a row, since no space parts their words."""

    def split(self, input):
        words = super().split(input)
        return words + [word[i:i + size] for word in words if word[0] > "\u3000"
                        for size in (2, 3, 4) for i in range(len(word) - size + 1)]


def mathml(self, node):
    """Writes an equation; one that cannot be written is a warning, and so an error."""
    block = isinstance(node, nodes.math_block)
    try:
        math = latex2mathml.tex2mathml(node.astext(), as_block=block)
        self.body.append(f'<div class="wide">{math}</div>' if block else math)
    except MathError as error:
        LOGGER.warning("%s", error, location=node)
    raise nodes.SkipNode


def setup(app):
    """What Sphinx calls first."""
    latex2mathml.bigdelimiters |= {"big": 1, "Big": 2, "bigg": 3, "Bigg": 4}         # left and right it knows
    app.add_config_value("executed", "runs/smoke/notebooks", "env")
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.add_search_language(Search)
    app.connect("source-read", read)
