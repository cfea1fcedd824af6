"""Write pages of runs and sweeps: kintsugi report sweeps/NAME, or runs/a runs/b to compare any"""

import argparse
import sys
from pathlib import Path

from research.config import require
from scripts import command_line

EPILOG = """
what it takes
  a run        its page: launch, curves, events, samples, scores, how to repeat it; also while it runs
  a sweep      the fields that differ and the scores (mean and spread over seeds), curves against steps, tokens and
               FLOPs, a plot for each number that was swept, a paper's numbers beside ours; and every run's page
  several      runs and sweeps, compared in the same way

what is written
  OUT.html, one file that opens from disk and needs no network; its tables as OUT.md, OUT.tex and, the first, OUT.csv.
  OUT is DIR/report; several directories need --out. A training run and a sweep write their own pages at the end.

served
  --serve shows the runs and sweeps in one directory to browsers of this machine: state, last loss, time left and, for
  each, its page, which follows the run. Nothing is written. Ctrl-C stops it.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("report", __doc__, EPILOG)
    parser.add_argument(
        "directories", nargs="+", type=Path, metavar="DIR", help="directory of a run or of a sweep, or any with --serve"
    )
    parser.add_argument("--out", type=Path, help="path of the pages, without its ending")
    parser.add_argument("--serve", action="store_true", help="serve live pages of DIR on 127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="port of --serve, 0 for a free one (%(default)s)")
    return command_line.run(parser, work, arguments)


def work(options: argparse.Namespace) -> None:
    if not options.serve:
        print(write(options.directories, options.out))
        return
    require(len(options.directories) == 1 and options.out is None, "--serve takes one directory, and no --out.")
    from research.report.serve import serve

    serve(options.directories[0], options.port)


def write(directories: list[Path], out: Path | None) -> Path:
    """Write the page of a run, a sweep or a comparison, and return its path.

    Raises ConfigError for a directory that is neither a run nor a sweep, and for an --out that cannot be written.
    """
    from research.report import record, run_page, sweep_page

    for directory in directories:
        require(directory.is_dir(), f"{directory}: there is no such directory.")
        known = any((directory / name).is_file() for name in ("config.json", "sweep.json"))
        require(
            known, f"{directory} has neither config.json nor sweep.json: give the directory of a run or of a sweep."
        )
    require(out is None or out.absolute().parent.is_dir(), f"--out {out}: there is no directory {out and out.parent}.")
    only = directories[0]
    if len(directories) == 1 and (only / "sweep.json").is_file():
        runs, waiting, published = sweep_page.runs_of(only)
        return sweep_page.write(out or only / "report", f"Sweep {only.absolute().name}", runs, waiting, published)
    if len(directories) == 1 and out is None:
        return run_page.write(record.read(only))
    require(out is not None, "Several directories need --out for the comparison, such as --out runs/comparison.")
    assert out is not None
    parts = [sweep_page.runs_of(one) if (one / "sweep.json").is_file() else ([one], [], []) for one in directories]
    runs = [run for of_one, _, _ in parts for run in of_one]
    waiting = [name for _, of_one, _ in parts for name in of_one]
    published = [table for _, _, of_one in parts for table in of_one]
    return sweep_page.write(out, f"Comparison {out.name}", runs, waiting, published)


if __name__ == "__main__":
    sys.exit(main())
