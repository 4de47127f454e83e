// The page of genrec's server: a conversation beside a shelf of what it recommends.

import { at } from "./make.js";
import { keep, keepTheme, recall } from "./memory.js";
import { Person } from "./person.js";
import { idsIn, writeMention } from "./reply.js";
import { counted, Shelf } from "./shelf.js";
import { Talk } from "./talk.js";
import { call, converse, Refusal } from "./wire.js";

const REMEMBERED = 30; // turns that are sent; what is wished is sent whole
const TRIES = 4; // times that a busy server is waited for
const NOBODY = { liked: [], disliked: [], words: [], limits: [] };

const state = recall();
let running = null; // the AbortController of the answer that is on its way

const talk = new Talk({ say, again, edit, mention: showItem, isKnown });
const shelf = new Shelf({ say, remove, latest: showShelf, like: (item) => person.like(item) });
const person = new Person(state, { changed: () => keep(state), forgotten, tell });

/** Say something in the conversation; whether it could be said now. */
function say(text) {
  if (running || !text.trim()) return false;
  go({ said: text.trim() });
  return true;
}

/** Take a wish back: the same conversation under other wishes. */
function remove(chip) {
  if (running) return;
  const wishes = structuredClone(wishesNow());
  const others = (values) => values.filter((own) => own !== chip.value);
  if (chip.kind === "only") wishes.limits = wishes.limits.filter((own) => own.where !== chip.value);
  else if (chip.kind === "looks for") wishes.words = others(wishes.words);
  else if (chip.kind === "likes") wishes.liked = others(wishes.liked);
  else wishes.disliked = others(wishes.disliked);
  go({ said: "", did: `Took back: ${chip.label}`, wishes });
}

/** Ask for the next turn and show it as it comes. Whatever happens, what was said is in the state. */
async function go(asked) {
  running = new AbortController();
  const { turns } = state;
  const messages = messagesOf(turns);
  if (asked.said) messages.push({ role: "user", content: asked.said });
  const body = { model: "genrec", messages, genrec: { wishes: asked.wishes ?? wishesNow() } };
  if (state.user) body.genrec.user_id = state.user;
  state.asked = asked;
  keep(state);
  showShelf();
  const turn = { ...asked, reply: "", ended: "done" };
  talk.begin(turn);
  tell("");
  showRunning();
  try {
    await listen(body, turn, running.signal);
  } catch (error) {
    if (state.turns === turns) fail(error, turn);
  }
  running = null;
  if (state.turns === turns) end(turn);
  showRunning();
}

/** A turn of which nothing more comes. */
function end(turn) {
  state.asked = null;
  if (turn.ended === "unsaid") talk.drop();
  else {
    state.turns.push(turn);
    talk.update(turn, true);
  }
  keep(state);
  showShelf();
  if (turn.items) at("heard").textContent = `${counted(turn.items.length)} on the shelf.`;
}

/** Fill a turn from the server, with patience where it is busy and a key where it asks for one. */
async function listen(body, turn, signal) {
  for (let tries = 1; ; tries++) {
    try {
      for await (const chunk of converse(body, person.key, signal)) take(chunk, turn);
      return;
    } catch (error) {
      if (error.kind === "key" && (await person.askKey())) talk.think();
      else if (error.kind === "busy" && tries < TRIES) await wait(error.wait, signal);
      else throw error;
    }
  }
}

function take(chunk, turn) {
  const { wishes, chips, items, notices, fallback } = chunk.genrec ?? {};
  if (wishes) turn.wishes = wishes;
  if (chips) shelf.showChips((turn.chips = chips));
  if (items) {
    turn.items = items.map(asKnown);
    turn.notices = notices ?? [];
    shelf.showItems(turn.items, turn.notices);
    shelf.showWaiting(false);
  }
  if (fallback !== undefined) turn.fallback = fallback;
  turn.reply += chunk.choices?.[0]?.delta?.content ?? "";
  talk.update(turn, false);
}

/** An item; one that the server knows from the reply alone, as it is when asked why, is what it was on the shelf. */
function asKnown(item) {
  if (item.source !== "named") return item;
  const before = state.turns.flatMap((turn) => turn.items ?? []).findLast((own) => own.item_id === item.item_id);
  return { ...item, ...before, rank: item.rank };
}

/** Count down to the next try; a stop ends it, and so does the button. */
function wait(seconds, signal) {
  return new Promise((resolve, reject) => {
    const end = (then) => {
      clearInterval(clock);
      signal.removeEventListener("abort", stopped);
      talk.think();
      then();
    };
    const stopped = () => end(() => reject(signal.reason));
    const words = `The server is busy. It is asked again in ${seconds} ${seconds === 1 ? "second" : "seconds"}.`;
    const count = talk.wait(words, seconds, () => end(resolve));
    const clock = setInterval(() => {
      seconds -= 1;
      if (seconds > 0) count(seconds);
      else end(resolve);
    }, 1000);
    signal.addEventListener("abort", stopped);
  });
}

function fail(error, turn) {
  const came = turn.items !== undefined && turn.wishes !== undefined;
  if (error.name === "AbortError") {
    if (came) turn.ended = "stopped";
    else if (turn.said && !words.value.trim()) {
      turn.ended = "unsaid";
      write(turn.said);
    } else Object.assign(turn, { ended: "failed", trouble: "Stopped before an answer came." });
    return;
  }
  if (!(error instanceof Refusal)) console.error(error);
  const trouble = error instanceof Refusal ? error.message : "Something went wrong on this page.";
  Object.assign(turn, { ended: came ? "broken" : "failed", trouble });
}

/** Try the last turn again. */
function again() {
  if (running) return;
  const { said, did, wishes } = state.turns.pop();
  talk.drop();
  go(said ? { said } : { said, did, wishes });
}

/** Put what a failed turn said back into the message box. */
function edit(turn) {
  if (running) return;
  state.turns = state.turns.filter((own) => own !== turn);
  write([words.value.trim(), turn.said].filter(Boolean).join("\n"));
  talk.show(state.turns);
  showRunning();
  showShelf();
}

function undo() {
  if (running || !state.turns.length) return;
  const turn = state.turns.pop();
  if (turn.said && !words.value.trim()) write(turn.said);
  keep(state);
  talk.drop();
  showRunning();
  showShelf();
  at("heard").textContent = "The last turn is taken back.";
  words.focus();
}

/** A new conversation; the one so far can be brought back, with what was being asked. */
function startFresh() {
  const trouble = "A new conversation was begun before the answer came.";
  const asked = state.asked ? [{ ...state.asked, ended: "failed", trouble }] : [];
  state.before = [...state.turns, ...asked];
  restart([]);
}

function restart(turns) {
  running?.abort();
  state.turns = turns;
  state.asked = null;
  keep(state);
  talk.show(turns);
  showRunning();
  showShelf();
  words.focus();
}

function forgotten(told) {
  state.before = null;
  restart([]);
  tell(told);
}

/** The messages of the wire: of the turns that were answered, the newest. */
function messagesOf(turns) {
  return turns
    .filter((turn) => turn.ended !== "failed")
    .slice(-REMEMBERED)
    .flatMap((turn) => [
      ...(turn.said ? [{ role: "user", content: turn.said }] : []),
      ...(turn.reply || turn.items ? [{ role: "assistant", content: withAll(turn) }] : []),
    ]);
}

/**
 * A reply that names all that stands on the shelf, in its order. The server learns from the reply alone what was shown,
 * and one that broke off, or was written freely, may name less: "number 5" would then be another item.
 */
function withAll({ reply, items }) {
  const shown = (items ?? []).map((item) => String(item.item_id));
  if (shown.join("\n") === idsIn(reply).join("\n")) return reply;
  return [...(items ?? []).map((item) => `${item.rank}. ${writeMention(item)}`), "", reply].join("\n").trim();
}

const answered = () => state.turns.filter((turn) => turn.ended !== "failed");
const wishesNow = () => answered().findLast((turn) => turn.wishes)?.wishes ?? NOBODY;

function isKnown(id) {
  const holds = (items) => items?.some((item) => String(item.item_id) === id);
  return holds(shelf.items) || state.turns.some((turn) => holds(turn.items));
}

/** Focus an item's card, of an earlier answer where the latest has it not. */
function showItem(id) {
  if (shelf.focus(id)) return;
  const turn = state.turns.findLast((own) => own.items?.some((item) => String(item.item_id) === id));
  if (!turn || running) return;
  const latest = answered().findLast((own) => own.items);
  shelf.showItems(turn.items, turn.notices, turn !== latest);
  shelf.focus(id);
}

/** The shelf as the conversation has it now. */
function showShelf() {
  const latest = answered().findLast((turn) => turn.items);
  shelf.showChips(answered().findLast((turn) => turn.chips)?.chips ?? []);
  shelf.showItems(latest?.items ?? null, latest?.notices);
}

const words = at("words");

/** Put text into the message box; it is kept as if it had been typed. */
function write(text) {
  words.value = text;
  state.draft = text;
  keep(state);
  fit();
}

/** As many lines as the text has, up to what the style allows. */
function fit() {
  words.style.height = "auto";
  words.style.height = `${words.scrollHeight}px`;
}

function tell(text) {
  at("notice").hidden = !text;
  at("notice").textContent = text;
}

function showRunning() {
  document.body.classList.toggle("runs", running !== null);
  shelf.showWaiting(running !== null);
  at("send-name").textContent = running ? "Stop" : "Send";
  at("fresh").disabled = running === null && !state.turns.length;
  at("undo").disabled = running !== null || !state.turns.length;
  at("back").hidden = !state.before;
}

function send() {
  const text = words.value;
  if (running || !text.trim()) return;
  write("");
  say(text);
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) running.abort();
  else send();
});
words.addEventListener("input", () => {
  state.draft = words.value;
  keep(state);
  fit();
});
words.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") running?.abort();
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea")) return;
  event.preventDefault();
  words.focus();
});
at("undo").addEventListener("click", undo);
at("fresh").addEventListener("click", startFresh);
at("back").addEventListener("click", () => {
  const turns = state.before;
  state.before = null;
  restart(turns);
});

const darkBySystem = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (darkBySystem.matches ? "dark" : "light")) === "dark";
const showTheme = () => at("theme").setAttribute("aria-pressed", String(isDark()));
at("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  keepTheme(document.documentElement.dataset.theme);
  showTheme();
});
darkBySystem.addEventListener("change", showTheme);

/** Whether the server is there and takes the key, before somebody has typed in vain. */
async function greet() {
  try {
    await call("v1/models", { key: person.key });
  } catch (error) {
    if (error.kind === "key" && (await person.askKey())) await greet();
    else if (error.kind !== "busy") tell(error.message);
  }
}

write(state.draft);
talk.show(state.turns);
showRunning();
showShelf();
showTheme();
greet();
