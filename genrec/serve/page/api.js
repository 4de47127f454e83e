// Requests to the server: streamed chat completions, and errors with a message for the user.

/** A failed request. `kind`: key, busy, unready, failed, refused, unreachable or broken; `wait`: seconds until a retry. */
export class ApiError extends Error {
  constructor(kind, message, wait = 0) {
    super(message);
    this.kind = kind;
    this.wait = wait;
  }
}

const MAX_WAIT = 120; // seconds
const DEFAULT_WAIT = 5; // seconds, if Retry-After is missing or invalid
const CONNECTION_LOST = "Connection lost.";

/** The parsed chunks of a streamed chat completion. Throws an ApiError, or an AbortError if `signal` aborts. */
export async function* streamChat(body, key, signal) {
  const response = await request("v1/chat/completions", { method: "POST", body: { ...body, stream: true }, key, signal });
  let done = false;
  for await (const data of readEvents(response.body, signal)) {
    if (data === "[DONE]") {
      done = true;
      break;
    }
    const chunk = parseJson(data);
    if (chunk) yield chunk;
  }
  if (!done) throw new ApiError("broken", CONNECTION_LOST);
}

/** Send one request and return its successful response. Throws an ApiError, or an AbortError if `signal` aborts. */
export async function request(path, { method = "GET", body, key, signal, keepalive = false } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { method, headers, body: JSON.stringify(body), signal, keepalive });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("unreachable", "The server cannot be reached. Check that it is running and that you are online.");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const { status } = response;
  const message = parseJson(await response.text().catch(() => ""))?.error?.message;
  if (status === 401) return new ApiError("key", "The server requires an API key.");
  if (status === 429) return new ApiError("busy", "The server is busy.", parseRetryAfter(response.headers.get("Retry-After")));
  if (status === 503) return new ApiError("unready", "The server is temporarily unavailable.");
  if (status >= 500) return new ApiError("failed", "Something went wrong on the server.");
  const hasMessage = typeof message === "string" && message;
  return new ApiError("refused", hasMessage ? `The server rejected the request: ${message}` : "The server rejected the request.");
}

/** The seconds of a Retry-After header, which holds seconds or a date. */
function parseRetryAfter(header) {
  const seconds = /^\d+$/.test(header ?? "") ? Number(header) : (Date.parse(header ?? "") - Date.now()) / 1000;
  return Math.min(MAX_WAIT, Math.max(1, Math.ceil(Number.isFinite(seconds) ? seconds : DEFAULT_WAIT)));
}

/** The data of each server-sent event (WHATWG HTML, section 9.2). */
async function* readEvents(stream, signal) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      buffer += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const blocks = buffer.split(/\r?\n\r?\n/);
      buffer = blocks.pop();
      for (const block of blocks) {
        const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
      if (done) return;
    }
  } catch (error) {
    if (error instanceof ApiError || signal.aborted) throw error;
    throw new ApiError("broken", CONNECTION_LOST);
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
