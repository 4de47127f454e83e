// The shelf: cards of what is recommended, and the wishes they follow as chips.

import { at, button, make } from "./make.js";

const SHOWN = 4; // attributes on a card beside the price
const SHORT = 48; // characters of one
const CHIPS = { likes: "Likes", dislikes: "Not", "looks for": "Looks for", only: "Only" };
// Sources as the recommender names them, a step and behind it what spoke for the item; unknown ones stay as they are.
const STEPS = {
  generative: "Picked by the language model",
  "generative-small": "Picked by the language model from a few",
  blend: "From what people take together",
  cooccurrence: "From what people take together",
  embedding: "Close to what you describe",
  popularity: "Liked by many",
  named: "Named in this conversation",
};
const EVIDENCE = {
  "beside recent items": "Often taken together with what you like",
  "beside all items": "Often taken together with what you like",
  "after recent items": "Often taken after what you like",
  "after all items": "Often taken after what you like",
  "near recent items": "Taken by people with a taste like yours",
  "near all items": "Taken by people with a taste like yours",
  "like their texts": "Close to what you describe",
  popularity: "Liked by many",
};
// What a model that weighs evidence leaned on, where that spoke for the item more than the model itself did.
const LEANT_ON = {
  blend: "what people take together",
  cooccurrence: "what people take together",
  embedding: "what you describe",
  popularity: "what many like",
};

/**
 * The shelf's part of the page.
 *
 * @param {object} acts What its buttons do: say(text), like(item), remove(chip), latest().
 */
export class Shelf {
  constructor(acts) {
    this.acts = acts;
    this.picked = [];
    this.items = [];
    this.shown = "";
    at("latest").addEventListener("click", () => acts.latest());
    at("compare-clear").addEventListener("click", () => this.#pick([]));
    at("compare-go").addEventListener("click", () => {
      const [one, other] = this.picked.toSorted((a, b) => a - b);
      this.#pick([]);
      readOn();
      acts.say(`Compare number ${one} and number ${other}`);
    });
  }

  /** The wishes, each with a way to take it back. */
  showChips(chips) {
    const held = at("chips").contains(document.activeElement);
    at("wishes").hidden = !chips.length;
    at("chips").replaceChildren(...chips.map((chip) => make("li", {}, this.#chip(chip))));
    if (held) readOn();
  }

  /** What is recommended; null where nothing was asked yet. Of an earlier answer the cards are to be read alone. */
  showItems(items, notices, earlier = false) {
    // A list that stands as it did keeps its cards, and with them the focus.
    const shown = JSON.stringify([items, notices ?? [], earlier]);
    if (shown === this.shown) return;
    this.shown = shown;
    this.items = items ?? [];
    const held = at("cards").contains(document.activeElement);
    this.#pick([]);
    at("earlier").hidden = !earlier;
    at("bare").hidden = this.items.length > 0;
    at("bare").textContent = items ? "Nothing is left that fits all of this. Take one of your wishes back." : "The shelf fills as you talk.";
    at("cards").replaceChildren(...this.items.map((item) => this.#card(item, earlier)));
    at("shelf-title").textContent = this.items.length ? `Shelf, ${counted(this.items.length)}` : "Shelf";
    at("notes").hidden = !notices?.length;
    at("notes").replaceChildren(...(notices ?? []).map((notice) => make("li", {}, notice)));
    if (held) readOn();
  }

  /** While a new list is on its way. */
  showWaiting(waits) {
    at("shelf").classList.toggle("waits", waits);
    at("shelf").setAttribute("aria-busy", String(waits));
  }

  /** Put the focus on an item's card; whether there is one. */
  focus(id) {
    const place = this.items.findIndex((item) => String(item.item_id) === id);
    const card = at("cards").children[place];
    if (!card) return false;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
    return true;
  }

  #chip(chip) {
    const kind = CHIPS[chip.kind] ?? chip.kind;
    const label = chip.kind === "only" ? plainLimit(String(chip.label)) : String(chip.label);
    const remove = button("chip", "", () => this.acts.remove({ ...chip, label }));
    const hidden = make("span", { className: "unseen" }, "Take back: ");
    remove.append(hidden, make("span", { className: "chip-kind" }, kind), " ", make("span", { className: "chip-label" }, label));
    return remove;
  }

  #card(item, earlier) {
    const title = make("h3", { className: "card-title", id: `title-${item.rank}` }, item.title);
    const { price, ...others } = item.attributes ?? {};
    const head = make("div", { className: "card-head" }, title);
    if (price !== undefined && price !== null) head.append(make("p", { className: "price" }, make("span", { className: "unseen" }, "Price "), amount(price)));
    const body = make("div", { className: "card-body" }, head, facts(others));
    if (item.reason) body.append(make("p", { className: "reason" }, item.reason));
    body.append(make("p", { className: "source" }, originOf(item.source)));
    if (!earlier) body.append(this.#acts(item));
    const card = make("li", { className: "card", tabIndex: -1, aria: { labelledby: title.id } });
    card.append(make("span", { className: "rank", aria: { hidden: true } }, String(item.rank)), body);
    return card;
  }

  #acts(item) {
    const { say, like } = this.acts;
    const number = `number ${item.rank}`;
    const compare = button("act pick", "Compare", () => this.#toggle(item.rank), { pressed: false, label: `Compare ${number}` });
    compare.dataset.rank = item.rank;
    return make(
      "div",
      { className: "acts", role: "group", aria: { label: `What about ${number}?` } },
      button("act", "More like this", () => say(`More like ${number}`) && like(item), { label: `More like this, ${number}` }),
      button("act", "Not this", () => say(`Not ${number}`), { label: `Not this, ${number}` }),
      button("act", "Why?", () => say(`Why ${number}?`), { label: `Why? ${number}` }),
      compare,
    );
  }

  #toggle(rank) {
    this.#pick(this.picked.includes(rank) ? this.picked.filter((own) => own !== rank) : [...this.picked.slice(-1), rank]);
  }

  #pick(ranks) {
    this.picked = ranks;
    for (const one of at("cards").querySelectorAll(".pick")) {
      one.setAttribute("aria-pressed", String(ranks.includes(Number(one.dataset.rank))));
    }
    at("compare").hidden = ranks.length < 2;
    at("compare-go").textContent = `Compare ${ranks.toSorted((a, b) => a - b).join(" and ")}`;
  }
}

/** Where the focus goes when what had it is gone: the next thing to read. */
const readOn = () => at("shelf-title").focus({ preventScroll: true });

/** Attributes that fit on a card: short ones, each with its name. */
function facts(attributes) {
  const fitting = Object.entries(attributes)
    .map(([name, value]) => [name.replaceAll("_", " "), Array.isArray(value) ? value.join(", ") : value])
    .filter(([, value]) => ["string", "number", "boolean"].includes(typeof value))
    .map(([name, value]) => [name, typeof value === "boolean" ? (value ? "yes" : "no") : String(value)])
    .filter(([, value]) => value && value.length <= SHORT && !/^https?:/.test(value))
    .slice(0, SHOWN);
  if (!fitting.length) return "";
  return make("dl", { className: "facts" }, ...fitting.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function originOf(source) {
  const [step, evidence] = String(source ?? "").split(": ");
  if (step.startsWith("generative") && LEANT_ON[evidence]) return `From ${LEANT_ON[evidence]}, by the model`;
  return EVIDENCE[evidence] ?? STEPS[step] ?? String(source ?? "");
}

const amount = (price) =>
  typeof price === "number" ? price.toLocaleString(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 }) : String(price);

/** How many items, in words. */
export const counted = (many) => (many === 1 ? "1 item" : `${many} items`);

/** A filter as a person would write it. */
function plainLimit(where) {
  const without = /^'([^'\\]*)' not in (?:title|words\(title\))(?: and |$)/.exec(where);
  if (without) return `titles without “${without[1]}”`;
  return where.replaceAll("<=", "≤").replaceAll(">=", "≥").replace(/(\d)\.0+(?!\d)/g, "$1");
}
