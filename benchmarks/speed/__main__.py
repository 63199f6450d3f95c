"""How fast magunet is beside other ways of doing the same; what each contest measures is said in contests.py.

    python benchmarks/speed [CONTEST ...] [--json FILE] [--show]

Prints a Markdown table. With --json results are stored one by one, and an interrupted run goes on from there.
With --show nothing is measured and the file is printed, by default benchmarks/results.json.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))       # the project's root

from benchmarks.speed import results
from benchmarks.speed.contests import CONTESTS
from magunet.base import project
from magunet.base.errors import InputError


def main(words: list[str] | None = None) -> None:
    """Measure or read, and print."""
    parser = argparse.ArgumentParser(prog="benchmarks/speed", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contest", nargs="*", help=f"default: all; there are {', '.join(CONTESTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store the results here")
    parser.add_argument("--show", action="store_true", help="print stored results")
    arguments = parser.parse_args(words)
    for name in arguments.contest:
        if name not in CONTESTS:
            raise InputError(f"no contest {name!r}; there are {', '.join(CONTESTS)}")
    names, missing = arguments.contest or list(CONTESTS), {}
    if arguments.show:
        file = arguments.json or project.root() / "benchmarks" / "results.json"
        measurements = {name: result for name, result in results.read(file)[1].items()
                        if name in arguments.contest or not arguments.contest}
        print(results.origin(file), end="\n\n")
    else:
        measurements, missing = results.measure(names, arguments.json)
    print(results.table(measurements).to_markdown(tablefmt="github", disable_numparse=True))
    print(*(f"{name}: {result.note}" for name, result in measurements.items() if result.note), sep="\n")
    print(*(f"left out: {name}: {reason}" for name, reason in missing.items()), sep="\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"benchmarks/speed: {error}")
