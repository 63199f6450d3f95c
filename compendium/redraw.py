"""All that stored results determine, written again, so that every number in a folder has one source."""

from pathlib import Path

from compendium.audit.claims import judged, means, save_claims
from compendium.diagnostics import DIAGNOSTICS_FILE, diagnostics_report, read_diagnostics
from compendium.effects import effects_report
from compendium.figures.curves import COMPARED, learning_curves, read_curves
from compendium.figures.forest import forest
from compendium.figures.planes import save_figure, source_of
from compendium.grid import networks_of, trained_as
from compendium.results import Results


def redraw(stored: Results, folder: Path) -> list[Path]:
    """Write tables, effects, diagnostics (.csv, .md), claims.md, figures of tables and learning curves.

    stored: of `compendium.results.read_stored`. Networks without scores keep their rows. Learning curves are
    those of the 3D U-Net and MAG-UNet, or of the first run where neither is stored. Returns the files. Raises
    InputError when something stored is missing or damaged; all is computed before anything is written.
    """
    curves, verdicts = read_curves(stored), judged(means(stored.scores))
    reports, figures = {}, {}
    for table in (1, 2, 3, 4):
        reports[f"table{table}"] = report = stored.report(table)
        figures[f"table{table}"] = forest(report.numbers), dict.fromkeys(map(trained_as, networks_of(table)))
    compared = [name for name in COMPARED if name in set(curves["network"])] or [curves["network"].iloc[0]]
    figures["curves"] = learning_curves(curves, compared), compared
    reports["effects"] = effects_report(stored.scores)
    if (stored.folder / DIAGNOSTICS_FILE).exists():
        reports["diagnostics"] = diagnostics_report(read_diagnostics(stored.folder))
    files = [folder / "claims.md"]
    save_claims(verdicts, files[0], source_of(stored.settings))
    for name, report in reports.items():
        files += report.save(folder / name)
    for name, (figure, networks) in figures.items():
        runs = [Path(f"{network.replace(' ', '-')}-{run['settings_hash']}-s{run['seed']}")
                for network in networks for run in stored.runs if run["network"] == network]
        picture = save_figure(figure, folder / f"{name}.png", source_of(stored.settings, runs))
        files += [picture, picture.with_suffix(".pdf")]
    return files
