#!/usr/bin/env bash
# wiki2.sh move: changes the lines that docs/moving.rst names, in the project in this directory.
# wiki2.sh look: serves it with each of the servers, and looks at it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

move() {
    cp -r . ../wiki2-before
    sed -i \
        -e "/with Configurator(/a\\        config.include('pyramid_asgi_consumers')" \
        -e 's/make_wsgi_app()/make_asgi_app()/' tutorial/__init__.py
    sed -i 's/^use = egg:waitress#main/use = egg:pyramid_asgi_consumers#uvicorn/' development.ini
    sed -i \
        -e 's/^import webtest$/from pyramid_asgi_consumers import testing/' \
        -e 's/^class TestApp(webtest.TestApp):/class TestApp(testing.TestApp):/' tests/conftest.py
    diff -r -x __pycache__ -x '*.egg-info' -x '*.sqlite' ../wiki2-before . || [ $? = 1 ]
}

look() {
    local server pid port
    for server in uvicorn daphne hypercorn; do
        rm -f tutorial.sqlite
        alembic -c development.ini upgrade head 2>/dev/null
        initialize_tutorial_db development.ini
        port=$(python -c "import socket; s = socket.create_server(('', 0)); print(s.getsockname()[1])")
        # Another port, since the file's may be taken.
        sed -e "s/#uvicorn/#$server/" -e "s/:6543/:$port/" development.ini >"$server.ini"
        pserve "$server.ini" >"$server.txt" 2>&1 &
        pid=$!
        if ! python "$here/look.py" "http://localhost:$port" \
            || grep -E 'Traceback|ERROR|broken proxy|cowardly' "$server.txt"; then
            cat "$server.txt"
            kill "$pid"
            exit 1
        fi
        kill "$pid"
        wait "$pid" || true
        echo "wiki2 is served with $server: pages, a login, a static file and the toolbar"
    done
}

"$1"
