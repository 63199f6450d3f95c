"""Contests measured one after the other, and a JSON file that grows as they finish."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from benchmarks.speed.contest import SECONDS, Result, alone, run
from benchmarks.speed.contests import CONTESTS
from magunet.base import project, provenance
from magunet.base.device import choose_device
from magunet.base.errors import InputError, is_out_of_memory
from magunet.base.progress import say


def measure(names: Sequence[str], file: Path | None = None) -> tuple[dict[str, Result], dict[str, str]]:
    """Contests by name, each in a fresh process: name -> result, and name -> why it cannot run here.

    With a file, every result is added to it at once, and what is of this revision is not measured again.
    Raises InputError, before anything is measured, for a file of another machine or of other libraries.
    """
    machine = provenance.environment(choose_device())
    revision, results, missing = provenance.git_revision(project.root()), {}, {}
    if file is not None and file.exists():
        other, results = read(file)
        if other != machine:
            raise InputError(f"{file}: is of another machine or other libraries, whose results do not stand "
                             "beside this one's; give another file, or remove it to measure all of them here")
    for name in names:
        if name in results and results[name].revision == revision and not revision.endswith("+changes"):
            continue                                        # a revision with changes could be any
        say(f"speed: {name}")
        try:
            results[name] = replace(alone(result_of, name), revision=revision)
        except (InputError, RuntimeError, MemoryError) as error:
            if not isinstance(error, InputError) and not is_out_of_memory(error):
                raise
            missing[name] = str(error) if isinstance(error, InputError) else "there is too little memory"
        if file is not None and name not in missing:
            content = {key: asdict(result) for key, result in results.items()}
            provenance.write_json(file, {"machine": machine, "results": content})
    return {name: results[name] for name in names if name not in missing}, missing


def result_of(name: str) -> Result:
    """One contest, run in this process."""
    with TemporaryDirectory(prefix="magunet-speed-") as folder:
        return run(CONTESTS[name](Path(folder)))


def read(file: Path) -> tuple[dict, dict[str, Result]]:
    """The machine, and contest -> result. Raises InputError where the file is something else."""
    names = {field.name for field in fields(Result)}
    try:
        content = provenance.read_json(file)
        return content["machine"], {name: Result(**{key: values[key] for key in names & values.keys()})
                                    for name, values in content["results"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: is not from benchmarks/speed ({error}); give another file") from error


def origin(file: Path) -> str:
    """The machine and the revisions that a file's results are of, in a line."""
    machine, results = read(file)
    (revision, _), *others = Counter(result.revision for result in results.values()).most_common()
    names = {other: ", ".join(name for name, result in results.items() if result.revision == other)
             for other, _ in others}
    return "; ".join([f"{machine['device']}, {machine['threads']} threads, Python {machine['python']}, "
                      f"torch {machine['libraries']['torch']}, MONAI {machine['libraries']['monai']}, "
                      f"revision {revision}", *(f"{which}: {other}" for other, which in names.items())])


def table(results: dict[str, Result]) -> pd.DataFrame:
    """One row a contest: medians, the ratio with its spread, target; all as text."""
    rows = {}
    for name, result in results.items():
        form, ratios = "{:.3g} s" if result.unit == SECONDS else "{:.0f} MB", result.ratios
        aims = [("{:g}", result.target), (form, result.most)]
        spread = f" ({min(ratios):.3f} to {max(ratios):.3f})" if len(ratios) > 1 else ""
        rows[name] = {"work": result.work, "beside": result.beside,
                      "ours": form.format(statistics.median(result.ours)),
                      "theirs": form.format(statistics.median(result.theirs)),
                      "ratio": f"{statistics.median(ratios):.3f}{spread}",
                      "target": ", ".join(text.format(aim) for text, aim in aims if aim is not None),
                      "met": {True: "yes", False: "no", None: ""}[result.met]}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("contest")
