const { mark, twin } = twins();
const n = data.ids.length;
// The heads of the layer shown; the page also has those of other layers if they are not too large.
let layer = data.layer;
const known = new Map([[data.layer, data.heads]]);
function headsOf(l) {
  if (!known.has(l)) {
    known.set(l, data.maps[l].map((rows, head) => ({ head, ...data.overview[l].heads[head], weights: rows.map((row) => row.map((w) => w / 1e5)) })));
  }
  return known.get(l);
}
let heads = headsOf(layer);
const layers = data.maps ? data.maps.flatMap((maps, l) => (maps.length ? [l] : [])) : [data.layer];
const means = new Map();
function meanOf(l) {
  if (!means.has(l)) {
    const sum = Array.from({ length: n }, () => new Float64Array(n)), all = headsOf(l);
    for (const head of all) head.weights.forEach((row, q) => row.forEach((w, k) => { sum[q][k] += w / all.length; }));
    means.set(l, sum);
  }
  return means.get(l);
}
// -1 is the mean of all heads.
let current = -1;
let query = n - 1;
let hover = null;
// Without the first token, the weights on the others are shares of the rest.
let withoutFirst = false;
const rest = new Map();
function weightsOf(i) {
  const whole = i < 0 ? meanOf(layer) : heads[i].weights, key = layer + " " + i;
  if (!withoutFirst) return whole;
  if (!rest.has(key)) {
    rest.set(key, whole.map((row) => {
      const left = 1 - row[0];
      return row.map((w, k) => (k === 0 || left < 1e-4 ? 0 : w / left));
    }));
  }
  return rest.get(key);
}
const nameOf = (i) => (i < 0 ? "mean of " + heads.length + " heads" : "head " + heads[i].head);

// A map as an image with one pixel per weight, made once for each head and colour scheme.
const images = new Map();
function image(i) {
  const key = layer + " " + i + " " + dark.matches + " " + withoutFirst;
  if (images.has(key)) return images.get(key);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = n;
  const pixels = new ImageData(n, n), w = weightsOf(i), table = heatTable();
  for (let q = 0; q < n; q++) {
    for (let k = 0; k <= q; k++) {
      const c = 3 * Math.round(255 * Math.sqrt(Math.min(1, w[q][k]))), at = 4 * (q * n + k);
      pixels.data[at] = table[c];
      pixels.data[at + 1] = table[c + 1];
      pixels.data[at + 2] = table[c + 2];
      pixels.data[at + 3] = 255;
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  images.set(key, canvas);
  return canvas;
}

// The column whose token is under the mouse.
let column = null;
const spans = data.pieces.map((piece, i) => {
  twin("token " + i, (on) => { column = on ? i : null; draw(); });
  return twin("token " + i, el("span", { "data-i": i }, written(piece, i, data.prompt)));
});
const text = el("div", { class: "text", role: "group", "aria-label": "tokens; arrow keys walk, Enter asks where a token looks" }, spans);
const looks = el("p", { class: "soft", id: "looks" });
const habits = el("p", { class: "soft" });
const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": "map of weights: rows look at columns; arrow keys walk" });
const box = el("div", { class: "map square" }, canvas);

// Tokens are written along the map if there is room for them.
const labelled = n <= 48;
let left = 0, top_ = 0, side = 1;
function measure() {
  const room = Math.max(120, box.parentElement.clientWidth - 2 - (labelled ? 24 : 0));
  left = labelled ? Math.min(96, Math.floor(room * 0.28)) : 0;
  top_ = labelled ? 74 : 0;
  side = Math.min(26, (Math.min(room, 900) - left) / n);
  if (side > 3) side = Math.floor(side);
}

function draw() {
  measure();
  const scale = devicePixelRatio || 1, wide = n * side;
  // The last of the slanted labels needs room to its right.
  const right = labelled ? 24 : 0;
  canvas.width = Math.round((left + wide + right) * scale);
  canvas.height = Math.round((top_ + wide) * scale);
  canvas.style.width = left + wide + right + "px";
  canvas.style.height = top_ + wide + "px";
  const g = canvas.getContext("2d");
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.imageSmoothingEnabled = side < 1.5;
  g.drawImage(image(current), left, top_, wide, wide);
  if (labelled) label(g);
  g.lineWidth = 2;
  g.strokeStyle = colour("--accent");
  g.strokeRect(left + 1, top_ + query * side, wide - 2, Math.max(side, 2));
  if (column != null) {
    g.strokeStyle = colour("--focus");
    g.strokeRect(left + column * side, top_ + 1, Math.max(side, 2), wide - 2);
  }
  if (hover) {
    g.strokeStyle = colour("--focus");
    g.strokeRect(left + hover[1] * side, top_ + hover[0] * side, Math.max(side, 2), Math.max(side, 2));
  }
}

function label(g) {
  g.font = "11px ui-monospace, 'DejaVu Sans Mono', monospace";
  g.textBaseline = "middle";
  for (let i = 0; i < n; i++) {
    const name = clip(g, shown(data.pieces[i]), left - 10);
    g.fillStyle = colour(hover && hover[0] === i ? "--focus" : i === query ? "--accent" : "--soft");
    g.textAlign = "right";
    g.fillText(name, left - 6, top_ + (i + 0.5) * side);
    g.fillStyle = colour((hover && hover[1] === i) || column === i ? "--focus" : "--soft");
    g.save();
    g.translate(left + (i + 0.5) * side, top_ - 5);
    g.rotate(-Math.PI / 3);
    g.textAlign = "left";
    g.fillText(clip(g, shown(data.pieces[i]), 74), 0, 0);
    g.restore();
  }
}

// The text, coloured by the attention of the selected token.
function tell() {
  const row = weightsOf(current)[query];
  let most = 1e-9;
  for (let k = 0; k <= query; k++) most = Math.max(most, row[k]);
  spans.forEach((span, i) => {
    const c = heat(i > query ? 0 : row[i] / most);
    span.style.background = i > query ? "none" : rgb(c);
    span.style.color = i > query ? "var(--soft)" : ink(c);
    span.classList.toggle("asked", i === query);
  });
  looks.replaceChildren("where ", el("code", {}, shown(data.pieces[query])), " at position " + query + " looks: ",
    ...strongest(row).flatMap(([k, w]) => [el("code", {}, shown(data.pieces[k])), " " + percent(w) + "  "]));
  const head = heads[current];
  habits.textContent = nameOf(current) + (head ? ": entropy " + fixed(head.entropy_bits, 2) + " bits, on the first token " + percent(head.to_first) +
    ", on the token before " + percent(head.to_previous) : "");
}

function strongest(row) {
  const order = [];
  for (let k = 0; k <= query; k++) order.push([k, row[k]]);
  return order.sort((a, b) => b[1] - a[1]).slice(0, 3).filter((x) => x[1] > 0);
}

function choose(i) {
  current = i;
  headSelect.value = i;
  thumbs.forEach((thumb, t) => thumb.classList.toggle("chosen", choices[t] === i));
  draw();
  tell();
}
const tellOthers = linked((position) => { if (position >= 0 && position < n) ask(position, true); });
function ask(q, told) { query = q; draw(); tell(); if (!told) tellOthers(q); }

walk(text, spans, (i) => [el("b", {}, shown(data.pieces[i])), el("div", {}, "position " + i),
  el("div", {}, i > query ? "comes later" : percent(weightsOf(current)[query][i]) + " of what " + shown(data.pieces[query]) + " looks at")], ask);

function describe(q, k) {
  return [el("b", {}, shown(data.pieces[q]) + " \u2192 " + shown(data.pieces[k])),
    el("div", {}, "positions " + q + " \u2192 " + k + ": " + (k > q ? "comes later" : percent(weightsOf(current)[q][k])))];
}
function at(event) {
  const r = canvas.getBoundingClientRect();
  const k = Math.floor((event.clientX - r.left - left) / side), q = Math.floor((event.clientY - r.top - top_) / side);
  return q >= 0 && q < n && k >= 0 && k < n ? [q, k] : null;
}
canvas.addEventListener("mousemove", (event) => {
  if (hover) mark("token " + hover[1], false);
  hover = at(event);
  if (hover) mark("token " + hover[1], true);
  draw();
  if (hover) showTip(event.clientX, event.clientY, describe(...hover)); else showTip();
});
for (const leave of ["mouseleave", "blur"]) canvas.addEventListener(leave, () => { if (hover) mark("token " + hover[1], false); hover = null; draw(); showTip(); });
canvas.addEventListener("click", (event) => { const p = at(event); if (p) ask(p[0]); });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  let to = hover || [query, query];
  if (step) to = hover ? [to[0] + step[0], to[1] + step[1]] : to;
  else if (event.key === "Home") to = [to[0], 0];
  else if (event.key === "End") to = [to[0], to[0]];
  else return;
  event.preventDefault();
  hover = to.map((v) => Math.max(0, Math.min(n - 1, v)));
  ask(hover[0]);
  const r = canvas.getBoundingClientRect();
  showTip(r.left + left + (hover[1] + 1) * side, r.top + top_ + (hover[0] + 1) * side, describe(...hover));
});

let choices = [], thumbs = [];
const [headLabel, headSelect] = select("Head:", [], (value) => choose(Number(value)));
const turn = (by) => choose(choices[(choices.indexOf(current) + by + choices.length) % choices.length]);
const [layerLabel, layerSelect] = select("Layer:", layers.map((l) => [l, String(l)]), (value) => show(Number(value)));
const turnLayer = (by) => show(layers[(layers.indexOf(layer) + by + layers.length) % layers.length]);

// All heads of the layer in small maps.
const galleryTitle = el("h2", {}), galleryBox = el("div");
function paintThumbs() {
  thumbs.forEach((thumb, t) => {
    const g = thumb.firstChild.getContext("2d");
    g.clearRect(0, 0, 96, 96);
    g.imageSmoothingEnabled = n > 96;
    g.drawImage(image(choices[t]), 0, 0, 96, 96);
  });
}

// Shows a layer, and one of its heads by its index in the list, or the mean of all.
function show(l, head = null) {
  layer = l;
  heads = headsOf(l);
  layerSelect.value = l;
  choices = [...(heads.length > 1 ? [-1] : []), ...heads.keys()];
  headSelect.replaceChildren(...choices.map((i) => el("option", { value: i }, nameOf(i))));
  thumbs = choices.map((i, t) => el("figure", { "data-i": t }, el("canvas", { width: 96, height: 96 }), el("figcaption", {}, i < 0 ? "mean" : String(heads[i].head))));
  const gallery = el("div", { class: "gallery", role: "group", "aria-label": "maps of all heads; arrow keys walk, Enter chooses" }, thumbs);
  walk(gallery, thumbs, (t) => {
    const one = heads[choices[t]];
    return [el("b", {}, nameOf(choices[t])), one ? el("div", {}, "entropy " + fixed(one.entropy_bits, 2) + " bits, first token " + percent(one.to_first) + ", token before " + percent(one.to_previous)) : null].filter(Boolean);
  }, (t) => choose(choices[t]));
  galleryTitle.textContent = "Heads of layer " + l;
  galleryBox.replaceChildren(...(heads.length > 1 ? [galleryTitle, gallery] : []));
  markLayer();
  choose(head ?? choices[0]);
  paintThumbs();
}
let markLayer = () => {};

const overview = el("div");
main.append(el("h1", {}, "Where do the heads look?"), el("p", { class: "prompt", tabindex: 0 }, el("code", {}, data.prompt)),
  el("div", { class: "tools" }, ...(layers.length > 1 ? [layerLabel,
    el("button", { onclick: () => turnLayer(-1), "aria-label": "layer before" }, "\u2039"), el("button", { onclick: () => turnLayer(1), "aria-label": "next layer" }, "\u203a")]
    : [el("b", {}, "layer " + data.layer + " of 0 to " + (data.n_layers - 1))]), headLabel,
    el("button", { onclick: () => turn(-1), "aria-label": "head before" }, "\u2039"), el("button", { onclick: () => turn(1), "aria-label": "next head" }, "\u203a"),
    el("label", { title: "Many heads rest on the first token when they have nothing to look for, and next to that weight the others are too faint to see: without it they are shares of what is left" },
      el("input", { type: "checkbox", onchange: (event) => { withoutFirst = event.target.checked; draw(); tell(); paintThumbs(); } }), " without the first token"), legend("0", "1")),
  (() => {
    const row = (heads.length === 1 ? heads[0].weights : meanOf(layer))[n - 1];
    const [k, w] = [...row].map((w, k) => [k, w]).sort((a, b) => b[1] - a[1])[0];
    return reading("For each token, a head decides how much to read from every token up to it: weights that make 1. A row of the map is a token that looks, a column one that is looked at. Many heads rest on the first token when they find nothing to look for; it can be left out above, and the weights on the others are then shares of what remains.",
      "Here: in layer " + data.layer + (heads.length > 1 ? ", in the mean of its heads, " : ", ") + shown(data.pieces[n - 1]) + " looks most at " + shown(data.pieces[k]) + ", with " + percent(w) + " of its weight.",
      "Where a head looks is not yet what it does with it: taking it out tells that.");
  })(),
  el("div", { class: "heads" },
    el("section", { class: "panel" }, looks, text),
    galleryBox,
    overview,
    el("div", { class: "beside" }, habits, box, el("p", { class: "soft" }, "A row is a token that looks, a column one that is looked at; a click asks the row's token. Colours follow the square root of the weight."))));

if (data.overview) {
  const METRICS = { to_first: "weight on the first token", to_previous: "weight on the token before", entropy_bits: "entropy" };
  let metric = "to_first";
  const places = data.overview.flatMap((l) => l.heads.map((h, i) => ({ layer: l.layer, head: i, ...h })));
  const items = places.map((p, i) => el("div", { "data-i": i, "data-layer": p.layer }));
  markLayer = () => places.forEach((p, i) => items[i].classList.toggle("shown", p.layer === layer));
  const width = Math.max(...data.overview.map((l) => l.heads.length));
  const grid = el("div", { class: "grid", role: "group", "aria-label": "heads of all layers; arrow keys walk", style: "grid-template-columns:2.2em repeat(" + width + ",minmax(4px,24px))" });
  let next = 0;
  for (const l of data.overview) {
    grid.append(el("span", {}, String(l.layer)), ...Array.from({ length: width }, (_, h) => (h < l.heads.length ? items[next++] : el("div"))));
  }
  const paint = () => { const most = Math.max(1e-9, ...places.map((q) => q[metric])); places.forEach((p, i) => { items[i].style.background = rgb(heat(p[metric] / most)); }); };
  const [label] = select("Colour:", Object.entries(METRICS), (value) => { metric = value; paint(); });
  walk(grid, items, (i) => {
    const p = places[i];
    return [el("b", {}, "layer " + p.layer + ", head " + p.head), el("div", {}, "entropy " + fixed(p.entropy_bits, 2) + " bits"),
      el("div", {}, "first token " + percent(p.to_first) + ", token before " + percent(p.to_previous))];
  }, (i) => {
    if (!layers.includes(places[i].layer)) return;
    const chosen = headsOf(places[i].layer).findIndex((h) => h.head === places[i].head);
    if (chosen >= 0) show(places[i].layer, chosen);
  }, width);
  paint();
  dark.addEventListener("change", paint);
  overview.append(el("h2", {}, "Heads of all layers"), el("p", { class: "soft" }, "Rows are layers, columns heads, numbers means over the tokens. A click " + (layers.length > 1 ? "" : "in layer " + data.layer + " ") + "shows a head\u2019s map."),
    el("div", { class: "tools" }, label, legend("low", "high")), grid);
}
show(layer);
addEventListener("resize", draw);
dark.addEventListener("change", () => { draw(); tell(); paintThumbs(); });
main.append(el("div", { style: "height:16px" }), further([
  ...(layers.length > 1 ? [] : [["the heads of another layer", ["attention", data.prompt, "--layer", String(data.layer > 0 ? data.layer - 1 : Math.min(1, data.n_layers - 1)), "--html", "attention.html"]]]),
  ["which heads the answer hangs on", ["ablate", data.prompt, "--all", "heads"]],
  ["what parts write for the answer", ["why", data.prompt]],
  ["what each layer would say", ["lens", data.prompt]],
]));
