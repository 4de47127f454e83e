// What survives a reload: the conversation, what is half typed, the person and the key, each in this tab alone.

const NAME = "genrec.chat.conversation";
const KEY = "genrec.key";
const EMPTY = { turns: [], asked: null, draft: "", before: null, user: "" };

/** As it was kept; what was asked and never answered becomes a turn that failed. */
export function recall() {
  const kept = { ...EMPTY, ...read(NAME) };
  if (!Array.isArray(kept.turns)) kept.turns = [];
  if (kept.asked) {
    kept.turns.push({ ...kept.asked, ended: "failed", trouble: "The page was loaded anew before the answer came." });
    kept.asked = null;
  }
  return kept;
}

/** Keep the state. */
export function keep(state) {
  write(() => sessionStorage, NAME, JSON.stringify(state));
}

/** The key of the server, "" for none. */
export function recallKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

/** Keep the key; "" forgets it. */
export function keepKey(key) {
  write(() => sessionStorage, KEY, key || null);
}

/** Keep the theme in this browser. */
export function keepTheme(theme) {
  write(() => localStorage, "genrec.theme", theme);
}

function read(name) {
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
    // Storage is full or switched off: the page works on, and a reload starts anew.
  }
}
