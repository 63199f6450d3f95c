"""What the pages say is so: their commands exist, their links lead somewhere, both READMEs say the same."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from compendium.cli import VERBS, parser
from compendium.effects import contrast
from compendium.results import read_stored
from compendium.statistics import crossed

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (".", "docs", "data", "data/weights", "figures/cpu", "notebooks", "benchmarks")
PAGES = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md")
               if path.name != "CHANGELOG.md")
"""CHANGELOG.md names what went, too."""
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def commands_of(text):
    """What a page asks its reader to type: lines of its blocks, and code within its sentences."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return [re.sub(r"\s+#.*|^\$ ", "", words).strip() for words in lines + spans]


COMMANDS = [(page, command) for page in PAGES for command in commands_of(page.read_text(encoding="utf-8"))]


def test_every_magunet_command_is_one_that_the_parser_takes():
    commands = [(page, command) for page, command in COMMANDS if re.match(r"magunet [a-z]", command)]
    assert len(commands) > 30
    for page, command in commands:
        typed = re.sub(r"\[[1-4][^]]*\]|[][]|(?<=\w)\.\.\.", "", command).replace("SOURCE", "labelmap")
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                parser().parse_args(shlex.split(typed)[1:])
        except SystemExit as end:       # only the name of a verb, as in "magunet predict reads DICOM"
            why = said.getvalue()
            assert end.code == 0 or "required" in why, f"{page.name}: {command}: {why}"
    said = re.compile(r"(?:\$\(RUN\) compendium|\{MAGUNET\}|`magunet|^magunet) ([a-z]+)", re.M)
    verbs = [verb for path in (ROOT / "Makefile", ROOT / "workflow/Snakefile", *NOTEBOOKS)
             for verb in said.findall(path.read_text("utf-8"))]
    assert len(verbs) > 10 and {*verbs} <= {*VERBS}


def test_every_target_script_and_file_that_a_command_names_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {name for _, command in COMMANDS for name in re.findall(r"^(?:\w+=\w+ )?make ([a-z-]+)", command)}
    assert {"reproduce", "test", "test-all", "lab"} <= named <= targets, named - targets
    for page, command in COMMANDS:
        for path in re.findall(r"(?:python|-s|-f|papermill) ([a-z][\w/.-]+/\w[\w.-]*)", command):
            assert (ROOT / path).exists(), f"{page.name}: {command}"


@pytest.mark.slow
def test_every_script_of_a_page_shows_the_options_that_the_page_gives_it():
    text = "\n".join(f"{command}\n" for _, command in COMMANDS)
    rows = re.findall(r"^\| `((?:speed|\w+\.py)[^`]*)` \|", (ROOT / "benchmarks/README.md").read_text(), re.M)
    commands = re.findall(r"^python ((?:benchmarks|workflow)/\w.*)$", text, re.M)
    commands += [f"benchmarks/{row}" for row in rows]
    assert len(commands) > 10
    options = {}
    for command in commands:
        script = re.match(r"\S+(?: (?:install|check|uninstall|bundle)\b)?", command)[0]
        options.setdefault(script, set()).update(re.findall(r"--[a-z-]+", command))
    for script, named in options.items():
        done = subprocess.run([sys.executable, *script.split(), "--help"], cwd=ROOT, capture_output=True,
                              text=True)
        assert done.returncode == 0, f"{script}: {done.stderr}"
        assert named <= set(re.findall(r"--[a-z-]+", done.stdout)), f"{script}: {done.stdout}"


def test_no_page_has_a_dead_link_and_the_readmes_are_one_screen():
    for page in (*PAGES, ROOT / "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).is_file(), f"{page}: {target}"
    assert len((ROOT / "README.md").read_bytes()) <= 5000
    assert len((ROOT / "README.zh.md").read_text(encoding="utf-8")) <= 5000


def test_both_readmes_have_the_same_commands_links_and_numbers():
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))

    for name, found in {
            "commands": lambda text: [command for command in commands_of(text) if " " in command],
            "links": lambda text: {*re.findall(r"\]\(([^)]+)\)", text)} - {"README.md", "README.zh.md"},
            "numbers": lambda text: sorted(re.findall(
                r"\d[\d.]*\d|\d", re.sub(r"`[^`]*`|\]\([^)]*\)", "", text))),
            "headings and points": lambda text: re.findall(r"^(?:##|\*) ", text, re.M)}.items():
        assert found(english) == found(chinese) and len(found(english)) > 6, name


def test_the_results_of_the_readme_are_those_of_the_stored_table():
    table = pd.read_csv(ROOT / "figures/cpu/table4.csv").query("group == 'all'").set_index(["row", "measure"])
    rows = re.findall(r"^\| (?:3D U-Net|MAG-UNet) \|.*\|$", (ROOT / "README.md").read_text(), re.M)
    assert len(rows) == 2
    for row, name in zip(rows, ("base", "all")):
        cells = ["{value:.1f} [{low:.1f}, {high:.1f}]".format(**table.loc[name, measure])
                 for measure in ("Dice", "HD95")]
        assert re.findall(r"[\d.]+ \[[\d., ]+\]", row) == cells, row
    main = pd.read_csv(ROOT / "figures/cpu/effects.csv").query("comparison == 'main effect'")
    assert main["verdict"].tolist() == 3 * ["equivalent"], "the sentence of both pages on the three modules"


def test_what_is_written_of_pam_by_adamw_is_what_is_stored():
    folder = ROOT / "figures/adamw"
    scales = pd.read_csv(folder / "scales.csv").query("network == '+DA' and epoch == 8")
    size = scales["value"].abs().groupby(scales["name"]).mean()
    parts = pd.read_csv(folder / "diagnostics.csv").query("network == '+DA'").groupby("part")["change"].mean()
    lead = contrast(100 * crossed(read_stored(folder).scores, "dice"), {"+DA": 1, "3D U-Net": -1})
    text = (ROOT / "docs/attention.md").read_text(encoding="utf-8").replace("\n", " ")
    for says in (f"$D$ is {size['PAM D']:.3f} in", f"$|\\alpha|$ is {size['PAM alpha']:.4f}",
                 f"by {parts['without DA']:.2f} points", f"by {parts['without the deepest step']:.2f}",
                 f"is {lead.mean:.2f} points [{lead.low:.2f}, {lead.high:.2f}]"):
        assert says in text and lead.seeds == 5 and parts["without PAM"] == 0, says


def test_the_page_of_notebooks_lists_each_with_its_thumbnail():
    page = (ROOT / "notebooks/README.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        (row,) = (line for line in page.splitlines() if f"]({path.name})" in line)
        thumbnail = path.parent / re.search(r"!\[[^]]+\]\(([^)]+)\)", row)[1]
        with Image.open(thumbnail) as picture:
            assert max(picture.size) <= 300, thumbnail
