// Renders a reply: paragraphs, lists and item links `[title](#item=id)`. Everything else is plain text.

import { createElement } from "./dom.js";

const ITEM_LINK = /\[((?:[^\\[\]]|\\.)*)\]\(#item=([^()\s]+)\)/g;
const INCOMPLETE_LINK = /\[((?:[^\\[\]]|\\.)*)\\?(?:\](?:\((?:#[^()\s]*)?)?)?$/;
const LIST_ITEM = /^\s*(?:[-*•]|(\d{1,3})[.)])\s+(.*)$/;

/**
 * The nodes of a reply.
 *
 * @param {string} text Markdown from the server.
 * @param {{isKnown: (id: string) => boolean, ended: boolean}} options `isKnown`: whether an item has a card. `ended`:
 *   whether the reply is complete; until then, an incomplete link at the end is shown as its title.
 */
export function renderReply(text, { isKnown, ended }) {
  if (!ended) text = text.replace(INCOMPLETE_LINK, (_, title) => title);
  const blocks = [];
  let list = null;
  let lines = [];
  const endParagraph = () => {
    if (lines.length) blocks.push(createElement("p", {}, ...renderInline(lines.join("\n"), isKnown)));
    lines = [];
  };
  for (const line of text.split("\n")) {
    const match = LIST_ITEM.exec(line);
    if (match) {
      endParagraph();
      const tag = match[1] ? "OL" : "UL";
      if (list?.tagName !== tag) {
        list = createElement(tag, match[1] ? { start: Number(match[1]) } : {});
        blocks.push(list);
      }
      list.append(createElement("li", {}, ...renderInline(match[2], isKnown)));
    } else if (line.trim()) {
      list = null;
      lines.push(line);
    } else {
      endParagraph();
    }
  }
  endParagraph();
  return blocks;
}

/** The distinct item ids that a reply links, in order. */
export const linkedIds = (text) => [...new Set([...text.matchAll(ITEM_LINK)].map((match) => decodeId(match[2])))];

/** A link to an item, in the format of the server. */
export function formatItemLink(item) {
  const title = String(item.title).replace(/\s+/g, " ").replace(/[\\`*_{}[\]<>()#+!|~]/g, "\\$&");
  const id = encodeURIComponent(item.item_id).replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`);
  return `[${title}](#item=${id})`;
}

function decodeId(encoded) {
  try {
    return decodeURIComponent(encoded);
  } catch {
    return encoded; // not valid percent-encoding, so the server did not write it
  }
}

function renderInline(text, isKnown) {
  const nodes = [];
  let start = 0;
  for (const match of text.matchAll(ITEM_LINK)) {
    nodes.push(text.slice(start, match.index));
    const title = match[1].replace(/\\(.)/g, "$1");
    const id = decodeId(match[2]);
    nodes.push(isKnown(id) ? createItemLink(id, title) : createElement("strong", {}, title));
    start = match.index + match[0].length;
  }
  nodes.push(text.slice(start));
  return nodes;
}

function createItemLink(id, title) {
  const link = createElement("a", { className: "item-link", href: `#item=${encodeURIComponent(id)}` }, title);
  link.dataset.item = id;
  return link;
}
