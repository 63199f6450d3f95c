"""All contests in a row, their results in a table and in a JSON file that grows as they finish."""

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd

from compendium.bench.contest import SECONDS, Result, alone, run
from compendium.bench.contests import CONTESTS
from magunet.base import project, provenance
from magunet.base.device import choose_device
from magunet.base.errors import InputError, is_out_of_memory
from magunet.base.progress import say


def measure(names: Sequence[str], file: Path | None) -> tuple[dict[str, Result], dict[str, str]]:
    """Run contests by name, each in a fresh process. Returns name -> result, and name -> reason of those that cannot run here.

    With a file, what it holds of this revision and machine is not measured again, and every result is added at once;
    what it holds of this machine's other contests stays, each with the revision that it was measured at.
    """
    machine, revision = provenance.environment(choose_device()), provenance.git_revision(project.root(), besides=file)
    known, left_out = stored(file, machine), {}
    for name in names:
        if name in known and known[name].revision == revision and not revision.endswith("+changes"):
            continue                                            # a revision with changes could be any
        say(f"bench: {name}")
        try:
            known[name] = replace(alone(name, _result, name), revision=revision)
        except (InputError, RuntimeError, MemoryError) as error:
            if not isinstance(error, InputError) and not is_out_of_memory(error):
                raise
            known.pop(name, None)
            left_out[name] = str(error) if isinstance(error, InputError) else "there is too little memory"
            continue
        if file:
            results = {name: result.as_dict() for name, result in known.items()}
            provenance.write_json(file, {"machine": machine, "results": results})
    return {name: known[name] for name in names if name in known}, left_out


def _result(name: str) -> Result:
    with CONTESTS[name]() as contest:
        return run(contest)


def stored(file: Path | None, machine: dict) -> dict[str, Result]:
    """Results that a file holds of this machine. Raises InputError when it is something else than such a file."""
    if file is None or not file.exists():
        return {}
    measured_on, found = _content(file)
    return found if measured_on == machine else {}


def read(file: Path) -> dict[str, Result]:
    """Contest -> result, of any machine and revision. Raises InputError when the file is not from ``magunet bench``."""
    return _content(file)[1]


def described(file: Path) -> str:
    """The machine and the revisions that a file's results are of, in a line; contests are named where revisions differ."""
    machine, results = _content(file)
    measured = Counter(result.revision for result in results.values()).most_common()
    names = {revision: ", ".join(name for name, result in results.items() if result.revision == revision)
             for revision, _ in measured[1:]}
    return (f"{machine['device']}, {machine['threads']} threads, Python {machine['python']}, "
            f"torch {machine['libraries']['torch']}, MONAI {machine['libraries']['monai']}, revision {measured[0][0]}"
            + "".join(f"; {which}: {revision}" for revision, which in names.items()))


def _content(file: Path) -> tuple[dict, dict[str, Result]]:
    try:
        content = provenance.read_json(file)
        names = {field.name for field in fields(Result)}
        return content["machine"], {name: Result(**{"most": None} | {key: values[key] for key in names & values.keys()})
                                    for name, values in content["results"].items()}       # the first releases knew no "most"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: is not from 'magunet bench' ({error}); give another file") from error


def table(results: dict[str, Result]) -> pd.DataFrame:
    """One row a contest: medians, the ratio with its spread, target and floor."""
    rows = {}
    for name, result in results.items():
        ours, theirs = (statistics.median(values) for values in (result.ours, result.theirs))
        digits = "{:.3g} s" if result.unit == SECONDS else "{:.0f} MB"
        rows[name] = {
            "work": result.work, "beside": result.beside,
            "ours": digits.format(ours), "theirs": digits.format(theirs),
            "ratio": f"{result.ratio:.3f}" + (f" ({min(result.ratios):.3f} to {max(result.ratios):.3f})"
                                              if len(result.ratios) > 1 else ""),
            "target": ", ".join(form.format(aim) for form, aim in (("{:g}", result.target), (digits, result.most)) if aim),
            "met": {True: "yes", False: "no", None: ""}[result.met],
            "ours / floor": "" if result.floor is None else f"{ours / result.floor:.1f}"}
    return pd.DataFrame.from_dict(rows, orient="index")


def write_readme(file: Path, results: Path) -> None:
    """Put a file's results into a document in place of the table and the line "Measured on:" that it has.

    Raises InputError where it has neither.
    """
    text = file.read_text(encoding="utf-8")
    new = {r"\| work \| beside .*?\n(?=\n)": as_markdown(table(read(results))) + "\n",
           r"(?<=^Measured on: ).*$": described(results)}
    for old, put in new.items():
        text, count = re.subn(old, lambda _, put=put: put, text, flags=re.M | re.S if "beside" in old else re.M)
        if count != 1:
            raise InputError(f"{file}: must have one table of 'magunet bench' and one line 'Measured on:'; found {count}")
    with provenance.whole_file(file) as part:
        part.write_text(text, encoding="utf-8")


def as_markdown(frame: pd.DataFrame) -> str:
    """A table of strings in Markdown, without its index."""
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
