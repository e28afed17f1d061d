// Lets a keyboard reach a table that is wider than its page, to scroll it.
"use strict"

function reach() {
  for (const one of document.querySelectorAll(".md-typeset__scrollwrap")) {
    if (one.scrollWidth > one.clientWidth) one.tabIndex = 0
    else one.removeAttribute("tabindex")
  }
}

window.addEventListener("load", reach)
window.addEventListener("resize", reach)
