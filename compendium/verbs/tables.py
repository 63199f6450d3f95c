"""Verbs that print and write what came out, beside the paper, and what this machine can do."""

from pathlib import Path

from compendium.verbs import PROFILE, Words, argument, export_folder, verb
from magunet.base import profiles
from magunet.base.errors import require
from magunet.base.progress import say


@verb("print a table of the paper measured on finished runs, what becomes of its claims, effects of the "
      "modules, or parameter counts; default: an overview of the profile",
      "tables 4 --profile cpu --format md",
      argument("table", nargs="?", choices=("1", "2", "3", "4", "claims", "effects", "parameters"),
               help="default: an overview"), PROFILE,
      argument("--scores", type=Path, metavar="FOLDER", help="take scores that --out has stored"),
      argument("--format", choices=("text", "csv", "md", "latex"), default="text", help="default: text"),
      argument("--out", type=Path, metavar="FOLDER", help="store scores, curves and records of the profile's "
               "scored runs here, as in figures/PROFILE, and write all tables and figures from them"))
def tables(words: Words) -> None:
    from compendium.formats import FORMATS
    from compendium.redraw import redraw
    from compendium.results import RUNS_FILE, STORED_SCORES, read_stored, store
    if words.out:
        require(not words.table, f"--out writes all tables, not only {words.table}; leave out its name")
        out = export_folder(words.out)
        for path in (out / name for name in (*STORED_SCORES, "table1.csv", "effects.csv")):
            require(not path.exists() or (out / RUNS_FILE).exists() or (out / "claims.md").exists(),
                    f"{path}: is there already, and not from 'magunet tables --out'; give another folder")
        files = [] if words.scores else store(profiles.load(words.profile), out)
        print(*files, *redraw(read_stored(words.scores or out), out), sep="\n")
    else:
        print(FORMATS[words.format](_report(words)))


def _report(words: Words):
    """The `compendium.formats.Report` to print; only Tables 1 to 4 score runs that lack scores."""
    from compendium.audit.claims import judged, linked
    from compendium.audit.parameters import parameter_audit
    from compendium.effects import effects_report
    from compendium.formats import Report
    from compendium.grid import networks_of
    from compendium.results import collect, overview, read_stored
    from magunet.studies import NETWORKS
    if words.table == "parameters":
        numbers = parameter_audit()
        forms = {"paper Mi": "{:.2f}", "parameters": "{:,}", "Mi": "{:.3f}", "difference": "{:+.3f}"}
        cells = numbers.assign(**{name: numbers[name].map(form.format).replace(form.format(float("nan")), "-")
                                  for name, form in forms.items()}).set_index("row").rename_axis(None)
        return Report("Parameters", {"Mi is 1024 x 1024; the paper writes M": cells}, numbers)
    number = int(words.table) if (words.table or "").isdigit() else None
    results = read_stored(words.scores) if words.scores else collect(
        profiles.load(words.profile), networks_of(number) if number else NETWORKS, score=bool(number))
    if number:
        for line in results.missing(number):
            say(line)
        return results.report(number)
    if words.table == "claims":
        verdicts = judged(results.scores)
        cells = linked(verdicts, "notebooks/11_paper_audit.ipynb") if words.format == "md" else verdicts
        return Report("The paper's claims", {"Shown in notebook 11": cells}, verdicts)
    return effects_report(results.scores) if words.table == "effects" else overview(results)


@verb("say what this machine has, which profiles fit into its memory, and how long they take", "doctor")
def doctor(words: Words) -> None:
    from compendium.doctor import machine, profile_table
    from magunet.base.device import choose_device
    device = choose_device()
    table = profile_table(device, timed=profiles.load("gpu" if device.type == "cuda" else "cpu"))
    print(machine(device), table.T.to_string(float_format="{:.3g}".format), sep="\n\n")
