// Creates elements. Data becomes text nodes and properties, never markup.

/** An element with properties, `aria` attributes and children; string children become text nodes. */
export function createElement(tag, { aria = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, String(value));
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A button with a click listener. */
export function createButton(className, text, onClick, aria = {}) {
  const element = createElement("button", { type: "button", className, aria }, text);
  element.addEventListener("click", onClick);
  return element;
}
