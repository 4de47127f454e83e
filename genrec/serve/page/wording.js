// How values of the API are worded for users: sources, preference labels, prices and attributes.

const MAX_ATTRIBUTES = 4; // attributes on a card, without the price
const MAX_ATTRIBUTE_LENGTH = 48; // characters
const LABEL_KINDS = { likes: "Likes", dislikes: "Not", "looks for": "Looks for", only: "Only" };
const BOUND_KINDS = { "<=": "Up to", ">=": "From", "<": "Below", ">": "Above" };
// A source is a stage, optionally followed by ": " and a signal. Unknown sources are shown unchanged.
const STAGES = {
  generative: "Picked by the language model",
  "generative-small": "Picked by the language model from a short list",
  blend: "Often bought together",
  cooccurrence: "Often bought together",
  embedding: "Matches your description",
  popularity: "Popular",
  named: "Mentioned in this conversation",
};
const SIGNALS = {
  "beside recent items": "Often bought together with items you like",
  "beside all items": "Often bought together with items you like",
  "after recent items": "Often bought after items you like",
  "after all items": "Often bought after items you like",
  "near recent items": "Liked by people with similar taste",
  "near all items": "Liked by people with similar taste",
  "like their texts": "Matches your description",
  popularity: "Popular",
};
// Used when a fused signal contributed more to the item than the language model did.
const FUSED_SIGNALS = ["blend", "cooccurrence", "embedding", "popularity"];

/** Where a recommendation comes from. */
export function displaySource(source) {
  const [stage, signal] = String(source ?? "").split(": ");
  if (stage.startsWith("generative") && FUSED_SIGNALS.includes(signal)) return STAGES[signal];
  return SIGNALS[signal] ?? STAGES[stage] ?? String(source ?? "");
}

/** The kind and the text of a preference label, such as "Up to" and "3.5". */
export function displayLabel({ kind, label, bound, excluded }) {
  if (bound) return { kind: BOUND_KINDS[bound.operator] ?? bound.operator, text: String(bound.amount) };
  if (excluded !== undefined) return { kind: "No", text: `“${excluded}”` };
  return { kind: LABEL_KINDS[kind] ?? kind, text: String(label) };
}

/** A price with two decimals; other values unchanged. */
export const displayPrice = (price) =>
  typeof price === "number" ? price.toLocaleString(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 }) : String(price);

/** A number of items, in words. */
export const itemCount = (count) => (count === 1 ? "1 item" : `${count} items`);

/** The attributes that fit on a card, as [name, value] pairs of text. */
export function shortAttributes(attributes) {
  return Object.entries(attributes)
    .map(([name, value]) => [name.replaceAll("_", " "), Array.isArray(value) ? value.join(", ") : value])
    .filter(([, value]) => ["string", "number", "boolean"].includes(typeof value))
    .map(([name, value]) => [name, typeof value === "boolean" ? (value ? "yes" : "no") : String(value)])
    .filter(([, value]) => value && value.length <= MAX_ATTRIBUTE_LENGTH && !/^https?:/.test(value))
    .slice(0, MAX_ATTRIBUTES);
}
