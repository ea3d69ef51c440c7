"""Compares two runs of a suite: ``compared.py BEFORE.xml AFTER.xml``.

The two are what pytest's ``--junitxml`` wrote. Prints ``before|after|note``: how many tests passed
in each, and what else is to be said. Ends with 1 where a test has another outcome after the move,
or none passed.
"""

import sys
from xml.etree import ElementTree


def outcomes(path):
    """What became of each test."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "passed"
        name = f"{case.get('classname')}.{case.get('name')}"
        found[name] = "skipped" if "skipped" in tags else outcome
    return found


def main(before, after):
    before, after = outcomes(before), outcomes(after)
    different = sorted(test for test in before | after if before.get(test) != after.get(test))
    for test in different:
        print(f"{test}: {before.get(test)} before, {after.get(test)} after", file=sys.stderr)
    passed, failed = (list(before.values()).count(outcome) for outcome in ("passed", "failed"))
    notes = [f"{len(different)} differ"] if different else []
    notes += [f"{failed} fail in both"] if failed and not different else []
    print(passed, list(after.values()).count("passed"), ", ".join(notes), sep="|")
    return 1 if different or not passed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
