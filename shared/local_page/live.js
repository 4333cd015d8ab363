// Keeps the sections of a page as they are on the server. Without this file the page reloads itself.
(() => {
  "use strict";
  const sections = () => [...document.querySelectorAll("[data-digest]")];
  const link = document.getElementById("link");

  const put = (id, digest, html) => {
    const node = document.getElementById(id);
    if (!node || node.dataset.digest === digest) return;
    const open = new Set([...node.querySelectorAll("details[open][id]")].map(one => one.id));
    const focused = node.contains(document.activeElement) ? document.activeElement.id : "";
    node.innerHTML = html;
    node.dataset.digest = digest;
    for (const one of node.querySelectorAll("details[id]")) one.open = open.has(one.id) || one.open;
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  const say = text => { if (link && link.textContent !== text) link.textContent = text; };

  let source = null;
  const connect = () => {
    const held = sections().map(one => `${one.id}:${one.dataset.digest}`).join(",");
    source = new EventSource(`/events?held=${encodeURIComponent(held)}`);
    source.addEventListener("open", () => say("Updated as things happen."));
    source.addEventListener("sections", event => {
      for (const [id, one] of Object.entries(JSON.parse(event.data))) put(id, one.digest, one.html);
    });
    source.addEventListener("error", () => {
      say("Not updated now: the process behind this page does not answer. What stands here is the last it said.");
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
    });
  };
  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", event => { if (event.persisted) location.reload(); });
  connect();
})();
