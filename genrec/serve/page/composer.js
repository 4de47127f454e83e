// The message box: a text field that grows with its text, and the keyboard shortcuts.

import { byId } from "./dom.js";

/**
 * The message box.
 *
 * @param {object} actions submit(text), stop() and draftChanged(text). `submit` and `stop` are called by keys and the button.
 */
export class Composer {
  constructor(actions) {
    this.actions = actions;
    this.field = byId("message");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!actions.stop()) actions.submit(this.text);
    });
    this.field.addEventListener("input", () => this.#changed());
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      actions.submit(this.text);
    });
    document.addEventListener("keydown", (event) => {
      if (document.querySelector("dialog[open]")) return;
      if (event.key === "Escape") actions.stop();
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea")) return;
      event.preventDefault();
      this.focus();
    });
  }

  get text() {
    return this.field.value;
  }

  /** Put text into the field, as if the user had typed it. */
  set text(text) {
    this.field.value = text;
    this.#changed();
  }

  focus() {
    this.field.focus();
  }

  #changed() {
    this.actions.draftChanged(this.text);
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
  }
}
