
// The viewer's own dark style, where the browser prefers dark.
const dark = matchMedia("(prefers-color-scheme: dark)")
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches)
dark.addEventListener("change", follow)
follow()

// What the viewer leaves without a name for a screen reader.
const names = {"textarea.body-param__text": "Request body", "select.examples-select-element": "Example"}
const name_all = () => {
  for (const [selector, name] of Object.entries(names))
    for (const one of document.querySelectorAll(`${selector}:not([aria-label])`)) one.setAttribute("aria-label", name)
}

// A link in a button can't be reached by keyboard. The button changes the address as well.
const no_link_in_button = system => ({
  wrapComponents: {DeepLink: () => ({text}) => system.React.createElement("span", null, text)},
})

window.onload = () => {
  new MutationObserver(name_all).observe(document.getElementById("viewer"), {childList: true, subtree: true})
  SwaggerUIBundle({
    url: "/openapi.json",
    dom_id: "#viewer",
    deepLinking: true,
    tryItOutEnabled: true,
    displayRequestDuration: true,
    defaultModelsExpandDepth: 0,
    validatorUrl: null,
    plugins: [no_link_in_button],
  })
}
