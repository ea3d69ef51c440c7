// How much is unread, on every page.

import { isAdmitted, toLogin, waits } from "./page.js";

const title = document.title;
const room = document.querySelector("[data-room]")?.dataset.room;

// By the name of each room the number of its unread messages.
function show(counts) {
    for (const badge of document.querySelectorAll("[data-unread]")) {
        fill(badge, counts[badge.dataset.unread] ?? 0);
        // Who was put out of a room is not shown the way there.
        badge.closest("li").hidden = !(badge.dataset.unread in counts);
    }
    let total = 0;
    for (const [name, count] of Object.entries(counts)) {
        // What is on the screen is being read.
        total += name === room ? 0 : count;
    }
    for (const badge of document.querySelectorAll("[data-unread-others]")) {
        fill(badge, total);
    }
    document.title = total ? `(${total}) ${title}` : title;
}

function fill(badge, count) {
    badge.hidden = !count;
    badge.querySelector(".count").textContent = count > 99 ? "99+" : count;
}

// Server-Sent Events. EventSource comes back by itself after a broken connection, but not after an
// answer that is no stream.
function follow(hear, end) {
    let attempts = waits();
    function open() {
        const source = new EventSource(document.body.dataset.unreadUrl);
        source.onmessage = (event) => {
            attempts = waits();
            hear(JSON.parse(event.data));
        };
        source.onerror = async () => {
            if (source.readyState === EventSource.CLOSED) {
                if (await isAdmitted() === false) {
                    end();
                } else {
                    setTimeout(open, attempts.next().value);
                }
            }
        };
    }
    open();
}

// With HTTP/1.1 a browser has six connections for all tabs of a site: one tab has the stream, and
// tells the others. When it is closed, another takes its place.
const tabs = new BroadcastChannel("unread");
tabs.onmessage = ({ data }) => data === null ? toLogin() : show(data);

const alone = () => follow(
    (counts) => {
        show(counts);
        tabs.postMessage(counts);
    },
    () => {
        tabs.postMessage(null);
        toLogin();
    },
);

// There are locks on https and on localhost only.
if (navigator.locks) {
    navigator.locks.request("unread", () => {
        alone();
        return new Promise(() => {});
    });
} else {
    alone();
}
