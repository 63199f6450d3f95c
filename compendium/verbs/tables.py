"""The verb that prints and writes what came out, beside the paper."""

from pathlib import Path

from compendium.verbs import Arguments, add_profile, add_verb, export_folder, settings_of
from magunet.base.errors import InputError

TABLES = ("1", "2", "3", "4", "claims", "effects", "parameters")
"""What can be printed beside a profile's overview."""
NOTEBOOK = "notebooks/11_paper_audit.ipynb"
"""Where each claim is looked into."""


def add_tables(verbs) -> None:
    parser = add_verb(verbs, "tables", run_tables,
                      "print a table of the paper measured on finished runs, what becomes of "
                      "its claims, effects of the modules, or parameter counts; default: an overview of the "
                      "profile",
                      "tables 4 --profile cpu --format md")
    parser.add_argument("table", nargs="?", choices=TABLES, help=f"one of {', '.join(TABLES)}")
    source = parser.add_mutually_exclusive_group()
    add_profile(source)
    source.add_argument("--scores", metavar="FOLDER", help="take scores that --out stored, not runs")
    parser.add_argument("--format", choices=("text", "csv", "md", "latex"), default="text",
                        help="default: text")
    parser.add_argument("--out", metavar="FOLDER",
                        help="store scores, curves and records of the profile's scored runs in this folder, such as "
                        "figures/PROFILE, and write all tables and their figures from them")


def run_tables(arguments: Arguments) -> None:
    from compendium.formats import FORMATS

    if arguments.out:
        if arguments.table:
            raise InputError(f"--out writes all tables, not only {arguments.table}; leave out its name")
        print(*_write(arguments, export_folder(arguments.out)), sep="\n")
    else:
        print(FORMATS[arguments.format](_report(arguments)))


def _write(arguments: Arguments, folder: Path) -> list[Path]:
    from compendium.redraw import redraw
    from compendium.results import read_stored, store

    if arguments.scores:
        return redraw(read_stored(Path(arguments.scores)), folder)
    return store(settings_of(arguments), folder) + redraw(read_stored(folder), folder)


def _report(arguments: Arguments):
    """The `compendium.formats.Report` of the arguments; only Tables 1 to 4 score runs that lack scores."""
    from compendium.effects import effects_report
    from compendium.grid import networks_of
    from compendium.overview import overview
    from compendium.results import collect, read_stored
    from magunet.base.progress import say

    if arguments.table == "parameters":
        return _parameters()
    number = int(arguments.table) if arguments.table in ("1", "2", "3", "4") else None
    if arguments.scores:
        results = read_stored(Path(arguments.scores))
    elif number:
        results = collect(settings_of(arguments), networks_of(number))
    else:
        results = collect(settings_of(arguments), score=False)
    if number:
        for line in results.missing(number):
            say(line)
        return results.report(number)
    if arguments.table == "claims":
        return _claims(results.scores, arguments.format == "md")
    return effects_report(results.scores) if arguments.table == "effects" else overview(results)


def _claims(scores, links: bool):
    from compendium.audit.rankings import means
    from compendium.audit.verdicts import judged, link
    from compendium.formats import Report

    verdicts = judged(means(scores))
    linked = verdicts.assign(shown=[link(heading, NOTEBOOK) for heading in verdicts["shown"]])
    tables = {"What becomes of them, and where notebook 11 shows it": linked if links else verdicts}
    return Report("The paper's claims", tables, (), verdicts)


def _parameters():
    from compendium.audit.parameters import parameter_audit
    from compendium.formats import Report

    numbers = parameter_audit()
    cells = numbers.astype(object)
    forms = {"paper Mi": "{:.2f}", "parameters": "{:,}", "Mi": "{:.3f}", "difference": "{:+.3f}"}
    for name, form in forms.items():
        cells[name] = ["-" if value != value else form.format(value) for value in numbers[name]]      # NaN
    cells = cells.set_index("row").rename_axis(None)
    return Report("Parameters", {"Mi is 2^20; the paper writes M": cells}, (), numbers)
