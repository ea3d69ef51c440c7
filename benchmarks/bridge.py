"""How many Pyramid pages are served in a second, over the bridge and by its peers.

Each measurement has a server of its own, since one may be faster or slower than the next for as
long as it lives. Only successful answers are counted.
"""

import re
import subprocess
import sys

from benchmarks.command import main
from benchmarks.support import HOST, Measured, Table, Variant, free_port, serving, started

UVICORN = {
    "bare": Variant("benchmarks.apps:bare"),
    "inline": Variant("benchmarks.apps:inline"),
    "ours": Variant("benchmarks.apps:ours"),
    "ours_generator": Variant("benchmarks.apps:ours_generator"),
    "a2wsgi": Variant("benchmarks.peers.a2wsgi:pages", ("a2wsgi",)),
    "asgiref": Variant("benchmarks.apps:asgiref"),
    "starlette": Variant("benchmarks.peers.starlette:stream", ("starlette",)),
}
WAITRESS = {"waitress": Variant("benchmarks.apps:wsgi_app", ("waitress",))}


class Pages(Table):
    units = ("requests/s",)
    reference = "ours"
    rounds = 7
    seconds = 3
    quick_seconds = 1
    pinned = False

    def __init__(self, name, title, connections, *variants):
        self.name = name
        self.title = title
        self.sizes = {"connections": connections}
        variants = {variant: (UVICORN | WAITRESS)[variant] for variant in variants}
        self.variants = {
            name: Variant(variant.app, ("wrk", *variant.needs))
            for name, variant in variants.items()
        }

    def measure(self, variant, ground, size, seconds):
        with self._serving(variant) as server:
            self._wrk(server.port, size["connections"], 1 if seconds > 1 else 0.3)
            return self._wrk(server.port, size["connections"], seconds)

    def _serving(self, variant):
        app = self.variants[variant].app
        if variant in UVICORN:
            return serving(app, pinned=False)
        port = free_port()
        command = [sys.executable, "-m", "waitress", "--threads=8", f"--listen={HOST}:{port}"]
        # It warns of each request that waits for a thread.
        return started([*command, "--call", app], port, pinned=False, quiet=True)

    def _wrk(self, port, connections, seconds):
        # It knows whole seconds only.
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        output = subprocess.run(
            [*command, "--timeout", "10s", f"http://{HOST}:{port}/{self.name}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        total, duration = re.search(r"(\d+) requests in ([\d.]+)s", output).groups()
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
        broken = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
        wrong = int(refused[1]) if refused else 0
        answered = int(total) - wrong
        if broken:
            wrong += sum(map(int, broken.groups()))
        return Measured((answered / float(duration),), wrong)


class Slow(Pages):
    # Answers that wrk stops waiting for at the end are not counted.
    seconds = 10


TABLES = [
    Pages(
        "hello",
        "A page of 13 bytes",
        32,
        *("bare", "inline", "ours", "a2wsgi", "asgiref", "waitress"),
    ),
    Pages("download", "A download of 4 MiB in 64 chunks", 32, "bare", "ours", "a2wsgi"),
    Pages(
        "stream",
        "The same 64 chunks from an async body",
        32,
        *("bare", "ours", "ours_generator", "starlette"),
    ),
    Slow("slow", "A view that waits for 0.1 s, of 40 threads", 40, "ours"),
]

if __name__ == "__main__":
    main(__doc__, TABLES)
