"""The ``magunet`` command: one verb per step from a CT to a table.

Results go to stdout, progress to stderr. Exit status: 0 done, 2 something given is wrong (one line says
what), 130 interrupted, by Ctrl-C or SIGTERM.
"""

import argparse
import contextlib
import math
import signal
import sys
import threading
from collections.abc import Iterator

from compendium.verbs import data, learning, machine, results
from compendium.view import FORMATS
from magunet.base.errors import InputError, is_out_of_memory


class OneLineParser(argparse.ArgumentParser):
    """Wrong arguments are one line and status 2, without the usage text around it."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see '{self.prog} --help')\n")


def seed_number(text: str) -> int:
    """A seed that torch takes."""
    from magunet.base.profiles import LARGEST_SEED

    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {LARGEST_SEED}")
    return int(text)


def case_count(text: str) -> int:
    """A number of cases."""
    if not text.isdecimal() or not 0 < int(text) < 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of cases from 1 to 99999")
    return int(text)


def above_zero(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def format_names(text: str) -> tuple[str, ...]:
    """Formats to export, separated by commas."""
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in FORMATS]:
        raise argparse.ArgumentTypeError(f"no format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    return names


def parser() -> argparse.ArgumentParser:
    """All verbs and their arguments."""
    top = OneLineParser(prog="magunet", description="Sacroiliac joints in CT, after the MAG-UNet paper.")
    top.add_argument("--plain", action="store_true", help="compute without the fast ways, to compare with: float32, whole arrays")
    commands = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=OneLineParser)

    def verb(name: str, call, text: str, profile: bool = False) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(call=call)
        if profile:
            made.add_argument("--profile", default="smoke", help="a name in papermill_params/, or a YAML file")
        return made

    verb("sample", data.run_sample, "download the real sample CT and derive its joint mask")
    verb("cohort", data.run_cohort, "make the profile's cohort and print its folder", profile=True)
    verb("check", data.run_check, "check a cohort in nnU-Net raw layout").add_argument("cohort")
    verb("prepare", data.run_prepare, "prepare the profile's cases for training", profile=True)
    train = verb("train", learning.run_train, "train a network, or go on, and print its run folder", profile=True)
    train.add_argument("network", help="a row of the paper's tables, such as MAG-UNet or '3D U-Net'")
    train.add_argument("--seed", type=seed_number, help="default: the profile's first")
    train.add_argument("--recompute", choices=("auto", "always", "never"), default="auto",
                       help="less memory for more time, the same weights; default: where memory demands it")
    verb("evaluate", learning.run_evaluate, "score a run on its validation cases").add_argument("run")
    predict = verb("predict", learning.run_predict, "segment a CT: mask, picture, files for 3D Slicer and PACS, a report")
    predict.add_argument("ct", help="DICOM folder, NIfTI, NRRD or MHA")
    predict.add_argument("--model", help="a run folder; default: the weights that come with magunet, of data/weights")
    predict.add_argument("--out", required=True, help="folder to write into")
    predict.add_argument("--quick", action="store_true", help="look for the joints at low resolution first, segment only there")
    predict.add_argument("--engine", choices=("torch", "openvino"), default="torch",
                         help="what runs the network; openvino: quicker on processors without bfloat16")
    exports = verb("export", learning.run_export, "the same files of cases of a run's own cohort, prediction and truth")
    exports.add_argument("run", help="a run folder")
    exports.add_argument("case", nargs="+", help="names of cases of the cohort that the run was trained on")
    exports.add_argument("--out", help="folder to write into; default: exports in the run's folder")
    for made in (predict, exports):
        made.add_argument("--formats", type=format_names, help=f"some of {', '.join(FORMATS)}; default: all but vtp")
        made.add_argument("--anonymise", action="store_true", help="neutral file names; no patient and new UIDs in DICOM SEG")
    phantoms = verb("phantom", data.run_phantom, "make phantoms with the spacing, slices and noise of a cohort's scans")
    phantoms.add_argument("--like", required=True, metavar="COHORT", help="the cohort whose scans they take after")
    phantoms.add_argument("--out", required=True, help="folder for the new cohort")
    phantoms.add_argument("--cases", type=case_count, help="how many; default: as many as the cohort has")
    phantoms.add_argument("--seed", type=seed_number, default=0, help="of the first phantom (0); the next ones count up")
    imports = verb("import", data.run_import, "make a cohort of a public data set, or of your own CTs with bone labels")
    imports.add_argument("source", choices=("totalsegmentator", "vsd", "ctpelvic1k", "pengwin", "labelmap"))
    imports.add_argument("src", help="the folder it is unpacked in; for labelmap a CT, or a folder of CTs")
    imports.add_argument("--out", required=True, help="folder for the cohort")
    own = imports.add_argument_group("labelmap", "label numbers default to those of TotalSegmentator")
    own.add_argument("--labels", help="the segmentation, or a folder of them named like the CTs")
    for name, example in (("sacrum", "25 26"), ("left-hip", "77"), ("right-hip", "78")):
        own.add_argument(f"--{name}", type=int, nargs="+", metavar="N", help=f"its label numbers, default {example}")
    own.add_argument("--patient", help="whose CTs these are, where one patient has several; default: each its own")
    study = verb("study", results.run_study, "print one of the paper's tables, measured on the profile's finished runs",
                 profile=True)
    study.add_argument("table", type=int, choices=(1, 2, 3, 4), help="its number in the paper")
    study.add_argument("--format", choices=("text", "csv", "md", "latex"), default="text", help="default: text")
    claims = verb("claims", results.run_claims, "print what becomes of the paper's claims in the profile's scored runs",
                  profile=True)
    said = verb("findings", results.run_findings, "say in words what the profile's scores say", profile=True)
    for made in (study, claims, said):
        made.add_argument("--scores", metavar="FOLDER", help="take them from files that 'magunet store' wrote, not from runs")
    store = verb("store", results.run_store, "write scores, learning curves and records of a profile's scored runs into a folder",
                 profile=True)
    store.add_argument("--out", required=True, help="the folder, such as figures/PROFILE")
    redraw = verb("redraw", results.run_redraw, "make tables, figures, verdicts and findings again from files of 'magunet store'")
    efficiency = verb("efficiency", results.run_efficiency, "print how fast the runs in files of 'magunet store' were trained")
    for made in (redraw, efficiency):
        made.add_argument("folder", help="what 'magunet store' wrote into")
    verb("report", results.run_report, "print scores, figures and masks of a profile", profile=True)
    viewer = verb("viewer", machine.run_viewer, "make the 3D viewer of notebook 10 work without a network")
    actions = viewer.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=OneLineParser)
    install = actions.add_parser("install", help="put the viewer's programs beside JupyterLab's extension")
    install.add_argument("--bundle", metavar="FILE", help="take them from this file, and nothing from a network")
    actions.add_parser("uninstall", help="give the extension its own files back")
    actions.add_parser("check", help="say what is wrong, if anything")
    bundle = actions.add_parser("bundle", help="write the programs to one file, for a machine without a network")
    bundle.add_argument("file", help="such as viewer.tar; about 52 MB")
    doctor = verb("doctor", machine.run_doctor,
                  "say what this machine has, which profiles fit into its memory, and how long they take")
    for made in (doctor, efficiency):
        made.add_argument("--ceilings", type=above_zero, nargs=2, metavar=("TFLOP/S", "TB/S"),
                          help="of another machine: what it can do at most of a large product and a large copy")
    bench = verb("bench", machine.run_bench, "measure speed and memory beside other ways of doing the same")
    bench.add_argument("contest", nargs="*", help="which; default: all")
    bench.add_argument("--format", choices=("text", "md"), default="text", help="default: text")
    bench.add_argument("--json", metavar="FILE", help="keep the results here, and go on from them after an interruption")
    bench.add_argument("--readme", metavar="FILE", help="put all results of --json into this document, in place of its table")
    verb("audit", results.run_audit, "print the paper's parameter counts beside ours")
    return top


class Ended(KeyboardInterrupt):
    """By a signal. Python ends itself by SIGINT, whatever status it was told, once a plain KeyboardInterrupt has passed an
    ``exec`` of text, as dataclasses do on import."""


def _end(number: int, frame: object) -> None:
    raise Ended


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Ctrl-C, and SIGTERM as `kill` and schedulers send it, end what runs inside by an exception: nothing half-written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def plainly(asked: bool) -> contextlib.AbstractContextManager:
    """`compendium.plain.plain`, where it was asked for."""
    if not asked:
        return contextlib.nullcontext()
    from compendium.plain import plain

    return plain()


def main(words: list[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    arguments = parser().parse_args(words)
    try:
        with ended_by_signals(), plainly(arguments.plain):
            arguments.call(arguments)
    except InputError as error:
        print(f"magunet {arguments.verb}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:         # whoever read our output has seen enough
        sys.stdout = None
        return 0
    except OSError as error:
        where, why = f"{error.filename}: " if error.filename else "", str(error.strerror or error)
        remedy = "" if ";" in why else "; see that it is there and that you may use it, then run this again"
        print(f"magunet {arguments.verb}: {where}{why}{remedy}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            reason = f" ({' '.join(str(error).split())[:200]})" if str(error) else ""
            print(f"magunet {arguments.verb}: not enough memory{reason}; close other programs, or lower size, depth "
                  "or width (raise width_divisor)",
                  file=sys.stderr)
            return 2
        if not isinstance(error, KeyboardInterrupt) and not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        print(f"magunet {arguments.verb}: interrupted; the same command goes on from the last finished step",
              file=sys.stderr)
        return 130
    return 0
