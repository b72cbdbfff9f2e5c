// The functions that every view is drawn with. They follow a script that defines `tip`, `about`,
// `dark` and `linked`: `page.js` on a one-file page.

// Makes an element: attributes whose names begin with "on" are listeners, children are nodes or
// text.
function el(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") node.style.cssText = value;
    else if (value !== false && value != null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null));
  return node;
}

function percent(p) {
  const v = 100 * p;
  if (v >= 9.995) return v.toFixed(1) + " %";
  if (v >= 0.0995) return v.toFixed(2) + " %";
  if (v >= 0.000995) return v.toFixed(4) + " %";
  return v > 0 ? v.toExponential(0) + " %" : "0 %";
}

// A token's piece as text; invalid UTF-8 is escaped.
function spelled(piece) {
  if (typeof piece === "string") return piece;
  return piece.bytes.map((b) => "\\x" + b.toString(16).padStart(2, "0")).join("");
}

// A piece as in its text: some tokenizers put a space before the first.
function written(piece, i, text) {
  const spelling = spelled(piece);
  return i === 0 && !text.startsWith(" ") ? spelling.replace(/^ /, "") : spelling;
}

// A piece with visible spaces and line feeds.
function shown(piece) {
  return spelled(piece).replace(/ /g, "\u00b7").replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5") || "\u2205";
}

function fixed(value, digits) {
  return value == null || !Number.isFinite(value) ? "\u2013" : value.toFixed(digits);
}

// A colour scale for t between 0 and 1: [red, green, blue].
function heat(t) {
  const stops = dark.matches
    ? [[28, 31, 37], [28, 58, 94], [31, 111, 181], [94, 190, 214], [250, 240, 160]]
    : [[255, 255, 255], [205, 226, 244], [104, 168, 217], [31, 92, 160], [12, 35, 84]];
  const x = Math.min(1, Math.max(0, t || 0)) * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(x));
  return stops[i].map((a, k) => Math.round(a + (stops[i + 1][k] - a) * (x - i)));
}

// 256 colours of the scale, one after another, for pixels.
function heatTable() {
  return Uint8Array.from(Array.from({ length: 256 }, (_, i) => heat(i / 255)).flat());
}

function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

// Shortens a text to a number of pixels on a canvas.
function clip(g, text, width) {
  if (g.measureText(text).width <= width) return text;
  let s = text;
  while (s.length > 1 && g.measureText(s + "\u2026").width > width) s = s.slice(0, -1);
  return s + "\u2026";
}

function rgb(c) { return "rgb(" + c.join(",") + ")"; }

// The text colour that is readable on that background.
function ink(c) { return 0.3 * c[0] + 0.59 * c[1] + 0.11 * c[2] > 140 ? "#111" : "#fff"; }

// A diverging colour scale for t between -1 and 1: orange for negative, blue for positive values.
function sides(t) {
  const stops = dark.matches
    ? [[255, 196, 120], [196, 106, 32], [96, 52, 24], [28, 31, 37], [24, 56, 92], [40, 118, 190], [150, 214, 250]]
    : [[122, 52, 4], [214, 112, 32], [250, 208, 166], [255, 255, 255], [184, 214, 240], [66, 140, 206], [12, 58, 110]];
  const x = (Math.min(1, Math.max(-1, t || 0)) + 1) / 2 * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(x));
  return stops[i].map((a, k) => Math.round(a + (stops[i + 1][k] - a) * (x - i)));
}

// Colours an element, now and whenever the colour scheme changes.
function tint(node, colours, t) {
  const paint = () => {
    const c = colours(t);
    node.style.background = rgb(c);
    node.style.color = ink(c);
  };
  paint();
  dark.addEventListener("change", paint);
  return node;
}

// A number with its sign.
function signed(value, digits = 3) {
  if (value == null || !Number.isFinite(value)) return "\u2013";
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? "\u2212" : "+") + text;
}

// A share as a percentage, without "-0".
function share(value) {
  if (value == null || !Number.isFinite(value)) return "\u2013";
  const whole = Math.round(100 * value);
  return (whole < 0 ? "\u2212" : "") + Math.abs(whole) + " %";
}

function legend(low, high, colours = heat, from = 0) {
  const bar = el("i");
  const paint = () => {
    const stops = [0, 0.25, 0.5, 0.75, 1].map((t) => rgb(colours(from + (1 - from) * t)));
    bar.style.background = "linear-gradient(90deg," + stops.join(",") + ")";
  };
  paint();
  dark.addEventListener("change", paint);
  return el("span", { class: "legend" }, low, bar, high);
}

function bars(choices, most, title) {
  return el("ol", { class: "bars", "aria-label": title }, choices.map((c) =>
    el("li", { title: "token " + c.id + ", log-probability " + fixed(c.logprob, 4) },
      el("span", { class: "piece", title: shown(c.piece) }, shown(c.piece)),
      el("span", { class: "track" }, c.prob == null ? null : el("div", { class: "fill", style: "width:" + (100 * c.prob / (most || 1)) + "%" })),
      el("span", { class: "number" }, c.prob == null ? "\u2013" : percent(c.prob)))));
}

// Shows nodes as a tooltip at a point of the window; without nodes, hides it.
function showTip(x, y, nodes) {
  if (!nodes) { tip.hidden = true; return; }
  tip.replaceChildren(...[nodes].flat());
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth ? Math.max(8, x - box.width - 10) : x + 14;
  const top = y + 14 + box.height > innerHeight ? Math.max(8, y - box.height - 10) : y + 14;
  tip.style.left = Math.max(8, Math.min(left, innerWidth - box.width - 8)) + "px";
  tip.style.top = top + "px";
}
addEventListener("keydown", (event) => { if (event.key === "Escape") showTip(); });

// Makes many small elements a single stop of the Tab key: arrow keys, Home and End move between
// them, in rows of `wide` if they are laid out in rows.
function walk(box, items, describe, choose, wide = 1) {
  let at = -1;
  const go = (i, pointer) => {
    if (i < 0 || i >= items.length) return;
    if (at >= 0) items[at].classList.remove("here");
    at = i;
    items[at].classList.add("here");
    const r = items[at].getBoundingClientRect();
    if (!pointer) items[at].scrollIntoView({ block: "nearest", inline: "nearest" });
    const r2 = pointer ? r : items[at].getBoundingClientRect();
    showTip(r2.left, r2.bottom - 6, describe(at));
  };
  const leave = () => {
    if (at >= 0) items[at].classList.remove("here");
    showTip();
  };
  box.tabIndex = 0;
  const index = new Map(items.map((item, i) => [item, i]));
  box.addEventListener("mouseover", (event) => {
    const i = index.get(event.target.closest("[data-i]"));
    if (i !== undefined) go(i, true);
  });
  box.addEventListener("mouseleave", leave);
  box.addEventListener("blur", leave);
  box.addEventListener("click", (event) => {
    const i = index.get(event.target.closest("[data-i]"));
    if (i !== undefined) { go(i, true); if (choose) choose(i); }
  });
  box.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowDown: at + wide, ArrowLeft: at - 1, ArrowUp: at - wide, Home: 0, End: items.length - 1 }[event.key];
    if (to !== undefined) { go(Math.max(0, Math.min(items.length - 1, to))); event.preventDefault(); }
    else if ((event.key === "Enter" || event.key === " ") && choose && at >= 0) { choose(at); event.preventDefault(); }
  });
}

// Links nodes of a view that show the same token, word or column, by a key: the mouse over one
// marks all of them, and calls a function that marks what is drawn on a canvas.
function twins() {
  const alike = new Map();
  const mark = (key, on) => {
    for (const one of alike.get(key) || []) { if (one instanceof Node) one.classList.toggle("marked", on); else one(on); }
  };
  const twin = (key, one) => {
    if (!alike.has(key)) alike.set(key, []);
    alike.get(key).push(one);
    if (one instanceof Node) {
      one.dataset.mark = key;
      one.addEventListener("mouseenter", () => mark(key, true));
      one.addEventListener("mouseleave", () => mark(key, false));
    }
    return one;
  };
  return { mark, twin };
}

function table(head, rows) {
  const numeric = head.map((title) => title.endsWith(">"));
  return el("div", { class: "scroll", tabindex: 0 }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((title, i) => el("th", { class: numeric[i] ? "n" : null, scope: "col" }, title.replace(/>$/, ""))))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((value, i) =>
      value instanceof Node && value.nodeName === "TD" ? value : el("td", { class: numeric[i] ? "n" : null }, value)))))));
}

function select(label, options, onchange) {
  const control = el("select", { onchange: () => onchange(control.value) },
    options.map(([value, text]) => el("option", { value }, text)));
  return [el("label", {}, label + " ", control), control];
}

// A list of names with signed bars on one scale. With `after`, the running total, the bars of a sum
// follow each other; `total` is its end.
function signedList(rows, label, describe) {
  const low = Math.min(0, ...rows.map((r) => Math.min(r.value, r.after ?? 0))), high = Math.max(0, ...rows.map((r) => Math.max(r.value, r.after ?? 0)));
  const span = high - low || 1, at = (x) => 100 * (x - low) / span;
  const items = rows.map((r, i) => {
    const from = r.total ? 0 : (r.after != null ? r.after - r.value : 0), to = r.total ? r.value : (r.after ?? r.value);
    return el("li", { "data-i": i, class: r.total ? "total" : null },
      el("span", { class: "name", title: r.name }, r.name), el("span", { class: "number" }, signed(r.value)),
      el("span", { class: "axis", style: "--zero:" + at(0) + "%" },
        el("i", { class: r.value < 0 ? "minus" : null, style: "left:" + at(Math.min(from, to)) + "%;width:" + Math.abs(at(to) - at(from)) + "%" })),
      el("span", { class: "number after soft" }, r.after == null ? "" : fixed(r.after, 2)));
  });
  const list = el("ul", { class: "signed", role: "group", "aria-label": label }, items);
  walk(list, items, describe);
  return list;
}

// A sentence on how to read a page, with an example from its own data.
function reading(...paragraphs) {
  return el("details", { class: "reading", open: true }, el("summary", {}, "How to read this"),
    paragraphs.filter(Boolean).map((paragraph) => (paragraph instanceof Node ? paragraph : el("p", {}, paragraph))));
}

// Quotes a word for a shell.
function quoteWord(word) {
  return /^[\w./:=@%+,-]+$/.test(word) ? word : "'" + word.replace(/'/g, "'\\''") + "'";
}

// Commands for further questions: what each shows, its words, and the model if it is another than
// this page's.
function further(pairs) {
  return el("section", { class: "panel" }, el("h2", { style: "margin-top:0" }, "Ask further"),
    el("ul", { class: "further" }, pairs.map(([what, words, of = about.model]) => {
      const model = of ? ["-m", of] : [];
      const line = ["modelve", words[0], ...model, ...words.slice(1)].map(quoteWord).join(" ");
      const copy = el("button", { title: "copy the command", onclick: () => navigator.clipboard && navigator.clipboard.writeText(line).then(() => { copy.textContent = "copied"; }, () => {}) }, "copy");
      return el("li", {}, el("span", {}, what), el("code", {}, line), copy);
    })));
}

// Names of files that are different: with the last folder if the names of the files are equal.
function fileNames(paths) {
  const names = paths.map((path) => path.split(/[\\/]/));
  for (let parts = 1; ; parts++) {
    const short = names.map((name) => name.slice(-parts).join("/"));
    const different = new Set(paths).size === new Set(short).size;
    if (different || parts > 32) return short;
  }
}
