#!/usr/bin/env bash
# suites.sh [PACKAGE...]: the suites that released packages ship in their sdists, and that of
# Pyramid's wiki2 tutorial, over WSGI and over ASGI, as the table of docs/moving.rst. Ends with 1
# where a test differs. Run by hand; it takes five minutes, and everything goes into a temporary
# directory.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
suites=("$@")
[ ${#suites[@]} -gt 0 ] || suites=(
    pyramid pyramid_tm pyramid_retry pyramid_jinja2 cornice pyramid_openapi3 pyramid_debugtoolbar
    WebTest wiki2
)
failed=0

python3 -m venv "$work/venv"
. "$work/venv/bin/activate"
pip install -q --upgrade pip
# The packages, and what their suites need. Cornice's is for marshmallow 3, the toolbar's for what
# Pygments 2.18 made of SQL.
pip install -q -e "$here/../..[uvicorn,daphne,hypercorn]" \
    cornice pyramid_debugtoolbar pyramid_jinja2 pyramid_openapi3 pyramid_retry pyramid_tm webtest \
    alembic bcrypt colander docutils lxml 'marshmallow < 4' PasteDeploy 'pygments < 2.19' \
    pyquery pytest sqlalchemy waitress WSGIProxy2 zope.component zope.sqlalchemy

released() { # PACKAGE: its version that is installed
    python -c "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))" "$1"
}

unpack() { # PACKAGE: its sdist, in a directory of its name
    mkdir -p "$work/$1"
    pip download -q --no-deps --no-binary "$1" -d "$work/sdist-$1" "$1==$(released "$1")"
    tar -xzf "$work/sdist-$1/"*.tar.gz -C "$work/$1" --strip-components 1
}

run() { # NAME WHEN [ARGUMENT...]: the suite in this directory
    local name=$1 when=$2
    shift 2
    PYTHONPATH=$here python -m pytest -q --tb=no -p no:cacheprovider \
        --junitxml "$work/$name-$when.xml" "$@" tests >"$work/$name-$when.txt" 2>&1 || [ $? = 1 ]
}

line() { # NAME VERSION BEFORE AFTER APPLICATIONS NOTE
    printf '%-20s %-8s %6s %6s %12s  %s\n' "$@" | sed 's/ *$//'
}

row() { # NAME VERSION COUNT
    local found
    found=$(python "$here/compared.py" "$work/$1-before.xml" "$work/$1-after.xml") || failed=1
    IFS='|' read -r before after note <<<"$found"
    line "$1" "$2" "$before" "$after" "$3" "$note"
}

border=$(line ==================== ======== ====== ====== ============ =====================)
echo "$border"
line package version before after applications notes
echo "$border"
for name in "${suites[@]}"; do
    if [ "$name" = wiki2 ]; then
        [ -d "$work/pyramid" ] || unpack pyramid
        cp -r "$work/pyramid/docs/tutorials/wiki2/src/tests" "$work/wiki2"
        cd "$work/wiki2"
        pip install -q -e .
        run wiki2 before
        "$here/wiki2.sh" move >&2
        run wiki2 after
        row wiki2 "$(released pyramid)" 1
        "$here/wiki2.sh" look >&2 || failed=1
        continue
    fi
    unpack "$name"
    cd "$work/$name"
    if [ ! -d tests ]; then
        line "$name" "$(released "$name")" '\ ' '' '' 'no tests in its sdist'
        continue
    fi
    # Their own options are for coverage, and their warnings for other versions.
    run "$name" before -c /dev/null --rootdir .
    run "$name" after -c /dev/null --rootdir . -p over_asgi
    row "$name" "$(released "$name")" \
        "$(sed -n 's/ applications over ASGI$//p' "$work/$name-after.txt")"
done
echo "$border"
exit $failed
