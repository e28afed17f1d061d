// Each part asks for itself every second, and is replaced if it has changed. Forms are sent without a new page.
"use strict";

const EVERY_MS = 1000;
let pressed = false; // a button that is replaced while it is pressed would not be clicked
addEventListener("pointerdown", () => { pressed = true; }, true);
for (const name of ["pointerup", "pointercancel"]) addEventListener(name, () => setTimeout(() => { pressed = false; }), true);

for (const part of document.querySelectorAll("[data-path]")) {
  const body = part.querySelector(".body"), said = part.querySelector(".said");
  let acts = 0; // what was asked before the last of them is out of date

  const show = (text) => {
    const focused = body.contains(document.activeElement) ? document.activeElement.id : "";
    body.innerHTML = text;
    if (focused) document.getElementById(focused)?.focus();
    const sentence = body.firstElementChild.dataset.said;
    if (said.textContent !== sentence) said.textContent = sentence;
  };

  const ask = async () => {
    const before = acts;
    const have = body.firstElementChild.dataset.have;
    const answer = await fetch(`${part.dataset.path}have=${have}`);
    const text = answer.status === 200 ? await answer.text() : "";
    if (text && before === acts && !pressed) show(text);
  };

  const poll = async () => {
    try {
      if (!document.hidden) await ask();
    } catch {
      said.textContent = part.closest("main").dataset.away;
    }
    setTimeout(poll, EVERY_MS);
  };

  part.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { target: form, submitter } = event;
    const fields = new URLSearchParams(new FormData(form, submitter));
    const path = submitter?.getAttribute("formaction") || form.getAttribute("action");
    const answer = await fetch(path, { method: "POST", body: fields, headers: { "X-Part": "yes" } });
    acts += 1;
    const text = await answer.text();
    if (answer.status === 200) show(text);
    else said.textContent = text;
  });

  setTimeout(poll, EVERY_MS);
}
