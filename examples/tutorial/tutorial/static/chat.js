// The page of the chat: what is said appears, and is there once, whatever the network does.

const { url, login, since: begin } = document.querySelector("#chat").dataset;
const list = document.querySelector("ul");
const form = document.querySelector("#say");
const fieldset = form.querySelector("fieldset");
const input = form.querySelector("input");
let since = begin, socket, wait = 500, isLast = false;

function show({ id, author, text }) {
    // A message that the page has already may come once more.
    if (document.getElementById(`message-${id}`)) return;
    const item = document.createElement("li");
    const name = document.createElement("b");
    item.id = `message-${id}`;
    name.textContent = author;
    item.append(name, ` ${text}`);
    list.append(item);
    item.scrollIntoView();
}

function open() {
    socket = new WebSocket(url);
    socket.onopen = () => {
        socket.send(since);
        fieldset.disabled = isLast = false;
        wait = 500;
        input.focus();
    };
    socket.onmessage = (event) => {
        const { id, data, gap } = JSON.parse(event.data);
        // More was said meanwhile than the server still has.
        if (gap !== undefined) location.reload();
        since = id ?? since;
        if (data) show(data);
    };
    socket.onclose = ({ code }) => {
        fieldset.disabled = true;
        // Logged out, in this tab or another one; or the last try was refused, too.
        if (code === 4401 || isLast) return location.assign(login);
        // The socket has the cookies of its handshake, the browser may have newer ones.
        isLast = code === 4403;
        setTimeout(open, isLast ? 0 : wait * (1 + Math.random()));
        wait = Math.min(2 * wait, 30000);
    };
}

form.onsubmit = (event) => {
    event.preventDefault();
    socket.send(input.value);
    form.reset();
};
open();
