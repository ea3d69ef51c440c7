"""Prints a row for docs/moving.rst: ``table.py NAME VERSION BEFORE.xml AFTER.xml COUNT``.

The two are what pytest's ``--junitxml`` wrote. Ends with 1 where a test has another outcome after
the move than before.
"""

import sys
from xml.etree import ElementTree

ROW = "{:<22} {:<8} {:>6} {:>6} {:>12}  {}"


def outcomes(path):
    """Whether each test passed, was skipped or failed."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "passed"
        found[f"{case.get('classname')}.{case.get('name')}"] = (
            "skipped" if "skipped" in tags else outcome
        )
    return found


def passed(found):
    return sum(outcome == "passed" for outcome in found.values())


def main(name, version, before, after, count):
    before, after = outcomes(before), outcomes(after)
    differ = sorted(test for test in before | after if before.get(test) != after.get(test))
    failed = sum(outcome == "failed" for outcome in before.values())
    notes = [f"{len(differ)} differ"] if differ else []
    notes += [f"{failed} fail before, too"] if failed else []
    print(ROW.format(name, version, passed(before), passed(after), count, ", ".join(notes)))
    for test in differ:
        print(f"    {test}: {before.get(test)} before, {after.get(test)} after", file=sys.stderr)
    return 1 if differ or not passed(before) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
