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
    this.telling = new Set(); // promises of events that are on their way
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

  /**
   * Tell the server that the person liked an item, where they said who they are. Nothing less is told: what an event
   * names counts as met, and is not recommended again.
   */
  like(item) {
    if (!this.state.user) return;
    const told = { user_id: this.state.user, item_id: item.item_id, event: "like", event_id: `page-${Date.now()}-${Math.random().toString(36).slice(2)}` };
    // What is liked counts in the conversation whether or not it is kept, so a failure here is nobody's trouble.
    const telling = call("v1/events", { method: "POST", body: { events: [told] }, key: this.key, keepalive: true })
      .catch(() => {})
      .finally(() => this.telling.delete(telling));
    this.telling.add(telling);
  }

  #open() {
    at("user").value = this.state.user;
    at("forget").disabled = !this.state.user;
    at("forget-key").hidden = !this.key;
    at("person").showModal();
  }

  #save() {
    this.#be(at("user").value.trim());
    this.acts.changed();
  }

  async #forget() {
    const { user } = this.state;
    at("person").close();
    at("sure-text").textContent = `Everything that is kept about ${user} is removed, and this conversation with it. This cannot be undone.`;
    if ((await answerOf(at("sure"))) !== "yes") return;
    this.#be("");
    await Promise.allSettled(this.telling); // an event that arrived later would be kept
    try {
      await this.#remove(user);
    } catch (error) {
      this.#be(user);
      this.acts.tell(`${error.message} Perhaps not everything is forgotten; try again.`);
      return;
    }
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

  #be(user) {
    this.state.user = user;
    this.#show();
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
