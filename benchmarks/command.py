"""The command line of the benchmarks, of all of them and of each."""

import argparse
import sys
import time
from pathlib import Path

from benchmarks import report
from benchmarks.support import Table, run


def main(doc: str, tables: list[Table], output: str | None = None, lacking=()) -> None:
    """Measure ``tables``; write a report where there is an ``output``, and print it.

    ``lacking`` says which others cannot be measured on this machine. Ends with status 1 where
    something was measured and failed.
    """
    options = parsed(doc, tables, output)
    if options.list:
        for table in tables:
            print(f"{table.name:18}{table.title} ({', '.join(table.variants)})")
        return
    for line in lacking:
        print(line, file=sys.stderr)
    chosen = [table for table in tables if table.name in (options.only or names(tables))]
    sizes = {name: value for name in every_size(tables) if (value := getattr(options, name))}
    found = []
    for number, table in enumerate(chosen, 1):

        def progress(text: str, place: str = f"[{number}/{len(chosen)}] {table.name}") -> None:
            print(f"{time.strftime('%H:%M:%S')} {place}, {text}", file=sys.stderr, flush=True)

        results = run(
            table,
            quick=options.quick,
            rounds=options.rounds,
            seconds=options.seconds,
            sizes=sizes,
            progress=progress,
        )
        print(report.text(results), flush=True)
        found.append(results)
        if options.output:
            # What was measured is there, whatever comes of the others.
            report.write(Path(options.output), found, lacking)
    if options.output:
        print(f"The tables and bars are in {options.output}.")
    if any(results.failed for results in found):
        raise SystemExit(1)


def parsed(doc: str, tables: list[Table], output: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument(
        "--only", action="append", choices=names(tables), metavar="NAME", help="and again"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, short and small")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one measurement")
    parser.add_argument("--output", metavar="FOLDER", default=output, help="for tables and bars")
    for name in every_size(tables):
        parser.add_argument(f"--{name}", type=int, metavar="N")
    return parser.parse_args()


def names(tables: list[Table]) -> list[str]:
    return [table.name for table in tables]


def every_size(tables: list[Table]) -> list[str]:
    return sorted({name for table in tables for name in table.sizes})
