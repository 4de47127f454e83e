// The user dialogs: the optional user id, deleting user data, and the API key.

import { request } from "./api.js";
import { byId } from "./dom.js";
import { loadKey, saveKey } from "./storage.js";

/**
 * The dialogs for the user id, deletion and the API key.
 *
 * @param {object} state The page's state; its `user` is changed here.
 * @param {object} actions changed(), forgotten(notice) and showNotice(text).
 */
export class UserDialogs {
  constructor(state, actions) {
    this.state = state;
    this.actions = actions;
    this.pendingEvents = new Set(); // promises of events that are being sent
    byId("user-button").addEventListener("click", () => this.#open());
    byId("user-close").addEventListener("click", () => byId("user-dialog").close());
    byId("user-form").addEventListener("submit", () => this.#save());
    byId("forget").addEventListener("click", () => this.#forget());
    byId("remove-key").addEventListener("click", () => {
      saveKey("");
      byId("user-dialog").close();
      actions.showNotice("The API key was removed from this tab.");
    });
    this.#showUser();
  }

  get key() {
    return loadKey();
  }

  /** Ask for the API key; returns whether a new one was given. */
  async askKey() {
    byId("key").value = "";
    byId("key-title").textContent = this.key ? "The server rejected this key" : "This server requires an API key";
    if ((await askDialog(byId("key-dialog"))) !== "use" || !byId("key").value.trim()) return false;
    saveKey(byId("key").value.trim());
    return true;
  }

  /**
   * Record that the user likes an item; does nothing for guests. Weaker signals are not recorded, because an item with
   * an event counts as seen and is not recommended again.
   */
  like(item) {
    if (!this.state.user) return;
    const eventId = `page-${Date.now()}-${Math.random().toString(36).slice(2)}`;
    const event = { user_id: this.state.user, item_id: item.item_id, event: "like", event_id: eventId };
    // The conversation keeps the preference even if the event is lost, so a failure is not reported.
    const sending = request("v1/events", { method: "POST", body: { events: [event] }, key: this.key, keepalive: true })
      .catch(() => {})
      .finally(() => this.pendingEvents.delete(sending));
    this.pendingEvents.add(sending);
  }

  #open() {
    byId("user-id").value = this.state.user;
    byId("forget").disabled = !this.state.user;
    byId("remove-key").hidden = !this.key;
    byId("user-dialog").showModal();
  }

  #save() {
    this.#setUser(byId("user-id").value.trim());
    this.actions.changed();
  }

  async #forget() {
    const { user } = this.state;
    byId("user-dialog").close();
    byId("confirm-text").textContent = `This removes all data stored about ${user}, and this conversation. It cannot be undone.`;
    if ((await askDialog(byId("confirm-dialog"))) !== "yes") return;
    this.#setUser("");
    await Promise.allSettled(this.pendingEvents); // an event that arrived after the deletion would be stored
    try {
      await this.#remove(user);
    } catch (error) {
      this.#setUser(user);
      this.actions.showNotice(`${error.message} Some data may not have been removed; try again.`);
      return;
    }
    this.actions.forgotten(`All data about ${user} was removed.`);
  }

  async #remove(user) {
    for (;;) {
      try {
        return await request(`v1/users/${encodeURIComponent(user)}`, { method: "DELETE", key: this.key });
      } catch (error) {
        if (error.kind !== "key" || !(await this.askKey())) throw error;
      }
    }
  }

  #setUser(user) {
    this.state.user = user;
    this.#showUser();
  }

  #showUser() {
    const name = this.state.user || "Guest";
    byId("user-name").textContent = name;
    byId("user-button").setAttribute("aria-label", `Who is shopping? ${name}`);
  }
}

/** Show a dialog; returns the value of the button that closed it, or "" for Escape. */
function askDialog(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}
