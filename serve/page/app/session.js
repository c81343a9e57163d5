/** The API key, for as long as the tab is open. */

const NAME = "cryptoml.key";

/** Return a place for the key in this tab's session storage. */
export function openSession(storage = window.sessionStorage) {
  return {
    key: () => storage.getItem(NAME),
    keep: (key) => storage.setItem(NAME, key),
    forget: () => storage.removeItem(NAME),
  };
}
