// What the server is asked, and what it can answer: an OpenAI stream, or a refusal in words for a person.

/** Why there is no answer. `kind`: key, busy, unready, failed, refused, unreachable or broken; `wait` in seconds. */
export class Refusal extends Error {
  constructor(kind, message, wait = 0) {
    super(message);
    this.kind = kind;
    this.wait = wait;
  }
}

const LONGEST_WAIT = 120; // seconds

/** The parsed chunks of a chat completion, as they come; throws a Refusal, or an AbortError where it was stopped. */
export async function* converse(body, key, signal) {
  const response = await call("v1/chat/completions", { method: "POST", body: { ...body, stream: true }, key, signal });
  let ended = false;
  for await (const data of events(response.body, signal)) {
    if (data === "[DONE]") {
      ended = true;
      break;
    }
    const chunk = parse(data);
    if (chunk) yield chunk;
  }
  if (!ended) throw new Refusal("broken", "The answer broke off.");
}

/** One request; the response where it succeeded. */
export async function call(path, { method = "GET", body, key, signal, keepalive = false } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { method, headers, body: JSON.stringify(body), signal, keepalive });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("unreachable", "The server cannot be reached. Is it running, and are you connected?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const { status } = response;
  const said = parse(await response.text().catch(() => ""))?.error?.message;
  if (status === 401) return new Refusal("key", "The server asks for a key.");
  if (status === 429) return new Refusal("busy", "The server is busy.", patience(response.headers.get("Retry-After")));
  if (status === 503) return new Refusal("unready", "The server is not ready to answer just now.");
  if (status >= 500) return new Refusal("failed", "Something went wrong on the server.");
  return new Refusal("refused", typeof said === "string" && said ? `The server says: ${said}` : "The server did not take this.");
}

/** Seconds of a Retry-After header, which holds seconds or a date. */
function patience(header) {
  const seconds = /^\d+$/.test(header ?? "") ? Number(header) : (Date.parse(header ?? "") - Date.now()) / 1000;
  return Math.min(LONGEST_WAIT, Math.max(1, Math.ceil(Number.isFinite(seconds) ? seconds : 5)));
}

/** The data of each server-sent event (WHATWG HTML, section 9.2). */
async function* events(stream, signal) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      held += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const blocks = held.split(/\r?\n\r?\n/);
      held = blocks.pop();
      for (const block of blocks) {
        const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
      if (done) return;
    }
  } catch (error) {
    if (error instanceof Refusal || signal.aborted) throw error;
    throw new Refusal("broken", "The answer broke off.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
