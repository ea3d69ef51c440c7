"""Tells how many processes a server's command line starts (pure)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

_SERVERS = re.compile(r"\b(?:granian|gunicorn|hypercorn|uvicorn)\b")
_WORKERS = re.compile(r"(?:--workers[= ]|-w[= ]?)([0-9]+)(?: |$)")

# What gunicorn and Uvicorn, and what Granian, take where the command line says nothing.
_VARIABLES = ("WEB_CONCURRENCY", "GRANIAN_WORKERS")


def workers(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """How many processes the command line ``argv`` with the variables ``environ`` starts; 1 if not
    told.

    A worker has the arguments of its server. What stands in a server's configuration file is not
    seen.
    """
    if not argv or not _SERVERS.search(_program(argv[0])):
        return 1
    told = _WORKERS.findall(" ".join(argv[1:]))
    told += [environ[name] for name in _VARIABLES if environ.get(name, "").isdigit()]
    return int(told[0]) if told else 1


def _program(path: str) -> str:
    # Of python -m it is a file in the package.
    program = PurePath(path)
    return program.parent.name if program.name == "__main__.py" else program.name
