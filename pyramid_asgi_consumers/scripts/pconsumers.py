"""``pconsumers``: the consumers that an application has declared, as a table."""

import argparse
import fnmatch
import re
import sys
import textwrap

from pyramid.paster import bootstrap
from pyramid.scripts.common import get_config_loader, parse_vars

PAD = 3
NOTHING = "-"
COLUMNS = ["protocol", "path", "name", "callable", "permission", "origins", "kind"]


def main(argv=sys.argv, quiet=False):
    """Run the command with the arguments ``argv``; return its exit status.

    ``quiet`` prints nothing.
    """
    return PConsumersCommand(argv, quiet).run()


class PConsumersCommand:
    """Prints what the introspector knows about consumers and mounted applications."""

    description = """\
    Print all ASGI consumers of a Pyramid application in the order in which
    they were declared, and the ASGI applications mounted in it.  Each has
    its protocol, its path, the name of the route for its handshakes, the
    callable, the permission, and the origins that may open the websocket
    besides the application's own.  The handshake of a guarded consumer is a
    Pyramid request; a plain one has none.

    This command accepts one positional argument named 'config_uri'.  It
    specifies the PasteDeploy config file to use.  The format is
    'inifile#name'.  If the name is left off, 'main' will be assumed.
    Example: 'pconsumers myapp.ini'.

    """
    script_name = "pconsumers"
    parser = argparse.ArgumentParser(
        prog=script_name,
        description=textwrap.dedent(description),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-g", "--glob", default="", help="Display consumers whose name or path matches the pattern"
    )
    parser.add_argument(
        "-f",
        "--format",
        default="",
        help=(
            "Choose which columns to display, this will override the format key in the"
            f" [pconsumers] ini section.  The columns are {', '.join(COLUMNS)}"
        ),
    )
    parser.add_argument(
        "config_uri", nargs="?", default=None, help="The URI to the configuration file."
    )
    parser.add_argument(
        "config_vars",
        nargs="*",
        default=(),
        help=(
            "Variables required by the config file. For example, `http_port=%%(http_port)s` would"
            " expect `http_port=8080` to be passed here."
        ),
    )

    def __init__(self, argv, quiet=False):
        self.args = self.parser.parse_args(argv[1:])
        self.quiet = quiet

    def run(self):
        """Print the table; return 0, or 2 where an argument is missing or wrong."""
        if not self.args.config_uri:
            self.out("requires a config file argument")
            return 2
        config_vars = parse_vars(self.args.config_vars)
        config_vars.setdefault("__script__", self.script_name)
        loader = get_config_loader(self.args.config_uri)
        loader.setup_logging(config_vars)
        settings = loader.get_settings(self.script_name, config_vars)
        columns = re.split(r"[,|\s]+", (self.args.format or settings.get("format", "")).strip())
        columns = columns if any(columns) else COLUMNS
        invalid = [column for column in columns if column not in COLUMNS]
        if invalid:
            self.out(f"You provided invalid formats {invalid}. Available formats are {COLUMNS}")
            return 2
        with bootstrap(self.args.config_uri, options=config_vars) as env:
            rows = [row for row in consumers(env["registry"].introspector) if self._matches(row)]
        if rows:
            for line in table(columns, rows):
                self.out(line)
        return 0

    def _matches(self, row):
        glob = self.args.glob
        return not glob or any(fnmatch.fnmatch(row[column], glob) for column in ("name", "path"))

    def out(self, line):
        if not self.quiet:
            print(line)


def consumers(introspector):
    """What ``introspector`` knows, a dict of column and text for each consumer and application."""
    default_permission = None
    for each in introspector.get_category("default permission", ()):
        default_permission = each["introspectable"]["value"]
    for each in introspector.get_category("asgi consumers", ()):
        consumer = each["introspectable"]
        guarded = consumer["guarded"]
        permission = consumer["permission"] or (default_permission if guarded else None)
        yield {
            "protocol": consumer["protocol"],
            "path": consumer["path"],
            "name": consumer["route_name"] if guarded else NOTHING,
            "callable": _dotted_name(consumer["callable"]),
            "permission": str(permission or NOTHING),
            "origins": ",".join(consumer["origins"]) or NOTHING,
            "kind": "guarded" if guarded else "plain",
        }
    for each in introspector.get_category("asgi apps", ()):
        yield {
            **dict.fromkeys(COLUMNS, NOTHING),
            "protocol": "http,websocket",
            "path": each["introspectable"]["prefix"] + "/*",
            "callable": _dotted_name(each["introspectable"]["app"]),
            "kind": "mounted",
        }


def table(columns, rows):
    """The lines of a table of ``rows``, with the widths of ``proutes``."""
    head = {column: column.capitalize() for column in columns}
    rule = {column: "-" * len(column) for column in columns}
    rows = [head, rule, *rows]
    widths = {column: max(len(row[column]) for row in rows) + PAD for column in columns}
    for row in rows:
        yield "".join(row[column].ljust(widths[column]) + " " for column in columns)


def _dotted_name(ob):
    named = ob if hasattr(ob, "__qualname__") else type(ob)
    return f"{named.__module__}.{named.__qualname__}"


if __name__ == "__main__":
    sys.exit(main())
