"""Verbs about this machine: the viewer's programs, what fits, how fast it is."""

import argparse
from pathlib import Path

from magunet.base.errors import InputError


def run_viewer(arguments: argparse.Namespace) -> None:
    from compendium.view import offline

    match arguments.action:
        case "install":
            folder, done = offline.install(arguments.bundle and Path(arguments.bundle))
            print(f"{'installed' if done else 'already installed'}: {folder}")
            if done:
                print("reload JupyterLab's page, and itkwidgets draws in it without a network")
        case "uninstall":
            print("removed; JupyterLab's extension is as published" if offline.uninstall() else "nothing to remove")
        case "bundle":
            print(offline.write_bundle(Path(arguments.file)))
        case "check":
            problems = offline.problems()
            print(*problems, sep="\n", end="\n" if problems else "", flush=True)
            if problems:
                raise InputError("itkwidgets cannot be used here, for the reasons above; notebook 10 takes the next viewer")
            print(f"ready: {offline.extension_folder()}")


def run_doctor(arguments: argparse.Namespace) -> None:
    from compendium.bench.ceilings import ceilings_given, ceilings_of
    from compendium.doctor import least_step, machine, measured_step, memory_table, time_table
    from magunet.base.device import choose_device, choose_precision

    if arguments.ceilings:
        most = ceilings_given(*arguments.ceilings)
        print("Seconds and hours, at least:", time_table(least_step(most), most).to_string(), sep="\n\n")
        return
    device = choose_device()
    print(machine(device), memory_table(device).to_string(), sep="\n\n")
    most = ceilings_of(device, choose_precision("auto", device))
    print("", time_table(measured_step(device), most).to_string(), sep="\n")


def run_bench(arguments: argparse.Namespace) -> None:
    from compendium.bench.contests import CONTESTS
    from compendium.bench.suite import as_markdown, measure, table, write_readme

    if arguments.readme and not (arguments.json and Path(arguments.readme).is_file()):
        raise InputError(f"{arguments.readme}: --readme needs a document that exists, and --json")
    if unknown := [name for name in arguments.contest if name not in CONTESTS]:
        raise InputError(f"no contest {unknown[0]!r}; there are {', '.join(CONTESTS)}")
    results, left_out = measure(arguments.contest or list(CONTESTS), arguments.json and Path(arguments.json))
    if results:
        print(as_markdown(table(results)) if arguments.format == "md" else table(results).to_string(index=False))
    print(*(f"{result.work}: {result.note}" for result in results.values() if result.note),
          *(f"left out: {name}: {reason}" for name, reason in left_out.items()), sep="\n")
    if arguments.readme:
        write_readme(Path(arguments.readme), Path(arguments.json))
