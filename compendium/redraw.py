"""All that stored results determine, written into their folder again, so that every number in it has one source."""

from collections.abc import Iterable
from pathlib import Path

from compendium.audit.rankings import means
from compendium.audit.verdicts import judged, save_claims
from compendium.figures.curves import COMPARED, learning_curves, read_curves
from compendium.figures.forest import forest
from compendium.figures.planes import save_figure, source_of
from compendium.findings import findings
from compendium.formats import save_table
from compendium.paper import TABLES
from compendium.stored import RUNS_FILE, Stored, read_stored
from compendium.study import networks_of
from compendium.tables import study_table, trained_as
from magunet.base.errors import InputError
from magunet.base.provenance import whole_file


def redraw(folder: Path) -> list[Path]:
    """Write Tables 1 to 4 (.csv, .md, and as figures), claims.md, findings.md and the learning curves; return the files.

    folder: what `compendium.stored.store` wrote; needs neither runs nor data nor a GPU. Networks without scores keep
    their rows. Learning curves are those of the 3D U-Net and MAG-UNet, or of the first run where neither is stored.
    Raises InputError when something stored is missing or damaged. All is computed before anything is written, and each
    file is written whole or not at all.
    """
    stored = read_stored(folder)
    curves = read_curves(stored)
    found = {table: stored.collected(table) for table in range(1, 1 + len(TABLES))}
    numbers = {table: study_table(table, each.scores, each.sides) for table, each in found.items()}
    verdicts, said = judged(means(stored.scores)), findings(stored.scores)
    figures = [(f"table{table}", forest(each), _source(stored, map(trained_as, networks_of(table))))
               for table, each in numbers.items()]
    compared = [name for name in COMPARED if name in set(curves["network"])] or [curves["network"].iloc[0]]
    figures.append(("curves", learning_curves(curves, compared), _source(stored, compared)))
    files = [folder / "claims.md", folder / "findings.md"]
    save_claims(verdicts, files[0], source_of(stored.settings))
    with whole_file(files[1]) as part:
        part.write_text(said)
    for table, each in numbers.items():
        files += save_table(each, folder / f"table{table}", found[table].notes)
    for name, figure, source in figures:
        picture = save_figure(figure, folder / f"{name}.png", source)
        files += [picture, picture.with_suffix(".pdf")]
    return files


def _source(stored: Stored, networks: Iterable[str]) -> str:
    """`source_of` the stored runs of these networks, in this order; their folders need not be there any more."""
    try:
        runs = [Path(f"{name.replace(' ', '-')}-{run['settings_hash']}-s{run['seed']}")
                for name in dict.fromkeys(networks) for run in stored.runs if run["network"] == name]
    except KeyError as error:
        raise InputError(f"{stored.folder / RUNS_FILE}: does not name the {error} of a run; store the profile's results "
                         "again") from error
    return source_of(stored.settings, runs)
