/** Tell when something changed: the service's event stream, or looking again from time to time while there is none. */

const POLL_MS = 10_000;
const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 30_000;

/**
 * Follow the service.
 * @param {object} api From `openApi`.
 * @param {{change: () => void, state: (state: string) => void}} told `state` is live, polling, or waiting (for a key).
 */
export function follow(api, told) {
  let control = new AbortController();
  let [poll, last] = [null, null];

  const seen = (event) => {
    if (last !== null && last !== event) told.change();
    last = event; // the first one tells what the page is just loading
  };

  const polling = () => {
    told.state("polling");
    poll ??= setInterval(told.change, POLL_MS);
  };

  const streaming = () => {
    clearInterval(poll);
    poll = null;
    told.state("live");
  };

  const run = async (signal) => {
    let wait = FIRST_WAIT_MS;
    while (!signal.aborted) {
      try {
        const body = await api.stream("v1/events", signal);
        streaming();
        wait = FIRST_WAIT_MS;
        await eachEvent(body, seen);
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 401 || error.status === 403) return told.state("waiting");
      }
      polling();
      await pause(wait, signal);
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    }
  };

  const stop = () => {
    control.abort();
    clearInterval(poll);
    poll = null;
  };

  const restart = () => {
    stop();
    control = new AbortController();
    run(control.signal);
  };

  return { restart, stop };
}

/** Call `seen` for each event of a stream until it ends; comments are left out. */
export async function eachEvent(body, seen) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.includes("data:")) seen(part);
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}
