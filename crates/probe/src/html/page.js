// A one-file page: its data and what it shows.
const data = JSON.parse(document.getElementById("data").textContent);
const about = JSON.parse(document.getElementById("about").textContent);
const main = document.getElementById("main");
const tip = document.getElementById("tip");

const dark = matchMedia("(prefers-color-scheme: dark)");

// Views that are shown together mark the same token: each view passes `linked` a function that
// marks a token, and calls what it returns to mark one in the others. A one-file page has no other
// views.
function linked() { return () => {}; }

// The head of the page: its title is the prompt, its first line the model and how the page was
// made.
{
  const first = (Array.isArray(data) ? data[0] : data) || {};
  const text = first.prompt || first.clean || first.text || "";
  const name = document.title.replace(/^modelve /, "");
  if (text) document.title = (text.length > 60 ? "\u2026" + text.slice(-60) : text) + " \u00b7 modelve " + name;
  const models = about.models.map((m) => m.name + (m.quantization ? " (" + m.quantization + ")" : "")).join(" and ");
  document.getElementById("head").append(
    el("span", {}, el("b", {}, "modelve " + name), models ? " \u00b7 " + models : "", about.date ? " \u00b7 " + about.date : ""),
    about.command ? el("code", { title: about.command }, about.command) : "");
}
