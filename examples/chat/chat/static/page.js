// What the page's own URL says of it.

// True where the server shows the page, false where it does not (any more), and undefined while
// nobody answers, or only a proxy. A script does not see with which status a websocket or an event
// stream was refused; it does see that of a page.
export async function isAdmitted() {
    try {
        const answer = await fetch(location.href, { method: "HEAD", headers: { Accept: "application/json" } });
        return answer.status >= 500 ? undefined : answer.ok;
    } catch {
        return undefined;
    }
}

// Milliseconds, which grow from one attempt to the next: pages do not come back all at once.
export function* waits(first = 500, longest = 30000) {
    for (let wait = first; ; wait = Math.min(2 * wait, longest)) {
        yield wait * (0.5 + Math.random());
    }
}

export function toLogin() {
    location.assign(document.body.dataset.loginUrl);
}
