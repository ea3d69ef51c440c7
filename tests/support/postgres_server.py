"""A real PostgreSQL, on a unix socket of its own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Who runs it where the tests are run by root, whom it refuses.
USER = "postgres"


def find_binary(name):
    """Where it is: Debian has each version's in a place of its own, which is not in the path."""
    places = [str(path.parent) for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    found = shutil.which(name, path=os.pathsep.join([*places, os.environ["PATH"]]))
    if found is None:
        pytest.fail("PostgreSQL is missing: apt-get install postgresql", pytrace=False)
    return found


@contextmanager
def running_postgres():
    """The URL of a new, empty cluster, as SQLAlchemy takes it; it is up while the block runs."""
    owner = pwd.getpwnam(USER) if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    # The path of a unix socket is short, and its directory is the server's.
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        os.chown(directory, owner.pw_uid, owner.pw_gid)
        who = {"user": owner.pw_uid, "group": owner.pw_gid, "cwd": directory}
        data = directory / "data"
        options = ["-A", "trust", "-U", USER, "--no-sync", "-E", "UTF8", "--locale", "C"]
        create = [find_binary("initdb"), "-D", data, *options]
        subprocess.run(create, **who, check=True, stdout=subprocess.DEVNULL)
        command = [find_binary("postgres"), "-D", data, "-k", directory, "-h", ""]
        with (directory / "log").open("w") as log:
            server = subprocess.Popen([*command, "-F"], **who, stdout=log, stderr=log)
        try:
            yield _url_of(server, directory)
        finally:
            # Fast: it waits for no client.
            server.send_signal(signal.SIGINT)
            server.wait(30)
    finally:
        shutil.rmtree(directory)


def _url_of(server, directory):
    ready = [find_binary("pg_isready"), "-h", directory, "-q"]
    deadline = time.monotonic() + 30
    while subprocess.run(ready).returncode:
        assert server.poll() is None and time.monotonic() < deadline, (
            directory / "log"
        ).read_text()
    return f"postgresql+psycopg://{USER}@/postgres?host={directory}"
