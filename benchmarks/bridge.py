"""How many Pyramid pages are served in a second, over the bridge and by its peers.

Each measurement has a server of its own, since one may be faster or slower than the next for as
long as it lives. Only successful answers are counted.
"""

import contextlib
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.apps import FILES
from benchmarks.command import main
from benchmarks.support import HOST, Measured, Table, Variant, free_port, serving, started, wrk

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
GUNICORN = {"gunicorn": Variant("benchmarks.apps:wsgi_app", ("gunicorn",))}


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
        variants = {variant: (UVICORN | WAITRESS | GUNICORN)[variant] for variant in variants}
        self.variants = {
            name: Variant(variant.app, ("wrk", *variant.needs))
            for name, variant in variants.items()
        }

    def measure(self, variant, ground, size, seconds):
        with self._serving(variant, ground) as server:
            asked = partial(wrk, server.port, self.path, size["connections"])
            asked(1 if seconds > 1 else 0.3)
            answered, _, wrong = asked(seconds)
            return Measured((answered,), wrong)

    @property
    def path(self):
        return f"/{self.name}"

    def _serving(self, variant, environ):
        app = self.variants[variant].app
        if variant in UVICORN:
            return serving(app, pinned=False, environ=environ)
        port = free_port()
        if variant in GUNICORN:
            command = [sys.executable, "-m", "gunicorn", "--threads=8", f"--bind={HOST}:{port}"]
            command += ["--log-level=critical", f"{app}()"]
            return started(command, port, environ=environ, pinned=False)
        command = [sys.executable, "-m", "waitress", "--threads=8", f"--listen={HOST}:{port}"]
        # It warns of each request that waits for a thread.
        command += ["--call", app]
        return started(command, port, environ=environ, pinned=False, quiet=True)


class Files(Pages):
    """A file of Pyramid's static view."""

    @property
    def path(self):
        return f"/files/{self.name}"

    @contextlib.contextmanager
    def prepared(self, variants, size):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, self.name).write_bytes(b"x" * FILES[self.name])
            yield {"FILES": folder}


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
    Files(
        "small",
        "A file of 4 KiB of Pyramid's static view",
        32,
        *("bare", "inline", "ours", "a2wsgi", "waitress", "gunicorn"),
    ),
    Files(
        "large",
        "A file of 4 MiB of Pyramid's static view",
        32,
        *("bare", "inline", "ours", "a2wsgi", "waitress", "gunicorn"),
    ),
    Slow("slow", "A view that waits for 0.1 s, of 40 threads", 40, "ours"),
]

if __name__ == "__main__":
    main(__doc__, TABLES)
