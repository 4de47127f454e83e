// Who is talking: the optional user id, being forgotten, and the key that a server may ask for.

import { at } from "./make.js";
import { keepKey, recallKey } from "./memory.js";
import { call } from "./wire.js";

/**
 * The panels about the person.
 *
 * @param {object} state The page's state, whose `user` they change.
 * @param {object} acts changed(), forgotten(words) and tell(words).
 */
export class Person {
  constructor(state, acts) {
    this.state = state;
    this.acts = acts;
    at("settings").addEventListener("click", () => this.#open());
    at("person-close").addEventListener("click", () => at("person").close());
    at("person-form").addEventListener("submit", () => this.#save());
    at("forget").addEventListener("click", () => this.#forget());
    at("forget-key").addEventListener("click", () => {
      keepKey("");
      at("person").close();
      acts.tell("The key is forgotten.");
    });
    this.#show();
  }

  get key() {
    return recallKey();
  }

  /** Ask for the key; whether there is a new one. */
  async askKey() {
    at("key").value = "";
    at("lock-title").textContent = this.key ? "That key was not taken" : "This server asks for a key";
    if ((await answerOf(at("lock"))) !== "use" || !at("key").value.trim()) return false;
    keepKey(at("key").value.trim());
    return true;
  }

  /** Tell the server that the person liked or viewed an item, where they said who they are. */
  tell(event, item) {
    if (!this.state.user) return;
    const told = { user_id: this.state.user, item_id: item.item_id, event, event_id: `page-${Date.now()}-${Math.random().toString(36).slice(2)}` };
    // What is liked counts in the conversation whether or not it is kept, so a failure here is nobody's trouble.
    call("v1/events", { method: "POST", body: { events: [told] }, key: this.key, keepalive: true }).catch(() => {});
  }

  #open() {
    at("user").value = this.state.user;
    at("forget").disabled = !this.state.user;
    at("forget-key").hidden = !this.key;
    at("person").showModal();
  }

  #save() {
    this.state.user = at("user").value.trim();
    this.#show();
    this.acts.changed();
  }

  async #forget() {
    const { user } = this.state;
    at("person").close();
    at("sure-text").textContent = `Everything that is kept about ${user} is removed, and this conversation with it. This cannot be undone.`;
    if ((await answerOf(at("sure"))) !== "yes") return;
    try {
      await this.#remove(user);
    } catch (error) {
      this.acts.tell(`${error.message} Nothing was forgotten; try again.`);
      return;
    }
    this.state.user = "";
    this.#show();
    this.acts.forgotten(`What was kept about ${user} is removed.`);
  }

  async #remove(user) {
    for (;;) {
      try {
        return await call(`v1/users/${encodeURIComponent(user)}`, { method: "DELETE", key: this.key });
      } catch (error) {
        if (error.kind !== "key" || !(await this.askKey())) throw error;
      }
    }
  }

  #show() {
    at("who").textContent = this.state.user || "Guest";
    at("settings").setAttribute("aria-label", `Who am I: ${this.state.user || "guest"}`);
  }
}

/** Show a dialog; the value of the button that closed it, "" for Escape. */
function answerOf(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}
