"""What was measured, as tables and as bars."""

import importlib.metadata
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.support import PROCESSORS, Results

COLUMNS = ("", "median", "spread", "ratio", "its spread", "wrong")
#: Those whose versions matter.
PACKAGES = (
    *("pyramid", "uvicorn", "uvloop", "httptools", "websockets", "wsproto", "waitress", "asgiref"),
    *("a2wsgi", "starlette", "sse-starlette", "litestar", "python-socketio", "django", "channels"),
    *("channels-redis", "redis", "sqlalchemy"),
)


def text(results: Results) -> str:
    """A heading, and a table for each unit (reStructuredText)."""
    table = results.table
    sizes = [f"{value} {name}" for name, value in results.size.items()]
    rounds = f"{results.rounds} rounds of {results.seconds:g} s"
    lines = ["", table.title, "-" * len(table.title), "", ", ".join([*sizes, rounds]) + "."]
    for name, reason in results.left_out.items():
        lines.append(f"{name} is left out: {reason}.")
    if results.measured:
        for place, unit in enumerate(table.units):
            lines += ["", *ruled([(unit, *COLUMNS[1:]), *rows(results, place)])]
    return "\n".join(lines)


def rows(results: Results, place: int) -> list[tuple[str, ...]]:
    """A row for each variant, of the unit at this place."""
    figures = {
        variant: [each.figures[place] for each in measured]
        for variant, measured in results.measured.items()
    }
    base = figures.get(results.table.reference)
    made = []
    for variant, values in figures.items():
        ratios = ()
        if base:
            ratios = [value / other for value, other in zip(values, base, strict=True) if other]
        made.append(
            (
                variant,
                number(statistics.median(values)),
                "{} to {}".format(*map(number, spread(values))),
                f"{statistics.median(ratios):.3f}" if ratios else "-",
                "{:.3f} to {:.3f}".format(*spread(ratios)) if ratios else "-",
                str(sum(each.wrong for each in results.measured[variant])),
            )
        )
    return made


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The quartiles; of few, the least and the greatest."""
    if len(values) < 4:
        return min(values), max(values)
    low, _, high = statistics.quantiles(values, n=4)
    return low, high


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ruled(rows: list[tuple[str, ...]]) -> list[str]:
    """A simple table of reStructuredText."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(
            [cells[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        ).rstrip()
        for cells in rows
    ]
    return [rule, lines[0], rule, *lines[1:], rule]


def write(folder: Path, found: Iterable[Results], lacking: Iterable[str]) -> None:
    """Write ``benchmarks.rst``, and the bars of each table beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    title = "What was measured"
    lines = [title, "=" * len(title), "", f"{machine()}.", ""]
    lines += [
        "A ratio is the median of the rounds' ratios to the variant that has 1. A spread has the",
        "quartiles; of fewer than four rounds it has the least and the greatest. Wrong is how many",
        "answers were not what they should be, or did not come.",
    ]
    with_bars = importlib.util.find_spec("matplotlib") is not None
    if not with_bars:
        lacking = [*lacking, "The bars are left out: matplotlib is missing."]
    for line in lacking:
        lines += ["", line]
    for results in found:
        lines.append(text(results))
        if results.measured and with_bars:
            name = f"{results.table.name}.svg"
            draw(folder / name, results)
            lines += ["", f".. image:: {name}", f"   :alt: {results.table.title}, as bars"]
    (folder / "benchmarks.rst").write_text("\n".join(lines) + "\n")


def machine() -> str:
    """The day, the machine and the versions."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    parts = [
        time.strftime("%Y-%m-%d"),
        f"{len(PROCESSORS)} processors ({model})",
        f"load {os.getloadavg()[0]:.1f}",
        f"Python {platform.python_version()}",
    ]
    for package in PACKAGES:
        try:
            parts.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(parts)


def draw(path: Path, results: Results) -> None:
    """Bars of the medians in the first unit, with their spread."""
    # It is an extra, which takes a second.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    table = results.table
    names = list(results.measured)
    values = [[each.figures[0] for each in results.measured[name]] for name in names]
    medians = [statistics.median(each) for each in values]
    # With few rounds a quartile may lie beyond the median.
    errors = [
        [max(0, median - spread(each)[0]) for median, each in zip(medians, values, strict=True)],
        [max(0, spread(each)[1] - median) for median, each in zip(medians, values, strict=True)],
    ]
    figure = Figure(figsize=(8, 1 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, medians, xerr=errors, capsize=3, color="#7fa6c9", ecolor="#444444")
    axes.bar_label(bars, [number(median) for median in medians], padding=8)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_title(table.title)
    axes.set_xlabel(table.units[0] + (", less is better" if table.less_is_better else ""))
    axes.spines[["top", "right"]].set_visible(False)
    # Letters stay letters, and nothing changes but what was measured.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": table.name}):
        figure.savefig(path, metadata={"Date": None})
