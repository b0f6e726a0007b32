// The sandbox's inbox: asks for what is new once a second, and shows each recipient's messages as a conversation.
// Texts and names come from anybody: they go into the page as textContent and never as HTML.
"use strict";

const POLL_MS = 1000;
const POLL_AT_MOST_MS = 30000;
const ANSWER_WITHIN_MS = 10000;

const byId = (id) => document.getElementById(id);
const page = byId("main");
const SHOWN = Number(page.dataset.shown);
// Absolute: a page opened as http://user:password@host/ may not fetch relative addresses.
const source = new URL(page.dataset.source, location.origin);

// --- asking for what is new

let cursor = null;
let failures = 0;
let timer = 0;
let asking = null;

async function poll() {
  clearTimeout(timer);
  asking?.abort();
  if (document.hidden) return;
  const mine = (asking = new AbortController());
  const late = setTimeout(() => mine.abort(), ANSWER_WITHIN_MS);
  let wait = POLL_MS;
  try {
    const url = new URL(source);
    if (cursor !== null) url.searchParams.set("after", cursor);
    const answer = await fetch(url, { signal: mine.signal, cache: "no-store" });
    if (answer.status === 401) {
      say("signed-out", "Signed out: reload the page to sign in");
      return;
    }
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const { messages, next } = await answer.json();
    if (mine !== asking) return;
    const first = cursor === null;
    show(messages, !first);
    // A full page means that we are far behind: only the newest are shown, so go straight to those.
    const behind = !first && messages.length >= SHOWN;
    cursor = behind ? null : next;
    failures = 0;
    say("live", "Live");
  } catch {
    if (mine !== asking || document.hidden) return; // a newer question has taken over
    failures += 1;
    wait = Math.min(POLL_MS * 2 ** failures, POLL_AT_MOST_MS);
    say("away", `Server away, next try in ${wait / 1000} s`);
  } finally {
    clearTimeout(late);
  }
  timer = setTimeout(poll, wait);
}

function say(state, words) {
  const status = byId("status");
  if (status.textContent === words) return; // said again, it would be read out again
  status.dataset.is = state;
  status.textContent = words;
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
  else {
    clearTimeout(timer);
    asking?.abort();
  }
});
addEventListener("online", poll);

// --- showing it

const conversations = new Map(); // uuid -> { card, thread, count }
const bubbles = new Map(); // key -> { bubble, talk }, oldest first
const whatFails = new Map(
  [...document.querySelectorAll("#failures button")].map((b) => [b.dataset.uuid, b.dataset.what]),
);

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });

function show(messages, announced) {
  const fresh = messages.filter((m) => !bubbles.has(m.key));
  const places = new Map(); // where each thread stood before it grew; a moved element forgets it
  for (const message of fresh) {
    const talk = conversations.get(message.uuid) ?? begin(message.uuid);
    const at = places.has(talk) ? places.get(talk) : place(talk.thread);
    places.delete(talk); // so that the one with the newest message stands last
    places.set(talk, at);
    add(talk, message, announced);
  }
  forgetOldest();
  for (const [talk, at] of places) {
    if (!talk.count) continue;
    // Newest first, but never from under somebody's hands.
    if (!talk.card.matches(":focus-within, :hover")) byId("conversations").prepend(talk.card);
    talk.card.querySelector("header p").textContent = about(talk);
    talk.thread.scrollTop = at ?? talk.thread.scrollHeight;
  }
  page.dataset.is = bubbles.size ? "full" : "empty";
  byId("count").textContent = bubbles.size ? total() : "";
  if (announced && fresh.length) announce(fresh);
}

// Its scroll position, or null at the end, where new bubbles are to be followed.
function place(thread) {
  const below = thread.scrollHeight - thread.clientHeight - thread.scrollTop;
  return below < 40 ? null : thread.scrollTop;
}

function begin(uuid) {
  const card = byId("conversation").content.cloneNode(true).firstElementChild;
  const thread = card.querySelector("ol");
  const name = card.querySelector("h2");
  name.textContent = uuid;
  name.title = uuid;
  name.id = `conversation-${++begin.made}`;
  card.setAttribute("aria-labelledby", name.id);
  thread.setAttribute("aria-labelledby", name.id);
  card.querySelector(".avatar").textContent = initials(uuid);
  card.style.setProperty("--hue", hue(uuid));
  const talk = { uuid, card, thread, count: 0, day: "" };
  byId("conversations").prepend(card);
  conversations.set(uuid, talk);
  return talk;
}
begin.made = 0;

function add(talk, { at, key, text }, fresh) {
  const when = new Date(at);
  const day = when.toDateString();
  if (talk.day !== day) {
    talk.day = day;
    const line = document.createElement("li");
    line.className = "day";
    line.textContent = dayName(when);
    talk.thread.append(line);
  }
  const bubble = byId("bubble").content.cloneNode(true).firstElementChild;
  bubble.querySelector("p").textContent = text;
  const time = bubble.querySelector("time");
  time.dateTime = at;
  time.title = `${exact.format(when)} (${at})`;
  time.textContent = clock.format(when);
  bubble.classList.toggle("fresh", fresh);
  talk.thread.append(bubble);
  talk.count += 1;
  bubbles.set(key, { bubble, talk });
}

// A page that is left open would otherwise grow without end.
function forgetOldest() {
  for (const [key, { bubble, talk }] of bubbles) {
    if (bubbles.size <= SHOWN) return;
    bubbles.delete(key);
    bubble.remove();
    talk.count -= 1;
    const [first, second] = talk.thread.children;
    if (first?.matches(".day") && !second?.matches(".bubble")) first.remove();
    if (!talk.count) {
      talk.card.remove();
      conversations.delete(talk.uuid);
    } else {
      talk.card.querySelector("header p").textContent = about(talk);
    }
  }
}

function about(talk) {
  const count = plural(talk.count, "message");
  const what = whatFails.get(talk.uuid);
  return what ? `${count} · ${what}` : count;
}

function total() {
  const shown = bubbles.size >= SHOWN ? `the newest ${SHOWN} messages` : plural(bubbles.size, "message");
  return `${shown} to ${plural(conversations.size, "recipient")}`;
}

function announce(fresh) {
  const [{ uuid, text }] = fresh;
  byId("news").textContent =
    fresh.length === 1 ? `To ${uuid}: ${text.slice(0, 200)}` : `${fresh.length} new messages`;
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function dayName(when) {
  const today = new Date();
  if (when.toDateString() === today.toDateString()) return "Today";
  today.setDate(today.getDate() - 1);
  return when.toDateString() === today.toDateString() ? "Yesterday" : calendar.format(when);
}

function initials(uuid) {
  const words = uuid.match(/\p{L}+/gu);
  if (!words) return uuid.match(/[0-9]/g)?.slice(-2).join("") ?? "#"; // numbers differ in their ends
  const letters = words.length > 1 ? [words[0], words.at(-1)].map((w) => [...w][0]) : [...words[0]].slice(0, 2);
  return letters.join("").toUpperCase();
}

// The same recipient has the same colour everywhere.
function hue(uuid) {
  let hash = 7;
  for (const letter of uuid) hash = Math.imul(hash ^ letter.codePointAt(0), 0x01000193) >>> 0;
  return (hash % 24) * 15;
}

// --- the command to paste

byId("url").textContent = new URL(new URL(byId("url").textContent).pathname, location.origin).href;

byId("failures").addEventListener("click", ({ target }) => {
  const chosen = target.closest("button");
  if (!chosen) return;
  const off = chosen.getAttribute("aria-pressed") === "true";
  for (const button of byId("failures").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button === chosen && !off));
  }
  byId("uuid").textContent = off ? "ann" : chosen.dataset.uuid;
});

byId("copy").addEventListener("click", async () => {
  const button = byId("copy");
  try {
    await navigator.clipboard.writeText(byId("curl").textContent);
    button.textContent = "Copied";
  } catch {
    // Without HTTPS browsers give no clipboard, except on localhost.
    getSelection().selectAllChildren(byId("curl"));
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
});

poll();
