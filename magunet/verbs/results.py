"""Verbs that print what came out, beside the paper."""

import argparse
from pathlib import Path

from magunet.errors import InputError
from magunet.verbs import export_folder, settings_of


def run_audit(arguments: argparse.Namespace) -> None:
    from magunet.report.audit import as_text, parameter_audit

    print("Parameters in Mi = 2^20; the paper writes M.")
    print(as_text(parameter_audit()))


def run_study(arguments: argparse.Namespace) -> None:
    from magunet.progress import say
    from magunet.report.formats import FORMATS
    from magunet.report.stored import read_stored
    from magunet.report.study import collect
    from magunet.report.tables import study_table

    if arguments.scores:
        found = read_stored(Path(arguments.scores)).collected(arguments.table)
    else:
        found = collect(arguments.table, settings_of(arguments))
    for line in found.missing:
        say(line)
    print(FORMATS[arguments.format](study_table(arguments.table, found.scores, found.sides), found.notes))


def run_claims(arguments: argparse.Namespace) -> None:
    from magunet.report.rankings import means, run_scores
    from magunet.report.stored import read_stored
    from magunet.report.verdicts import as_markdown, judged

    scores = means(read_stored(Path(arguments.scores)).scores) if arguments.scores else run_scores(settings_of(arguments))
    print(as_markdown(judged(scores), "notebooks/11_paper_audit.ipynb"))


def run_findings(arguments: argparse.Namespace) -> None:
    import pandas as pd

    from magunet.report.findings import findings
    from magunet.report.overview import scored_runs
    from magunet.report.scores import read_scores
    from magunet.report.stored import NOTHING_SCORED, read_stored

    if arguments.scores:
        scores = read_stored(Path(arguments.scores)).scores
    else:
        settings = settings_of(arguments)
        if not (runs := scored_runs(settings)):
            raise InputError(NOTHING_SCORED.format(settings.profile))
        scores = pd.concat(map(read_scores, runs), ignore_index=True)
    print(findings(scores), end="")


def run_redraw(arguments: argparse.Namespace) -> None:
    from magunet.report.redraw import redraw

    print(*redraw(Path(arguments.folder)), sep="\n")


def run_efficiency(arguments: argparse.Namespace) -> None:
    from magunet.bench.ceilings import ceilings_given, ceilings_of
    from magunet.learn.device import choose_device, choose_precision
    from magunet.provenance import device_name
    from magunet.report.curves import read_curves
    from magunet.report.efficiency import efficiency
    from magunet.report.stored import read_stored

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
    from magunet.report.overview import scored_runs
    from magunet.report.stored import store

    settings = settings_of(arguments)
    print(*store(scored_runs(settings), settings, export_folder(arguments.out)), sep="\n")


def run_report(arguments: argparse.Namespace) -> None:
    from magunet.report.overview import overview

    print(overview(settings_of(arguments)))
