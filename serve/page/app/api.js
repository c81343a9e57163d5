/** Requests to the service this page came from; refusals become a `Problem` with the words of the service. */

/** What the service refused, as its problem body says it (RFC 9457). */
export class Problem extends Error {
  constructor(status, title, detail, fields = []) {
    super(detail || title);
    this.name = "Problem";
    this.status = status;
    this.title = title;
    this.fields = fields;
  }
}

/**
 * Return the means to ask the service.
 * @param {{key: () => string|null}} session
 */
export function openApi(session) {
  const send = async (method, path, body, signal) => {
    const answer = await reached(method, path, body, signal);
    if (!answer.ok) throw await refused(answer);
    return answer;
  };

  const reached = async (method, path, body, signal) => {
    const key = session.key();
    const headers = { Accept: "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const options = { method, headers, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body) };
    try {
      return await fetch(new URL(path, document.baseURI), options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, "No connection", "The service cannot be reached.");
    }
  };

  return {
    get: async (path, signal) => (await send("GET", path, undefined, signal)).json(),
    post: async (path, body) => (await send("POST", path, body)).json(),
    remove: async (path) => void (await send("DELETE", path)),
    stream: async (path, signal) => (await send("GET", path, undefined, signal)).body,
  };
}

async function refused(answer) {
  let body = {};
  try {
    body = await answer.json();
  } catch {
    // not a problem body: a proxy in between, say
  }
  return new Problem(answer.status, body.title || `Status ${answer.status}`, body.detail, body.errors);
}
