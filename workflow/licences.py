"""Prints the table of THIRD_PARTY.md: what is asked for, why, and under which licence.

    python workflow/licences.py > THIRD_PARTY.md

The reasons are the comments in pyproject.toml, the licences what the installed packages say of themselves.
"""

import re
from importlib import metadata
from pathlib import Path

LINE = re.compile(r'^    "([\w.-]+)[^"]*",? *(?:# (.*))?$')
HEAD = """# Third-party packages

What `pyproject.toml` asks for; what these need in turn stands in `requirements.lock`. Nothing of them is part
of this repository. The GPU libraries in `requirements-gpu.lock` are NVIDIA's, under its own terms. Made by
`python workflow/licences.py`; a test compares it with the packages that are installed.

| package | licence | what for |
|---|---|---|
"""


def licence(name: str) -> str:
    """As the package says: an SPDX expression, else its classifiers, else the first line of its text."""
    said = metadata.metadata(name)
    classified = [text.split(" :: ")[-1] for text in said.get_all("Classifier", [])
                  if text.startswith("License ::")]
    text = (said["License"] or "not stated").splitlines()[0]
    return said["License-Expression"] or "; ".join(classified) or text


def wanted(text: str) -> dict[str, str]:
    """Name -> reason, of all dependencies in pyproject.toml, also the optional ones; a comment may stand
    above a line."""
    found, above = {}, ""
    for line in text.split("dependencies = [", 1)[1].split("[project.scripts]")[0].splitlines():
        if match := LINE.match(line):
            found[match[1]] = match[2] or above
        above = line.strip()[2:] if line.startswith("    #") else ""
    return found


def table(root: Path) -> str:
    reasons = wanted((root / "pyproject.toml").read_text("utf-8"))
    return HEAD + "".join(f"| {name} | {licence(name)} | {reasons[name]} |\n" for name in reasons)


if __name__ == "__main__":
    print(table(Path(__file__).resolve().parents[1]), end="")
