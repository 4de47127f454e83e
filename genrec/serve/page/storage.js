// State that survives a reload: conversation, draft, user id and API key. Each tab has its own.

// The state: turns, asked (the pending turn, or null), draft, before (the turns of the previous conversation, or null) and
// user (id, or ""). A turn: said (the message, or ""), did (an action without a message), wishes, chips, items, notices,
// reply, fallback, trouble (an error message) and ended: done, stopped, broken (after the list arrived), failed (before
// it arrived) or unsaid (stopped early; the message returns to the message box).
const STATE_KEY = "genrec.conversation";
const API_KEY = "genrec.key";
const THEME_KEY = "genrec.theme";
const EMPTY_STATE = { turns: [], asked: null, draft: "", before: null, user: "" };

/** The saved state. A message that was never answered becomes a failed turn. */
export function loadState() {
  const state = { ...EMPTY_STATE, ...readJson(STATE_KEY) };
  if (!Array.isArray(state.turns)) state.turns = [];
  if (state.asked) {
    state.turns.push({ ...state.asked, ended: "failed", trouble: "The page was reloaded before the answer arrived." });
    state.asked = null;
  }
  return state;
}

/** Save the state. */
export function saveState(state) {
  write(() => sessionStorage, STATE_KEY, JSON.stringify(state));
}

/** The saved API key, or "". */
export function loadKey() {
  try {
    return sessionStorage.getItem(API_KEY) ?? "";
  } catch {
    return "";
  }
}

/** Save the API key; "" removes it. */
export function saveKey(key) {
  write(() => sessionStorage, API_KEY, key || null);
}

/** Save the theme for every tab of this browser. */
export function saveTheme(theme) {
  write(() => localStorage, THEME_KEY, theme);
}

function readJson(name) {
  try {
    return JSON.parse(sessionStorage.getItem(name) ?? "{}");
  } catch {
    return {};
  }
}

function write(storage, name, value) {
  try {
    if (value === null) storage().removeItem(name);
    else storage().setItem(name, value);
  } catch {
    // Storage is full or disabled. The page still works, but a reload loses the state.
  }
}
