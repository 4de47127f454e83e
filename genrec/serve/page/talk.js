// The conversation: what was said, the replies, and what went wrong, one element a turn.

import { at, button, make } from "./make.js";
import { readReply } from "./reply.js";

const EXAMPLES = [
  "Surprise me with something popular",
  "A present for somebody who has everything",
  "Something simple, and nothing too expensive",
];

/**
 * The conversation's part of the page.
 *
 * @param {object} acts What its buttons do: say(text), again(), edit(turn), mention(id), isKnown(id).
 */
export class Talk {
  constructor(acts) {
    this.acts = acts;
    this.turns = at("turns");
    this.turns.addEventListener("click", (event) => {
      const link = event.target.closest("a.mention");
      if (!link) return;
      event.preventDefault();
      acts.mention(link.dataset.item);
    });
    at("examples").append(...EXAMPLES.map((text) => make("li", {}, button("example", text, () => acts.say(text)))));
  }

  /** Show all turns, and the way to begin where there is none. */
  show(turns) {
    this.turns.replaceChildren(...turns.map((turn) => this.#element(turn)));
    this.turns.setAttribute("aria-busy", "false");
    this.#showEmpty();
  }

  /** Take the last turn away; what stays is not said once more to those who listen. */
  drop() {
    this.turns.lastElementChild.remove();
    this.turns.setAttribute("aria-busy", "false");
    this.#showEmpty();
  }

  /** A new turn at the end, to be filled by `update`. */
  begin(turn) {
    this.turns.setAttribute("aria-busy", "true");
    this.turns.append(this.#element(turn, true));
    this.#showEmpty();
    const last = this.turns.lastElementChild;
    last.scrollIntoView({ block: "start", behavior: calm() ? "auto" : "smooth" });
  }

  /** The last turn as it is now; `ended` says that nothing more comes. */
  update(turn, ended) {
    const last = this.turns.lastElementChild;
    this.#fill(last, turn, !ended);
    if (ended) this.turns.setAttribute("aria-busy", "false");
    follow(last);
  }

  /** Say in the last turn that the server is busy; the seconds that are left are for eyes alone. */
  wait(words, seconds, now) {
    const left = make("span", { className: "left", aria: { hidden: true } }, `${seconds} s`);
    const box = make("div", { className: "trouble", role: "alert" }, make("p", {}, words), left, button("quiet", "Try now", now));
    this.turns.setAttribute("aria-busy", "false");
    this.turns.lastElementChild.querySelector(".reply").replaceChildren(box);
    return (remaining) => (left.textContent = `${remaining} s`);
  }

  /** Back to waiting for the answer. */
  think() {
    this.turns.setAttribute("aria-busy", "true");
    this.turns.lastElementChild.querySelector(".reply").replaceChildren(thinking());
  }

  #showEmpty() {
    at("empty").hidden = this.turns.childElementCount > 0;
  }

  #element(turn, waiting = false) {
    const words = turn.said
      ? make("p", { className: "said" }, make("span", { className: "unseen" }, "You: "), turn.said)
      : make("p", { className: "did" }, turn.did);
    const element = make("article", { className: "turn" }, words, make("div", { className: "reply" }));
    this.#fill(element, turn, waiting);
    return element;
  }

  #fill(element, turn, waiting) {
    const parts = readReply(turn.reply ?? "", { isKnown: this.acts.isKnown, ended: !waiting });
    if (waiting && !parts.length) parts.push(thinking());
    if (turn.ended === "stopped") parts.push(make("p", { className: "aside" }, "Stopped."));
    if (turn.fallback && turn.ended === "done") {
      parts.push(make("p", { className: "aside" }, "The language model could not write this, so it is a plain reply."));
    }
    if (turn.trouble) parts.push(this.#trouble(turn));
    element.querySelector(".reply").replaceChildren(...parts);
  }

  #trouble(turn) {
    const again = button("solid again", "Try again", () => this.acts.again());
    const edit = turn.said ? button("quiet", "Back to the message box", () => this.acts.edit(turn)) : null;
    return make("div", { className: "trouble", role: "alert" }, make("p", {}, turn.trouble), again, edit);
  }
}

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

const thinking = () =>
  make("p", { className: "thinking" }, make("span", { className: "unseen" }, "Looking…"), ...[0, 1, 2].map(() => make("i", {})));

/** Keep the end of a growing reply in view, unless its beginning would leave. */
function follow(element) {
  const box = element.getBoundingClientRect();
  const pane = element.closest(".talk").getBoundingClientRect();
  const bottom = Math.min(pane.bottom, at("composer").getBoundingClientRect().top);
  if (box.bottom > bottom && box.height < bottom - Math.max(0, pane.top)) element.scrollIntoView({ block: "end" });
}
