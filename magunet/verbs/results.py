"""Verbs that print what came out, beside the paper."""

import argparse
from pathlib import Path

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


def run_store(arguments: argparse.Namespace) -> None:
    from magunet.report.overview import scored_runs
    from magunet.report.stored import store

    settings = settings_of(arguments)
    print(*store(scored_runs(settings), settings, export_folder(arguments.out)), sep="\n")


def run_report(arguments: argparse.Namespace) -> None:
    from magunet.report.overview import overview

    print(overview(settings_of(arguments)))
