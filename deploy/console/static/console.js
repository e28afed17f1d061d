// What all pages share: parts that refresh themselves don't do so under a reader's hands.
"use strict";

document.body.addEventListener("htmx:beforeRequest", (event) => {
  const part = event.detail.elt;
  const selected = document.getSelection();
  const reading = selected && !selected.isCollapsed && part.contains(selected.anchorNode);
  if (part.matches("[hx-trigger^='every']") && (document.hidden || reading || part.contains(document.activeElement))) {
    event.preventDefault();
  }
});

// What is shown may be old when a part can't be refreshed, and must say so.
const stale = document.getElementById("stale");
const setStale = (isStale) => {
  if (stale.hidden === isStale) {
    stale.textContent = isStale ? stale.dataset.text : "";
    stale.hidden = !isStale;
  }
};
document.body.addEventListener("htmx:responseError", () => setStale(true));
document.body.addEventListener("htmx:sendError", () => setStale(true));
document.body.addEventListener("htmx:afterSwap", () => setStale(false));
