"""All benchmarks beside their peers: tables and bars.

What this machine lacks (wrk, redis-server, the package of a peer) is named, and the rest measured.
"""

import importlib

from benchmarks.command import main

MODULES = (
    *("bridge", "dispatch", "websocket", "broadcast", "handshakes", "pages", "fan_out", "idle"),
    *("streams", "channels", "catch_up", "staying", "imports"),
)


def loaded():
    """The tables, and which modules are left out because they miss a package themselves."""
    tables, lacking = [], []
    for name in MODULES:
        try:
            tables += importlib.import_module(f"benchmarks.{name}").TABLES
        except ModuleNotFoundError as error:
            lacking.append(f"{name} is left out: {error.name} is missing.")
    return tables, lacking


if __name__ == "__main__":
    tables, lacking = loaded()
    main(__doc__, tables, "benchmarks/results", lacking)
