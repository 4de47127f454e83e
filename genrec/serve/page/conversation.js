// The conversation pane: messages, replies and errors, one element per turn.

import { byId, createButton, createElement } from "./dom.js";
import { renderReply } from "./reply.js";

const EXAMPLES = ["Surprise me with something popular", "A gift for a friend", "Something simple and inexpensive"];

/**
 * The conversation pane.
 *
 * @param {object} actions Called by its buttons and links: send(text), retry(), edit(turn), showItem(id), isKnown(id).
 */
export class ConversationPane {
  constructor(actions) {
    this.actions = actions;
    this.turns = byId("turns");
    this.turns.addEventListener("click", (event) => {
      const link = event.target.closest("a.item-link");
      if (!link) return;
      event.preventDefault();
      actions.showItem(link.dataset.item);
    });
    const examples = EXAMPLES.map((text) => createElement("li", {}, createButton("example", text, () => actions.send(text))));
    byId("examples").append(...examples);
  }

  /** Show all turns, or the welcome text if there are none. */
  show(turns) {
    this.turns.replaceChildren(...turns.map((turn) => this.#createTurn(turn)));
    this.turns.setAttribute("aria-busy", "false");
    this.#showWelcome();
  }

  /** Remove the last turn. Screen readers do not read the remaining turns again. */
  removeLast() {
    this.turns.lastElementChild.remove();
    this.turns.setAttribute("aria-busy", "false");
    this.#showWelcome();
  }

  /** Append a turn without a reply; `update` fills it. */
  begin(turn) {
    this.turns.setAttribute("aria-busy", "true");
    this.turns.append(this.#createTurn(turn, true));
    this.#showWelcome();
    const last = this.turns.lastElementChild;
    last.scrollIntoView({ block: "start", behavior: prefersReducedMotion() ? "auto" : "smooth" });
  }

  /** Show the current state of the last turn; `ended` says that the reply is complete. */
  update(turn, ended) {
    const last = this.turns.lastElementChild;
    this.#fill(last, turn, !ended);
    if (ended) this.turns.setAttribute("aria-busy", "false");
    keepInView(last);
  }

  /** Show in the last turn that the server is busy; returns a function that updates the visible countdown. */
  showBusy(text, seconds, retryNow) {
    const countdown = createElement("span", { className: "countdown", aria: { hidden: true } }, `${seconds} s`);
    const retry = createButton("quiet", "Try now", retryNow);
    const box = createElement("div", { className: "error", role: "alert" }, createElement("p", {}, text), countdown, retry);
    this.turns.setAttribute("aria-busy", "false");
    this.turns.lastElementChild.querySelector(".reply").replaceChildren(box);
    return (remaining) => (countdown.textContent = `${remaining} s`);
  }

  /** Show in the last turn that the answer is pending. */
  showPending() {
    this.turns.setAttribute("aria-busy", "true");
    this.turns.lastElementChild.querySelector(".reply").replaceChildren(createPending());
  }

  #showWelcome() {
    byId("welcome").hidden = this.turns.childElementCount > 0;
  }

  #createTurn(turn, pending = false) {
    const message = turn.said
      ? createElement("p", { className: "user-message" }, createElement("span", { className: "visually-hidden" }, "You: "), turn.said)
      : createElement("p", { className: "user-action" }, turn.did);
    const element = createElement("article", { className: "turn" }, message, createElement("div", { className: "reply" }));
    this.#fill(element, turn, pending);
    return element;
  }

  #fill(element, turn, pending) {
    const parts = renderReply(turn.reply ?? "", { isKnown: this.actions.isKnown, ended: !pending });
    if (pending && !parts.length) parts.push(createPending());
    if (turn.ended === "stopped") parts.push(createElement("p", { className: "remark" }, "Stopped."));
    if (turn.fallback && turn.ended === "done") {
      parts.push(createElement("p", { className: "remark" }, "The language model was unavailable; this reply was made from a template."));
    }
    if (turn.trouble) parts.push(this.#createError(turn));
    element.querySelector(".reply").replaceChildren(...parts);
  }

  #createError(turn) {
    const retry = createButton("solid retry", "Try again", () => this.actions.retry());
    const edit = turn.said ? createButton("quiet", "Edit message", () => this.actions.edit(turn)) : null;
    return createElement("div", { className: "error", role: "alert" }, createElement("p", {}, turn.trouble), retry, edit);
  }
}

const prefersReducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

function createPending() {
  const dots = [0, 1, 2].map(() => createElement("i", {}));
  return createElement("p", { className: "pending" }, createElement("span", { className: "visually-hidden" }, "Searching…"), ...dots);
}

/** Scroll to the end of a growing reply, unless that hides its beginning. */
function keepInView(element) {
  const box = element.getBoundingClientRect();
  const pane = element.closest(".conversation").getBoundingClientRect();
  const bottom = Math.min(pane.bottom, byId("composer").getBoundingClientRect().top);
  if (box.bottom > bottom && box.height < bottom - Math.max(0, pane.top)) element.scrollIntoView({ block: "end" });
}
