// A page of its own: its data, and what it is of.
const data = JSON.parse(document.getElementById("data").textContent);
const about = JSON.parse(document.getElementById("about").textContent);
const main = document.getElementById("main");
const tip = document.getElementById("tip");

const dark = matchMedia("(prefers-color-scheme: dark)");

// Views that stand beside each other mark the same token: each says by `linked(mark)` how it marks
// one, and tells the others by what that returns. A page of its own has no others.
function linked() { return () => {}; }

// What the page is of: its title names the prompt, its first line the model and how it was made.
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
