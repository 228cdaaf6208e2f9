// Hears the gateway, and goes on hearing: whatever was missed is told again, or the whole state.

const SILENCE_MS = 13000;
const AGAIN_MS = 1500;

export function listen(store, { changed, heard }) {
  let source = null;
  let last = null;
  let spoke = Date.now();
  let timer = 0;

  function lost(why) {
    if (store.health.live !== false || store.health.why !== why) {
      store.health = { live: false, why, since: store.health.live === false ? store.health.since : new Date().toISOString() };
      changed();
    }
  }

  function open() {
    clearTimeout(timer);
    source?.close();
    spoke = Date.now();
    source = new EventSource(last === null ? "api/events" : `api/events?after=${last}`);
    source.addEventListener("state", (message) => take(message, (told) => { store.begin(told); heard(null); }));
    source.addEventListener("change", (message) => take(message, (told) => { store.change(told); heard(told); }));
    source.addEventListener("health", (message) => take(message, (told) => { store.health = told; }));
    source.addEventListener("error", () => {
      lost("the gateway does not answer");
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, AGAIN_MS);
    });
  }

  function take(message, then) {
    spoke = Date.now();
    if (message.lastEventId) last = message.lastEventId;
    then(JSON.parse(message.data));
    changed();
  }

  setInterval(() => {
    if (Date.now() - spoke < SILENCE_MS) return;
    lost("nothing was heard of the gateway for a while");
    open();
  }, 2000);
  open();
}
