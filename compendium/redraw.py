"""All that stored results determine, written again, so that every number in a folder has one source."""

from pathlib import Path

from compendium.audit.claims import judged, save_claims
from compendium.diagnostics import DIAGNOSTICS_FILE, diagnostics_report, read_diagnostics
from compendium.effects import effects_report, module_effects
from compendium.figures.curves import learning_curves, read_curves
from compendium.figures.forest import effects_forest, forest
from compendium.figures.planes import save_figure, source_of
from compendium.grid import networks_of
from compendium.results import Results
from magunet.studies import checked


def redraw(stored: Results, folder: Path) -> list[Path]:
    """Write tables, effects, diagnostics (.csv, .md), claims.md, and figures of tables, effects and curves.

    stored: of `compendium.results.read_stored`. Networks without scores keep their rows. Returns the files.
    Raises InputError when something stored is missing or damaged; all is computed before anything is written.
    """
    curves, verdicts = read_curves(stored), judged(stored.scores)
    reports, figures, networks = {}, {}, {}
    for table in (1, 2, 3, 4):
        reports[f"table{table}"] = report = stored.report(table)
        networks[report.title] = list(map(checked, networks_of(table)))
        figures[f"table{table}"] = forest(report.numbers), networks[report.title]
    figures["curves"] = learning_curves(curves, networks), sorted(set(curves["network"]))
    reports["effects"] = effects_report(stored.scores)
    figures["effects"] = effects_forest(module_effects(stored.scores)), networks[report.title]
    if (stored.folder / DIAGNOSTICS_FILE).exists():
        reports["diagnostics"] = diagnostics_report(read_diagnostics(stored.folder))
    files = [folder / "claims.md"]
    save_claims(verdicts, files[0], source_of(stored.settings))
    for name, report in reports.items():
        files += report.save(folder / name)
    for name, (figure, names) in figures.items():
        runs = [Path(f"{network.replace(' ', '-')}-{run['settings_hash']}-s{run['seed']}")
                for network in names for run in stored.runs if run["network"] == network]
        source, path = source_of(stored.settings, runs), folder / f"{name}.png"
        files += [save_figure(figure, path, source, dpi=200), path.with_suffix(".pdf")]
    return files
