// What is written is sent once, in its order, when the server can be reached.

import { made, show, toEnd } from "./log.js";
import { waits } from "./page.js";
import { shrunk } from "./pictures.js";

const form = document.getElementById("composer");
const text = form.elements.text;
const picture = form.elements.picture;
const chosen = document.getElementById("chosen");
const problem = document.getElementById("problem");
const outbox = document.getElementById("outbox");
const { me, title } = document.querySelector("[data-me]").dataset;

const waiting = [];
let sending = false, late = false, wake = () => {};

// What could not be sent would go with the page: the browser asks.
addEventListener("beforeunload", (event) => late && event.preventDefault());

// Not crypto.randomUUID(), which plain http lacks.
const newKey = () => Array.from(
    crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0"),
).join("");

form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const said = text.value.trim();
    const file = picture.files[0];
    if (!said && !file) {
        text.focus();
        return;
    }
    complain("");
    form.reset();
    choose();
    grow();
    text.focus();
    let data = null;
    try {
        data = file ? await shrunk(file, Number(picture.dataset.max)) : null;
    } catch (error) {
        complain(error.message);
        giveBack(said);
        return;
    }
    const body = new FormData();
    const key = newKey();
    body.set("key", key);
    body.set("text", said);
    const shown = { author: me, title, text: said, sent: new Date().toISOString() };
    if (data) {
        body.set("picture", data, "picture");
        shown.picture = URL.createObjectURL(data);
    }
    const item = made(shown);
    item.querySelector("time").textContent = "Sending…";
    outbox.append(item);
    outbox.hidden = false;
    waiting.push({ key, body, item, picture: shown.picture });
    toEnd();
    sendAll();
});

async function sendAll() {
    if (sending) {
        return;
    }
    sending = true;
    for (let attempts = waits(); waiting.length;) {
        const entry = waiting[0];
        const answer = await post(entry.body);
        late = answer === undefined;
        if (late) {
            // Until the time has come, or the page is online again.
            await new Promise((resolve) => {
                wake = resolve;
                setTimeout(resolve, attempts.next().value);
            });
        } else {
            attempts = waits();
            answer.message ? arrived(answer.message) : refused(entry, answer.problem);
        }
    }
    sending = late = false;
}

// Undefined where nobody knows whether it came: then it is sent again, with the same key.
async function post(body) {
    let answer;
    try {
        answer = await fetch(form.action, {
            method: "POST",
            headers: { Accept: "application/json", "X-CSRF-Token": form.elements.csrf_token.value },
            body,
            // Who goes on to another page has sent it. Pictures are too large for that.
            keepalive: !body.has("picture"),
        });
        if (answer.ok) {
            return { message: await answer.json() };
        }
    } catch {
        return undefined;
    }
    if (answer.status >= 500) {
        return undefined;
    }
    if (answer.status === 413) {
        return { problem: "The picture is too large." };
    }
    const { message } = await answer.json().catch(() => ({}));
    return { problem: message ?? answer.statusText };
}

// A message is there: by the answer, or by an event that was faster.
export function arrived(message) {
    const entry = waiting.find(({ key }) => key === message.key);
    if (entry) {
        drop(entry);
    }
    show(message);
}

function refused(entry, why) {
    complain(`Not sent: ${why}`);
    giveBack(entry.body.get("text"));
    drop(entry);
}

function giveBack(said) {
    if (!text.value) {
        text.value = said;
        grow();
    }
}

function drop(entry) {
    waiting.splice(0, waiting.length, ...waiting.filter((each) => each !== entry));
    entry.item.remove();
    outbox.hidden = !outbox.children.length;
    if (entry.picture) {
        URL.revokeObjectURL(entry.picture);
    }
}

export const retry = () => wake();

function complain(what) {
    problem.textContent = what;
    problem.hidden = !what;
}

// Enter sends, with Shift it is a new line; not while an input method composes a word.
text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
    }
});

function grow() {
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight + text.offsetHeight - text.clientHeight}px`;
}
text.addEventListener("input", grow);

function choose() {
    const image = chosen.querySelector("img");
    URL.revokeObjectURL(image.src);
    const file = picture.files[0];
    chosen.hidden = !file;
    file ? (image.src = URL.createObjectURL(file)) : image.removeAttribute("src");
}
picture.addEventListener("change", () => {
    complain("");
    choose();
    text.focus();
});
chosen.querySelector("button").addEventListener("click", () => {
    picture.value = "";
    choose();
    text.focus();
});
// A picture from the clipboard.
text.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) {
        event.preventDefault();
        picture.files = event.clipboardData.files;
        choose();
    }
});
