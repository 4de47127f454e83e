// A reply as nodes: paragraphs, lists, and mentions `[title](#item=id)`. All else is text, whatever it looks like.

import { make } from "./make.js";

const MENTION = /\[((?:[^\\[\]]|\\.)*)\]\(#item=([^()\s]+)\)/g;
const BEGUN = /\[((?:[^\\[\]]|\\.)*)\\?(?:\](?:\((?:#[^()\s]*)?)?)?$/;
const LISTED = /^\s*(?:[-*•]|(\d{1,3})[.)])\s+(.*)$/;

/**
 * Nodes of a reply.
 *
 * @param {string} text Markdown of the server.
 * @param {{isKnown: (id: string) => boolean, ended: boolean}} options Items that have a card, and whether more will come:
 *   a mention that has only begun shows its title.
 */
export function readReply(text, { isKnown, ended }) {
  if (!ended) text = text.replace(BEGUN, (_, title) => title);
  const blocks = [];
  let list = null;
  let lines = [];
  const endLines = () => {
    if (lines.length) blocks.push(make("p", {}, ...inline(lines.join("\n"), isKnown)));
    lines = [];
  };
  for (const line of text.split("\n")) {
    const found = LISTED.exec(line);
    if (found) {
      endLines();
      const tag = found[1] ? "OL" : "UL";
      if (list?.tagName !== tag) {
        list = make(tag, found[1] ? { start: Number(found[1]) } : {});
        blocks.push(list);
      }
      list.append(make("li", {}, ...inline(found[2], isKnown)));
    } else if (line.trim()) {
      list = null;
      lines.push(line);
    } else {
      endLines();
    }
  }
  endLines();
  return blocks;
}

/** The ids that a reply mentions, each once, in its order. */
export const idsIn = (text) => [...new Set([...text.matchAll(MENTION)].map((found) => idOf(found[2])))];

/** An item as the server mentions it. */
export function writeMention(item) {
  const title = String(item.title).replace(/\s+/g, " ").replace(/[\\`*_{}[\]<>()#+!|~]/g, "\\$&");
  const id = encodeURIComponent(item.item_id).replace(/[!'()*]/g, (own) => `%${own.charCodeAt(0).toString(16).toUpperCase()}`);
  return `[${title}](#item=${id})`;
}

function idOf(quoted) {
  try {
    return decodeURIComponent(quoted);
  } catch {
    return quoted; // no proper quoting, so no id of the server's
  }
}

function inline(text, isKnown) {
  const nodes = [];
  let from = 0;
  for (const found of text.matchAll(MENTION)) {
    nodes.push(text.slice(from, found.index));
    const title = found[1].replace(/\\(.)/g, "$1");
    const id = idOf(found[2]);
    nodes.push(isKnown(id) ? mention(id, title) : make("strong", {}, title));
    from = found.index + found[0].length;
  }
  nodes.push(text.slice(from));
  return nodes;
}

function mention(id, title) {
  const link = make("a", { className: "mention", href: `#item=${encodeURIComponent(id)}` }, title);
  link.dataset.item = id;
  return link;
}
