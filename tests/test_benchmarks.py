"""The benchmarks, run as their users do."""

import os
import subprocess
import sys

import pytest

from tests.support.servers import PROJECT

pytestmark = pytest.mark.deployment


def run(*arguments, **environ):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=PROJECT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_list_has_every_table_and_its_variants():
    listed = run("--list")
    assert listed.returncode == 0, listed.stderr
    for name in ("hello", "broadcast", "handshakes", "guarded", "pages", "idle", "imports"):
        assert f"\n{name} " in f"\n{listed.stdout}"
    assert "python-socketio" in listed.stdout


def test_a_table_and_its_bars_are_written_and_no_answer_is_wrong(tmp_path):
    small = ["--rounds", "2", "--seconds", "0.1", "--sockets", "3"]
    ran = run("--only", "pages", *small, "--output", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    assert "[1/1] pages, round 2 of 2: " in ran.stderr
    report = (tmp_path / "benchmarks.rst").read_text()
    assert "3 sockets, 2 rounds of 0.1 s." in report
    for variant in ("ours", "starlette"):
        # One for each of its units, which ends with how many answers were wrong.
        rows = [line for line in report.splitlines() if line.startswith(f"{variant} ")]
        assert [row.split()[-1] for row in rows] == ["0", "0", "0"]
    bars = tmp_path / "pages.svg"
    assert "matplotlib is missing" in report if not bars.exists() else "pages.svg" in report


def test_what_needs_a_program_that_is_missing_is_left_out_and_named(tmp_path):
    ran = run("--only", "hello", "--output", str(tmp_path), PATH=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    assert "ours is left out: wrk is missing." in ran.stdout
    assert "ours is left out: wrk is missing." in (tmp_path / "benchmarks.rst").read_text()
