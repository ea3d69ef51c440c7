// A websocket that comes back, and goes on where it was.

import { isAdmitted, toLogin, waits } from "./page.js";

const LOGGED_OUT = 4401;
const NOT_ADMITTED = 4403;

// So long may nothing come after a question; a connection may die without a word.
const PATIENCE = 10000;
const INTERVAL = 25000;

// `since()` says where to begin; `hear(message)` gets what comes; `show(state)` is told "online" or
// "offline". Returns `send(message)`, which is nothing while offline.
export function live(url, { since, hear, show }) {
    let socket, attempts = waits(), timer, silence, lastTry = false;

    function open() {
        clearTimeout(timer);
        const address = new URL(url);
        address.searchParams.set("since", since());
        const mine = socket = new WebSocket(address);
        let opened = false;
        const over = (code) => {
            if (mine === socket) {
                socket = undefined;
                clearTimeout(silence);
                closed(code, opened);
            }
        };
        const lost = () => {
            over(1006);
            mine.close();
        };
        const ask = () => {
            send({ who: true });
            silence = setTimeout(lost, PATIENCE);
        };
        mine.onopen = () => {
            opened = true;
            show("online");
        };
        mine.onmessage = (event) => {
            clearTimeout(silence);
            silence = setTimeout(ask, INTERVAL);
            attempts = waits();
            lastTry = false;
            hear(JSON.parse(event.data));
        };
        mine.onclose = (event) => over(event.code);
    }

    async function closed(code, opened) {
        if (code === LOGGED_OUT) {
            toLogin();
        } else if (code === NOT_ADMITTED && !lastTry) {
            // The socket had the cookies of its handshake, the browser may have newer ones: one
            // handshake with these decides.
            lastTry = true;
            open();
        } else {
            show("offline");
            const admitted = opened && !lastTry ? true : await isAdmitted();
            if (admitted === false || (admitted && lastTry)) {
                // The server shows the login, or says why not.
                location.reload();
            } else if (!socket) {
                timer = setTimeout(open, attempts.next().value);
            }
        }
    }

    function send(message) {
        if (socket?.readyState === WebSocket.OPEN) {
            socket.send(JSON.stringify(message));
        }
    }

    addEventListener("online", () => {
        if (!socket) {
            attempts = waits();
            open();
        }
    });
    // Back from the browser's cache of pages, where sockets do not live.
    addEventListener("pageshow", (event) => {
        if (event.persisted && !socket) {
            open();
        }
    });
    open();
    return send;
}
