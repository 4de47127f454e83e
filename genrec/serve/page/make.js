// The one way an element is made: data becomes text nodes and properties, never markup.

/** An element with properties, data in `aria`, and children; a string among them is text. */
export function make(tag, { aria = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, String(value));
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

/** The element of the page with an id. */
export const at = (id) => document.getElementById(id);

/** A button that does something. */
export function button(className, text, act, aria = {}) {
  const element = make("button", { type: "button", className, aria }, text);
  element.addEventListener("click", act);
  return element;
}
