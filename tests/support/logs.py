"""How the applications that tests serve write their log."""

import logging
import sys


def log_to_stderr():
    """Write all from INFO on, with the logger's name in brackets, whatever the server has set."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(levelname)s [%(name)s] %(message)s",
        stream=sys.stderr,
        force=True,
    )
    # Hypercorn writes its own as well, and would be seen twice.
    logging.root.handlers[0].addFilter(lambda record: record.name != "hypercorn.error")
