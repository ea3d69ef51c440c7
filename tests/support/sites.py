"""Deploys ``tests/deployment`` with the files of ``docs/deploy``: nginx, supervisord, systemd."""

import configparser
import contextlib
import getpass
import grp
import http.client
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from websockets.sync.client import ClientConnection, connect

from tests.support.clients import DEADLINE, Answer
from tests.support.servers import HOST, PROJECT, free_port, wait_until

FILES = PROJECT / "docs" / "deploy"

USER = getpass.getuser()
GROUP = grp.getgrgid(os.getgid()).gr_name

#: Text of a shipped file, and what it becomes.
Change = tuple[str, str]

# Debian's, without what needs root.
SUPERVISORD = """
[supervisord]
nodaemon=true
logfile={directory}/supervisord.log
pidfile={directory}/supervisord.pid
childlogdir={directory}

[unix_http_server]
file={directory}/supervisor.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{directory}/supervisor.sock

[include]
files={directory}/supervisor-*.conf
"""

# Where Debian's nginx would write, only root may.
TEMPORARY_PATHS = "".join(
    f"{what}_temp_path {{directory}}/{what};\n"
    for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


class Site:
    """``tests/deployment`` behind nginx, at ``https://127.0.0.1:{port}{prefix}``.

    ``name`` is the server's, and ``plain_port`` nginx's for http. ``directory`` has the logs, the
    sockets, and the files that were made of the shipped ones.
    """

    def __init__(self, server: str, directory: Path, prefix: str) -> None:
        self.name = server
        self.directory = directory
        self.prefix = prefix
        self.port = free_port()
        self.plain_port = free_port()
        self.origin = f"https://{HOST}:{self.port}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._certify()
        self.tls = ssl.create_default_context(cafile=str(directory / "myapp.pem"))

    def _certify(self) -> None:
        subprocess.run(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=myapp".split()
            + ["-addext", f"subjectAltName=IP:{HOST}"]
            + ["-out", self.directory / "myapp.pem", "-keyout", self.directory / "myapp.key"],
            check=True,
            capture_output=True,
        )

    def fill_in(self, name: str, *changes: Change) -> Path:
        """Write the shipped file ``name`` with ``changes``; return where it is."""
        text = (FILES / name).read_text()
        for old, new in changes:
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new)
        path = self.directory / name
        path.write_text(text)
        return path

    def start(
        self,
        *command: str | Path,
        directory: Path | str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> int:
        """Run ``command`` in ``directory`` until the end of the site; return its process id."""
        log = self.directory / f"{Path(command[0]).name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=directory or self.directory,
                env={**os.environ, "PYTHONPATH": str(PROJECT), **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process.pid

    def stop(self, deadline: float = 3 * DEADLINE) -> None:
        """End all that was started, last first.

        What does not end in ``deadline`` seconds is killed with its descendants, and an error.
        """
        late = []
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(deadline)
            except subprocess.TimeoutExpired as error:
                for pid in (*descendants(process.pid), process.pid):
                    os.kill(pid, signal.SIGKILL)
                process.wait()
                late.append(error)
        self.processes.clear()
        if late:
            raise late[0]

    def logged(self) -> str:
        """All logs."""
        return "\n".join(
            f"--- {log.name} ---\n{log.read_text(errors='replace')}"
            for log in sorted(self.directory.glob("*.log"))
        )

    def supervisorctl(self, *arguments: str) -> str:
        """Run ``supervisorctl``; return what it says."""
        done = subprocess.run(
            ["supervisorctl", "-c", self.directory / "supervisord.conf", *arguments],
            capture_output=True,
            text=True,
            timeout=3 * DEADLINE,
        )
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def connection(self) -> Iterator[http.client.HTTPSConnection]:
        """A connection to nginx."""
        connection = http.client.HTTPSConnection(
            HOST, self.port, timeout=DEADLINE, context=self.tls
        )
        try:
            yield connection
        finally:
            connection.close()

    def ask(self, path: str, *, method: str = "GET", **options) -> Answer:
        """One request on a connection of its own.

        ``options`` are those of ``http.client.HTTPConnection.request``.
        """
        with self.connection() as connection:
            connection.request(method, self.prefix + path, **options)
            with connection.getresponse() as response:
                return Answer(response.status, response.headers, response.read())

    def websocket(self, path: str, **options) -> ClientConnection:
        """A websocket to ``path``; ``options`` are those of ``websockets.sync.client.connect``."""
        return connect(
            f"wss://{HOST}:{self.port}{self.prefix}{path}",
            ssl=self.tls,
            proxy=None,
            open_timeout=DEADLINE,
            close_timeout=DEADLINE,
            **options,
        )


def descendants(pid: int) -> Iterator[int]:
    """The processes that came of ``pid``, the youngest first. Not all need be of its group."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            yield from descendants(child)
            yield child


@contextlib.contextmanager
def site(server: str, directory: Path, prefix: str = "") -> Iterator[Site]:
    """A site with nothing started; at the end of the block it is stopped and its logs printed."""
    site = Site(server, directory, prefix)
    try:
        yield site
    finally:
        try:
            site.stop()
        finally:
            print(site.logged())


@contextlib.contextmanager
def deployed(
    server: str,
    directory: Path,
    *,
    prefix: str = "",
    environ: Mapping[str, str] | None = None,
    nginx: Sequence[Change] = (),
    supervisor: Sequence[Change] = (),
) -> Iterator[Site]:
    """The site on ``server``, ``"uvicorn"`` or ``"daphne"``, kept by supervisord behind nginx.

    ``prefix`` is the path under which it is. ``nginx`` and ``supervisor`` are further changes of
    the shipped files, ``environ`` of the environment.
    """
    with site(server, directory, prefix) as it:
        upstream = start_supervisord(it, supervisor, environ)
        start_nginx(it, upstream, nginx)
        wait_until(lambda: serves(it), "the first answer", it, 2 * DEADLINE)
        yield it


@contextlib.contextmanager
def activated(
    directory: Path, start_seconds: float = 0
) -> Iterator[tuple[Site, Callable[[], object]]]:
    """The site on Uvicorn as the units of systemd start it, and what ``systemctl reload`` does."""
    with site("uvicorn", directory) as it:
        service, socket = (read_unit(unit) for unit in fill_in_units(it))
        listening = socket["Socket"]["ListenStream"]
        command = service["Service"]["ExecStart"].split()
        main = it.start(
            "systemd-socket-activate",
            f"--listen={listening}",
            f"--setenv=PYTHONPATH={PROJECT}",
            f"--setenv=START_SECONDS={start_seconds}",
            *command,
            directory=service["Service"]["WorkingDirectory"],
        )
        reload = service["Service"]["ExecReload"].replace("$MAINPID", str(main)).split()
        start_nginx(it, f"unix:{listening}")
        wait_until(lambda: serves(it), "the first answer", it, 2 * DEADLINE)
        yield it, partial(subprocess.run, reload, check=True)


def fill_in_units(site: Site) -> list[Path]:
    """Write the service and the socket; return where they are."""
    return [
        site.fill_in(
            "myapp.service",
            *application(),
            ("User=myapp", f"User={USER}"),
        ),
        site.fill_in(
            "myapp.socket",
            ("/run", str(site.directory)),
            ("User=myapp", f"User={USER}"),
            ("Group=www-data", f"Group={GROUP}"),
        ),
    ]


def read_unit(path: Path) -> configparser.RawConfigParser:
    """The sections of a unit."""
    unit = configparser.RawConfigParser()
    unit.optionxform = str
    unit.read(path)
    return unit


def serves(site: Site) -> bool:
    """Whether the site shows its page."""
    try:
        return site.ask("/home").status == 200
    except OSError:
        return False


def application() -> Sequence[Change]:
    """What a file about the application is filled in with."""
    return (
        ("/srv/myapp/venv/bin", str(Path(sys.executable).parent)),
        ("=/srv/myapp", f"={PROJECT / 'tests' / 'deployment'}"),
    )


def start_supervisord(
    site: Site, changes: Sequence[Change] = (), environ: Mapping[str, str] | None = None
) -> str:
    """Run the server under supervisord; return nginx's name of where it listens."""
    if site.name == "uvicorn":
        upstream = f"unix:{site.directory}/myapp.sock"
        socket = (
            ("unix:///run/", f"unix://{site.directory}/"),
            ("=myapp:www-data", f"={USER}:{GROUP}"),
        )
    else:
        upstream = f"{HOST}:{free_port()}"
        socket = (("127.0.0.1:8000", upstream),)
    site.fill_in(
        f"supervisor-{site.name}.conf",
        *socket,
        *application(),
        ("user=myapp", f"user={USER}"),
        ("/var/log/myapp", str(site.directory)),
        *changes,
    )
    conf = site.directory / "supervisord.conf"
    conf.write_text(SUPERVISORD.format(directory=site.directory))
    site.start("supervisord", "-c", conf, environ={"ROOT_PATH": site.prefix, **(environ or {})})
    return upstream


def start_nginx(site: Site, upstream: str, changes: Sequence[Change] = ()) -> None:
    """Run nginx in front of ``upstream``."""
    included = site.directory / "conf.d"
    included.mkdir()
    (included / "paths.conf").write_text(TEMPORARY_PATHS.format(directory=site.directory))
    conf = site.fill_in(
        "nginx.conf",
        ("user www-data", f"user {USER}"),
        ("/run/nginx.pid", f"{site.directory}/nginx.pid"),
        ("/var/log/nginx", str(site.directory)),
        ("/etc/nginx/conf.d", str(included)),
        ("unix:/run/myapp.sock", upstream),
        ("listen 80;", f"listen {site.plain_port};"),
        ("listen 443 ", f"listen {site.port} "),
        ("/etc/ssl/certs", str(site.directory)),
        ("/etc/ssl/private", str(site.directory)),
        ("location / ", f"location {site.prefix}/ "),
        *changes,
    )
    site.start("nginx", "-c", conf, "-e", site.directory / "error.log", "-g", "daemon off;")
