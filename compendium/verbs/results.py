"""Verbs that print what came out, beside the paper."""

import argparse
from pathlib import Path

from compendium.verbs import export_folder, settings_of
from magunet.base.errors import InputError


def run_audit(arguments: argparse.Namespace) -> None:
    from compendium.audit.parameters import as_text, parameter_audit

    print("Parameters in Mi = 2^20; the paper writes M.")
    print(as_text(parameter_audit()))


def run_study(arguments: argparse.Namespace) -> None:
    from compendium.formats import FORMATS
    from compendium.stored import read_stored
    from compendium.study import collect
    from compendium.tables import study_table
    from magunet.base.progress import say

    if arguments.scores:
        found = read_stored(Path(arguments.scores)).collected(arguments.table)
    else:
        found = collect(arguments.table, settings_of(arguments))
    for line in found.missing:
        say(line)
    print(FORMATS[arguments.format](study_table(arguments.table, found.scores, found.sides), found.notes))


def run_claims(arguments: argparse.Namespace) -> None:
    from compendium.audit.rankings import means, run_scores
    from compendium.audit.verdicts import as_markdown, judged
    from compendium.stored import read_stored

    scores = means(read_stored(Path(arguments.scores)).scores) if arguments.scores else run_scores(settings_of(arguments))
    print(as_markdown(judged(scores), "notebooks/11_paper_audit.ipynb"))


def run_findings(arguments: argparse.Namespace) -> None:
    import pandas as pd

    from compendium.findings import findings
    from compendium.overview import scored_runs
    from compendium.scores import read_scores
    from compendium.stored import NOTHING_SCORED, read_stored

    if arguments.scores:
        scores = read_stored(Path(arguments.scores)).scores
    else:
        settings = settings_of(arguments)
        if not (runs := scored_runs(settings)):
            raise InputError(NOTHING_SCORED.format(settings.profile))
        scores = pd.concat(map(read_scores, runs), ignore_index=True)
    print(findings(scores), end="")


def run_redraw(arguments: argparse.Namespace) -> None:
    from compendium.redraw import redraw

    print(*redraw(Path(arguments.folder)), sep="\n")


def run_efficiency(arguments: argparse.Namespace) -> None:
    from compendium.bench.ceilings import ceilings_given, ceilings_of
    from compendium.efficiency import efficiency
    from compendium.figures.curves import read_curves
    from compendium.stored import read_stored
    from magunet.base.device import choose_device, choose_precision
    from magunet.base.provenance import device_name

    stored, device = read_stored(Path(arguments.folder)), choose_device()
    if arguments.ceilings:
        most = ceilings_given(*arguments.ceilings)
    else:
        if others := sorted({run["device"] for run in stored.runs} - {device_name(device)}):
            raise InputError(f"{arguments.folder}: trained on {others[0]}, and this is {device_name(device)}; give what that "
                             "machine can do at most: --ceilings TFLOP/S TB/S")
        most = ceilings_of(device, choose_precision(stored.settings.precision, device))
    print(efficiency(stored.runs, read_curves(stored), stored.settings, most).to_string(index=False))


def run_store(arguments: argparse.Namespace) -> None:
    from compendium.overview import scored_runs
    from compendium.stored import store

    settings = settings_of(arguments)
    print(*store(scored_runs(settings), settings, export_folder(arguments.out)), sep="\n")


def run_report(arguments: argparse.Namespace) -> None:
    from compendium.overview import overview

    print(overview(settings_of(arguments)))
