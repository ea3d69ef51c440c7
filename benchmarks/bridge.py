"""Measures the bridge against its peers: ``python benchmarks/bridge.py``.

Measures the peers with wrk, one after the other, in another order each round, so that whatever
else the machine does falls on all of them; each time with a new server, since one may be faster or
slower than the next for as long as it lives. Only successful answers are counted.
"""

import argparse
import contextlib
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
UVICORN = "uvicorn --factory apps:{name} --port {port} --log-level critical --no-access-log"
COMMANDS = {
    "bare": UVICORN,
    "ours": UVICORN,
    "inline": UVICORN,
    "a2wsgi": UVICORN,
    "asgiref": UVICORN,
    "ours_generator": UVICORN,
    "starlette": UVICORN,
    "waitress": "waitress --threads=8 --listen=127.0.0.1:{port} --call apps:wsgi_app",
}


@dataclass
class Case:
    path: str
    connections: int
    peers: tuple[str, ...]
    # Ours is to be at least so many times as fast as the peer.
    targets: dict[str, float]
    # Requests per second, where the target is absolute.
    least: float | None = None
    # Of one measurement. Answers that wrk stops waiting for at the end are not counted.
    seconds: int = 3


CASES = {
    "hello": Case(
        "/hello",
        32,
        ("bare", "inline", "ours", "a2wsgi", "asgiref", "waitress"),
        {"bare": 0.36, "a2wsgi": 5, "asgiref": 10, "waitress": 3},
    ),
    "download": Case("/download", 32, ("bare", "ours", "a2wsgi"), {"bare": 0.9, "a2wsgi": 3}),
    "stream": Case(
        "/stream",
        32,
        ("bare", "ours", "ours_generator", "starlette"),
        {"bare": 0.9, "starlette": 1},
    ),
    "slow": Case("/slow", 40, ("ours",), {}, least=385, seconds=10),
}


@dataclass
class Result:
    rate: float
    failed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help="of " + ", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, help="of one measurement")
    parser.add_argument("--peers", nargs="*", default=list(COMMANDS))
    arguments = parser.parse_args()
    for name in arguments.cases:
        case = CASES[name]
        peers = [peer for peer in case.peers if peer in arguments.peers]
        measure(name, case, peers, arguments.rounds, arguments.seconds or case.seconds)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(name: str) -> Iterator[int]:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", *COMMANDS[name].format(name=name, port=port).split()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent)))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        yield port
    finally:
        server.kill()
        server.wait()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def measure(name: str, case: Case, peers: list[str], rounds: int, seconds: int) -> None:
    results = {peer: [] for peer in peers}
    for _ in range(rounds):
        for peer in random.sample(peers, len(peers)):
            with serving(peer) as port:
                wrk(port, case, 1)
                results[peer].append(wrk(port, case, seconds))
    print(f"\n{name}: {case.connections} connections, {rounds} rounds of {seconds} s")
    print(f"{'':14}{'req/s':>9}{'min':>9}{'max':>9}{'non-2xx':>9}{'ours is':>9}{'target':>9}")
    for peer in peers:
        rates = [result.rate for result in results[peer]]
        line = f"{peer:14}{statistics.median(rates):9.0f}{min(rates):9.0f}{max(rates):9.0f}"
        line += f"{sum(result.failed for result in results[peer]):9}"
        if peer == "ours":
            line += f"{'':9}{case.least or '':>9}"
        elif "ours" in peers:
            ratios = [
                ours.rate / result.rate if result.rate else float("inf")
                for ours, result in zip(results["ours"], results[peer], strict=True)
            ]
            line += f"{statistics.median(ratios):9.3f}{case.targets.get(peer, ''):>9}"
        print(line, flush=True)


def wrk(port: int, case: Case, seconds: int) -> Result:
    command = ["wrk", "-t1", f"-c{case.connections}", f"-d{seconds}s", "--timeout", "10s"]
    output = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{case.path}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    total, duration = re.search(r"(\d+) requests in ([\d.]+)s", output).groups()
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    broken = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    failed = int(refused[1]) if refused else 0
    answered = int(total) - failed
    if broken:
        failed += sum(map(int, broken.groups()))
    return Result(answered / float(duration), failed)


if __name__ == "__main__":
    main()
