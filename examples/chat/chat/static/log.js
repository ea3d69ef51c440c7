// The messages on the page: each is there once, in the order of their rows.

const NEAR = 80;
const SAME_BREATH = 5 * 60 * 1000;

const scroller = document.getElementById("scroller");
const list = document.getElementById("messages");
const empty = document.getElementById("empty");
const newer = document.getElementById("newer");
const template = document.getElementById("message");
const me = document.querySelector("[data-me]").dataset.me;

let atEnd = true;

const idOf = (item) => Number(item.id.slice("message-".length));

export const newest = () => list.lastElementChild ? idOf(list.lastElementChild) : 0;

// An element for a message that came, or is to be sent.
export function made(message) {
    const item = template.content.firstElementChild.cloneNode(true);
    item.dataset.author = message.author;
    item.classList.toggle("own", String(message.author) === me);
    item.querySelector(".title").textContent = message.title;
    item.querySelector("time").dateTime = message.sent;
    if (message.text) {
        const text = item.querySelector(".text");
        text.textContent = message.text;
        text.hidden = false;
    }
    if (message.picture) {
        const picture = item.querySelector(".picture");
        picture.href = picture.firstElementChild.src = message.picture;
        picture.firstElementChild.alt = `A picture from ${message.title}`;
        picture.hidden = false;
    }
    tell(item);
    return item;
}

export function show(message) {
    if (document.getElementById(`message-${message.id}`)) {
        return;
    }
    const item = made(message);
    item.id = `message-${message.id}`;
    // Nearly always the last one.
    let before = list.lastElementChild;
    while (before && idOf(before) > message.id) {
        before = before.previousElementSibling;
    }
    before ? before.after(item) : list.prepend(item);
    empty.hidden = true;
    join(item);
    join(item.nextElementSibling);
    item.classList.contains("own") || atEnd ? toEnd() : (newer.hidden = false);
}

// The newest ones, read from the server since events were missed: nobody knows what is between
// these and what was there. What came meanwhile is newer, and stays.
export function replace(messages) {
    const first = messages.length ? messages[0].id : 0;
    for (const item of [...list.children]) {
        if (idOf(item) < first) {
            item.remove();
        }
    }
    messages.forEach(show);
    join(list.firstElementChild);
}

// The time where the reader lives.
function tell(item) {
    const time = item.querySelector("time");
    const sent = new Date(time.dateTime);
    const today = sent.toDateString() === new Date().toDateString();
    const day = today ? "" : `${sent.toLocaleDateString([], { day: "numeric", month: "short" })}, `;
    time.textContent = day + sent.toLocaleTimeString([], { timeStyle: "short" });
    time.title = sent.toLocaleString();
}

// What somebody goes on to say needs no name again.
function join(item) {
    const before = item?.previousElementSibling;
    if (item) {
        const gap = before && when(item) - when(before);
        item.classList.toggle("goes-on", Boolean(before)
            && before.dataset.author === item.dataset.author && gap < SAME_BREATH);
    }
}

const when = (item) => new Date(item.querySelector("time").dateTime);

export function toEnd() {
    atEnd = true;
    newer.hidden = true;
    scroller.scrollTop = scroller.scrollHeight;
}

scroller.addEventListener("scroll", () => {
    atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR;
    if (atEnd) {
        newer.hidden = true;
    }
});
// Pictures, and the keyboard of a phone, move the end.
const stay = () => atEnd && toEnd();
scroller.addEventListener("load", stay, true);
new ResizeObserver(stay).observe(scroller);
newer.addEventListener("click", toEnd);

for (const item of list.children) {
    tell(item);
    join(item);
}
toEnd();
