// An open room.

import { arrived, retry } from "./composer.js";
import { live } from "./live.js";
import { newest, replace } from "./log.js";

const { room, me, liveUrl, messagesUrl, since } = document.querySelector("[data-room]").dataset;
const state = document.getElementById("state");
const people = document.getElementById("people");
const channel = `room:${room}`;

let position = since, read = 0, asking, soon;

const send = live(liveUrl, {
    since: () => position,
    show(now) {
        clearTimeout(soon);
        if (now === "offline") {
            // Not where it is over at once.
            soon = setTimeout(() => {
                state.textContent = "Offline. What you write is sent later.";
            }, 1000);
        } else {
            state.textContent = "";
            read = 0;
            retry();
        }
    },
    hear(message) {
        if (message.present) {
            showPeople(message.present);
        } else if (message.channel !== channel) {
            // Somebody has come or gone.
            whoIsThere();
        } else {
            position = message.id;
            if (message.data) {
                arrived(message.data);
            } else if ("gap" in message) {
                reload();
            }
            markRead();
        }
    },
});

// Events were missed, more than the server remembers, or it was started anew: the rows are there.
async function reload() {
    try {
        const answer = await fetch(messagesUrl, { headers: { Accept: "application/json" } });
        const { messages } = await answer.json();
        replace(messages);
        messages.forEach(arrived);
        markRead();
    } catch {
        setTimeout(reload, 1000 + 2000 * Math.random());
    }
}

// What is on the screen has been read.
function markRead() {
    if (document.visibilityState === "visible" && newest() > read) {
        read = newest();
        send({ read });
    }
}
document.addEventListener("visibilitychange", markRead);

// A second apart at least, and not all pages at once.
function whoIsThere() {
    asking ??= setTimeout(() => {
        asking = undefined;
        send({ who: true });
    }, 100 + 900 * Math.random());
}

function showPeople(present) {
    present.sort((one, other) => one.title.localeCompare(other.title));
    people.replaceChildren(...present.map(({ id, title }) => {
        const item = document.createElement("li");
        const initial = document.createElement("span");
        initial.className = "initial";
        initial.ariaHidden = "true";
        initial.textContent = title[0];
        item.append(initial, String(id) === me ? `${title} (you)` : title);
        return item;
    }));
}
