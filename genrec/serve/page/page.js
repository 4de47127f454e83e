// The page of the server: a conversation, and the items it recommends.

import { ApiError, request, streamChat } from "./api.js";
import { Composer } from "./composer.js";
import { ConversationPane } from "./conversation.js";
import { byId } from "./dom.js";
import { messagesOf } from "./messages.js";
import { loadState, saveState } from "./storage.js";
import { SuggestionsPane } from "./suggestions.js";
import { setUpThemeButton } from "./theme-button.js";
import { UserDialogs } from "./user.js";
import { itemCount } from "./wording.js";

const MAX_ATTEMPTS = 4; // attempts of one request while the server is busy
const NO_PREFERENCES = { liked: [], disliked: [], words: [], limits: [] };

const state = loadState();
let running = null; // the AbortController of the current request

const conversation = new ConversationPane({ send, retry, edit, showItem, isKnown });
const suggestions = new SuggestionsPane({ send, removePreference, showLatest, like: (item) => user.like(item) });
const user = new UserDialogs(state, { changed: () => saveState(state), forgotten, showNotice });
const composer = new Composer({
  submit,
  stop() {
    running?.abort();
    return running !== null;
  },
  draftChanged(text) {
    state.draft = text;
    saveState(state);
  },
});

/** Send a message; returns false if a request is running or the text is blank. */
function send(text) {
  if (running || !text.trim()) return false;
  runTurn({ said: text.trim() });
  return true;
}

function submit(text) {
  if (running || !text.trim()) return;
  composer.text = "";
  send(text);
}

/** Remove a preference: the same conversation with the other preferences. */
function removePreference(label) {
  if (running) return;
  const preferences = structuredClone(currentPreferences());
  const without = (values) => values.filter((value) => value !== label.value);
  if (label.kind === "only") preferences.limits = preferences.limits.filter((limit) => limit.where !== label.value);
  else if (label.kind === "looks for") preferences.words = without(preferences.words);
  else if (label.kind === "likes") preferences.liked = without(preferences.liked);
  else preferences.disliked = without(preferences.disliked);
  runTurn({ said: "", did: `Removed: ${label.text}`, wishes: preferences });
}

/** Request the next turn and show it as it arrives. The message stays in the state, even if the request fails. */
async function runTurn(pending) {
  running = new AbortController();
  const { turns } = state;
  const messages = messagesOf(turns);
  if (pending.said) messages.push({ role: "user", content: pending.said });
  const body = { model: "genrec", messages, genrec: { wishes: pending.wishes ?? currentPreferences() } };
  if (state.user) body.genrec.user_id = state.user;
  state.asked = pending;
  saveState(state);
  showLatest();
  const turn = { ...pending, reply: "", ended: "done" };
  conversation.begin(turn);
  showNotice("");
  showRunning();
  try {
    await receive(body, turn, running.signal);
  } catch (error) {
    if (state.turns === turns) handleError(error, turn);
  }
  running = null;
  if (state.turns === turns) finishTurn(turn);
  showRunning();
}

/** Store a turn that is complete. */
function finishTurn(turn) {
  state.asked = null;
  if (turn.ended === "unsaid") conversation.removeLast();
  else {
    state.turns.push(turn);
    conversation.update(turn, true);
  }
  saveState(state);
  showLatest();
  if (turn.items) announce(`${itemCount(turn.items.length)} suggested.`);
}

/** Fill a turn from the server; retries while the server is busy, and asks for an API key if it is required. */
async function receive(body, turn, signal) {
  for (let attempt = 1; ; attempt++) {
    try {
      for await (const chunk of streamChat(body, user.key, signal)) addChunk(chunk, turn);
      return;
    } catch (error) {
      if (error.kind === "key" && (await user.askKey())) conversation.showPending();
      else if (error.kind === "busy" && attempt < MAX_ATTEMPTS) await waitForRetry(error.wait, signal);
      else throw error;
    }
  }
}

function addChunk(chunk, turn) {
  const { wishes, chips, items, notices, fallback } = chunk.genrec ?? {};
  if (wishes) turn.wishes = wishes;
  if (chips) suggestions.showPreferences((turn.chips = chips));
  if (items) {
    turn.items = items.map(withKnownFields);
    turn.notices = notices ?? [];
    suggestions.showItems(turn.items, turn.notices);
    suggestions.showLoading(false);
  }
  if (fallback !== undefined) turn.fallback = fallback;
  turn.reply += chunk.choices?.[0]?.delta?.content ?? "";
  conversation.update(turn, false);
}

/** An item with the fields of its earlier recommendation, if the server knows it from the messages only. */
function withKnownFields(item) {
  if (item.source !== "named") return item;
  const known = state.turns.flatMap((turn) => turn.items ?? []).findLast((other) => other.item_id === item.item_id);
  return { ...item, ...known, rank: item.rank };
}

/** Count down to the next attempt. "Try now" ends the wait early, "Stop" cancels the request. */
function waitForRetry(seconds, signal) {
  return new Promise((resolve, reject) => {
    const end = (then) => {
      clearInterval(timer);
      signal.removeEventListener("abort", stopped);
      conversation.showPending();
      then();
    };
    const stopped = () => end(() => reject(signal.reason));
    const text = `The server is busy. Retrying in ${seconds} ${seconds === 1 ? "second" : "seconds"}.`;
    const showRemaining = conversation.showBusy(text, seconds, () => end(resolve));
    const timer = setInterval(() => {
      seconds -= 1;
      if (seconds > 0) showRemaining(seconds);
      else end(resolve);
    }, 1000);
    signal.addEventListener("abort", stopped);
  });
}

function handleError(error, turn) {
  const hasList = turn.items !== undefined && turn.wishes !== undefined;
  if (error.name === "AbortError") {
    if (hasList) turn.ended = "stopped";
    else if (turn.said && !composer.text.trim()) {
      turn.ended = "unsaid";
      composer.text = turn.said;
    } else Object.assign(turn, { ended: "failed", trouble: "Stopped before the answer arrived." });
    return;
  }
  if (!(error instanceof ApiError)) console.error(error);
  const trouble = error instanceof ApiError ? error.message : "Something went wrong on this page.";
  Object.assign(turn, { ended: hasList ? "broken" : "failed", trouble });
}

/** Send the last turn again. */
function retry() {
  if (running) return;
  const { said, did, wishes } = state.turns.pop();
  conversation.removeLast();
  runTurn(said ? { said } : { said, did, wishes });
}

/** Move the message of a failed turn back to the message box. */
function edit(turn) {
  if (running) return;
  state.turns = state.turns.filter((other) => other !== turn);
  composer.text = [composer.text.trim(), turn.said].filter(Boolean).join("\n");
  conversation.show(state.turns);
  showRunning();
  showLatest();
}

function undo() {
  if (running || !state.turns.length) return;
  const turn = state.turns.pop();
  if (turn.said && !composer.text.trim()) composer.text = turn.said;
  saveState(state);
  conversation.removeLast();
  showRunning();
  showLatest();
  announce("The last turn was removed.");
  composer.focus();
}

/** Start a new conversation. The current one, with any pending message, can be restored. */
function startNew() {
  const trouble = "A new conversation was started before the answer arrived.";
  const pending = state.asked ? [{ ...state.asked, ended: "failed", trouble }] : [];
  state.before = [...state.turns, ...pending];
  replaceTurns([]);
}

function restorePrevious() {
  const turns = state.before;
  state.before = null;
  replaceTurns(turns);
}

function replaceTurns(turns) {
  running?.abort();
  state.turns = turns;
  state.asked = null;
  saveState(state);
  conversation.show(turns);
  showRunning();
  showLatest();
  composer.focus();
}

function forgotten(notice) {
  state.before = null;
  replaceTurns([]);
  showNotice(notice);
}

const answeredTurns = () => state.turns.filter((turn) => turn.ended !== "failed");
const currentPreferences = () => answeredTurns().findLast((turn) => turn.wishes)?.wishes ?? NO_PREFERENCES;

function isKnown(id) {
  const includesId = (items) => items?.some((item) => String(item.item_id) === id);
  return includesId(suggestions.items) || state.turns.some((turn) => includesId(turn.items));
}

/** Focus the card of an item. If the latest list does not have it, show the earlier list that does. */
function showItem(id) {
  if (suggestions.focusCard(id)) return;
  const turn = state.turns.findLast((other) => other.items?.some((item) => String(item.item_id) === id));
  if (!turn || running) return;
  const latest = answeredTurns().findLast((other) => other.items);
  suggestions.showItems(turn.items, turn.notices, turn !== latest);
  suggestions.focusCard(id);
}

/** Show the latest preferences and the latest list. */
function showLatest() {
  const latest = answeredTurns().findLast((turn) => turn.items);
  suggestions.showPreferences(answeredTurns().findLast((turn) => turn.chips)?.chips ?? []);
  suggestions.showItems(latest?.items ?? null, latest?.notices);
}

function showNotice(text) {
  byId("notice").hidden = !text;
  byId("notice").textContent = text;
}

/** Have screen readers read a text. */
function announce(text) {
  byId("announcement").textContent = text;
}

function showRunning() {
  document.body.classList.toggle("running", running !== null);
  suggestions.showLoading(running !== null);
  byId("send-name").textContent = running ? "Stop" : "Send";
  byId("new-conversation").disabled = running === null && !state.turns.length;
  byId("undo").disabled = running !== null || !state.turns.length;
  byId("restore").hidden = !state.before;
}

/** Check that the server is reachable and accepts the API key, before the user types a message. */
async function checkServer() {
  try {
    await request("v1/models", { key: user.key });
  } catch (error) {
    if (error.kind === "key" && (await user.askKey())) await checkServer();
    else if (error.kind !== "busy") showNotice(error.message);
  }
}

byId("undo").addEventListener("click", undo);
byId("new-conversation").addEventListener("click", startNew);
byId("restore").addEventListener("click", restorePrevious);

composer.text = state.draft;
conversation.show(state.turns);
showRunning();
showLatest();
setUpThemeButton();
checkServer();
