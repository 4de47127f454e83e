// The suggestions pane: recommended items as cards, and the user's preferences as removable labels.

import { byId, createButton, createElement } from "./dom.js";
import { displayLabel, displayPrice, displaySource, itemCount, shortAttributes } from "./wording.js";

/**
 * The suggestions pane.
 *
 * @param {object} actions Called by its buttons: send(text), like(item), removePreference(label), showLatest().
 */
export class SuggestionsPane {
  constructor(actions) {
    this.actions = actions;
    this.comparedRanks = [];
    this.items = [];
    this.shown = "";
    byId("show-latest").addEventListener("click", () => actions.showLatest());
    byId("compare-clear").addEventListener("click", () => this.#setCompared([]));
    byId("compare-run").addEventListener("click", () => {
      const [first, second] = this.comparedRanks.toSorted((a, b) => a - b);
      this.#setCompared([]);
      focusHeading();
      actions.send(`Compare number ${first} and number ${second}`);
    });
  }

  /** Show the preferences, each as a button that removes it. */
  showPreferences(labels) {
    const hadFocus = byId("preference-list").contains(document.activeElement);
    byId("preferences").hidden = !labels.length;
    byId("preference-list").replaceChildren(...labels.map((label) => createElement("li", {}, this.#createPreference(label))));
    if (hadFocus) focusHeading();
  }

  /** Show recommended items; `items` is null before the first request. Cards of an earlier answer have no buttons. */
  showItems(items, notices, isEarlier = false) {
    byId("list-notices").hidden = !notices?.length;
    byId("list-notices").replaceChildren(...(notices ?? []).map((notice) => createElement("li", {}, notice)));
    // An unchanged list keeps its cards, and with them the focus.
    const shown = JSON.stringify([items, isEarlier]);
    if (shown === this.shown) return;
    this.shown = shown;
    this.items = items ?? [];
    const hadFocus = byId("cards").contains(document.activeElement);
    this.#setCompared([]);
    byId("earlier").hidden = !isEarlier;
    byId("no-items").hidden = this.items.length > 0;
    byId("no-items").textContent = items ? "No item matches all your preferences. Remove one of them." : "Suggestions appear here.";
    byId("cards").replaceChildren(...this.items.map((item) => this.#createCard(item, isEarlier)));
    byId("suggestions-title").textContent = this.items.length ? `Suggestions, ${itemCount(this.items.length)}` : "Suggestions";
    if (hadFocus) focusHeading();
  }

  /** Show whether a new list is being loaded. */
  showLoading(isLoading) {
    byId("suggestions").classList.toggle("loading", isLoading);
    byId("suggestions").setAttribute("aria-busy", String(isLoading));
  }

  /** Focus the card of an item; returns whether it has one. */
  focusCard(id) {
    const position = this.items.findIndex((item) => String(item.item_id) === id);
    const card = byId("cards").children[position];
    if (!card) return false;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
    return true;
  }

  #createPreference(label) {
    const { kind, text } = displayLabel(label);
    const button = createButton("preference", "", () => this.actions.removePreference({ ...label, text: `${kind} ${text}` }));
    const hidden = createElement("span", { className: "visually-hidden" }, "Remove: ");
    const parts = [createElement("span", { className: "preference-kind" }, kind), createElement("span", { className: "preference-text" }, text)];
    button.append(hidden, parts[0], " ", parts[1]);
    return button;
  }

  #createCard(item, isEarlier) {
    const title = createElement("h3", { className: "card-title", id: `title-${item.rank}` }, item.title);
    const { price, ...others } = item.attributes ?? {};
    const head = createElement("div", { className: "card-head" }, title);
    if (price !== undefined && price !== null) {
      head.append(createElement("p", { className: "price" }, createElement("span", { className: "visually-hidden" }, "Price "), displayPrice(price)));
    }
    const body = createElement("div", { className: "card-body" }, head, createFacts(others));
    if (item.reason) body.append(createElement("p", { className: "reason" }, item.reason));
    body.append(createElement("p", { className: "source" }, displaySource(item.source)));
    if (!isEarlier) body.append(this.#createActions(item));
    const card = createElement("li", { className: "card", tabIndex: -1, aria: { labelledby: title.id } });
    card.append(createElement("span", { className: "rank", aria: { hidden: true } }, String(item.rank)), body);
    return card;
  }

  #createActions(item) {
    const { send, like } = this.actions;
    const number = `number ${item.rank}`;
    const compareAria = { pressed: false, label: `Compare ${number}` };
    const compare = createButton("action compare-toggle", "Compare", () => this.#toggleCompared(item.rank), compareAria);
    compare.dataset.rank = item.rank;
    return createElement(
      "div",
      { className: "actions", role: "group", aria: { label: `Actions for ${number}` } },
      createButton("action", "More like this", () => send(`More like ${number}`) && like(item), { label: `More like this, ${number}` }),
      createButton("action", "Not this", () => send(`Not ${number}`), { label: `Not this, ${number}` }),
      createButton("action", "Why?", () => send(`Why ${number}?`), { label: `Why? ${number}` }),
      compare,
    );
  }

  #toggleCompared(rank) {
    const ranks = this.comparedRanks;
    this.#setCompared(ranks.includes(rank) ? ranks.filter((other) => other !== rank) : [...ranks.slice(-1), rank]);
  }

  #setCompared(ranks) {
    this.comparedRanks = ranks;
    for (const toggle of byId("cards").querySelectorAll(".compare-toggle")) {
      toggle.setAttribute("aria-pressed", String(ranks.includes(Number(toggle.dataset.rank))));
    }
    byId("compare").hidden = ranks.length < 2;
    byId("compare-run").textContent = `Compare ${ranks.toSorted((a, b) => a - b).join(" and ")}`;
  }
}

/** Move the focus to the heading when the focused element is removed. */
const focusHeading = () => byId("suggestions-title").focus({ preventScroll: true });

function createFacts(attributes) {
  const facts = shortAttributes(attributes);
  if (!facts.length) return "";
  const rows = facts.map(([name, value]) => createElement("div", {}, createElement("dt", {}, name), createElement("dd", {}, value)));
  return createElement("dl", { className: "facts" }, ...rows);
}
