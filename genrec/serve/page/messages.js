// The messages of a request: the server keeps no conversation, so each request carries all of it.

import { formatItemLink, linkedIds } from "./reply.js";

const MAX_TURNS = 30; // the newest turns that are sent; preferences are always sent in full

/** The messages of the newest answered turns. */
export function messagesOf(turns) {
  return turns
    .filter((turn) => turn.ended !== "failed")
    .slice(-MAX_TURNS)
    .flatMap((turn) => [
      ...(turn.said ? [{ role: "user", content: turn.said }] : []),
      ...(turn.reply || turn.items ? [{ role: "assistant", content: withAllItems(turn) }] : []),
    ]);
}

/**
 * A reply that links every item of the list, in order. The server reads from the reply what was shown. A reply that was
 * interrupted, or written freely, may link fewer items, and then "number 5" would be a different item.
 */
function withAllItems({ reply, items }) {
  const ids = (items ?? []).map((item) => String(item.item_id));
  if (ids.join("\n") === linkedIds(reply).join("\n")) return reply;
  return [...(items ?? []).map((item) => `${item.rank}. ${formatItemLink(item)}`), "", reply].join("\n").trim();
}
