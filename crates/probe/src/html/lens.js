const layers = [...new Set(data.cells.map((c) => c.layer))].sort((a, b) => a - b);
const positions = data.answers.map((a) => a.position);
const cells = new Map(data.cells.map((c) => [c.layer + " " + c.position, c]));
const LEFT = 46, TOP = 26, HIGH = 22;
// Columns are as wide as lets whole ones fill the map.
let WIDE = 80;
const largest = (of) => data.cells.reduce((most, cell) => Math.max(most, of(cell) || 0), 1e-9);
const mostKl = largest((c) => c.kl_to_final), mostEntropy = largest((c) => c.entropy_bits);
const mostRank = Math.max(2, largest((c) => c.token_rank));
const METRICS = {
  prob: ["probability of what it says", (c) => c.top[0].prob, "0", "1"],
  entropy: ["entropy", (c) => c.entropy_bits / mostEntropy, "0", mostEntropy.toFixed(1) + " bits"],
  kl: ["divergence from the end", (c) => Math.sqrt(c.kl_to_final / mostKl), "0", mostKl.toFixed(1) + " nats"],
};
if (data.token) METRICS.tokenprob = ["probability of " + shown(data.token.piece), (c) => Math.exp(c.token_logprob), "0", "1"];
if (data.token) METRICS.token = ["rank of " + shown(data.token.piece), (c) => 1 - Math.log(c.token_rank) / Math.log(mostRank), String(mostRank), "1"];
let metric = data.token ? "token" : "prob";
let here = null, pinned = null;

const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": "layers by positions; arrow keys walk, Enter pins" });
const spacer = el("div", { style: "height:1px;margin-top:-1px" });
const box = el("div", { class: "map" }, canvas, spacer);
const strip = el("canvas", { class: "strip", title: "all positions; a click goes there" });
const detail = el("section", { class: "panel", id: "detail", style: "margin-top:14px", "aria-live": "polite" });
const legendBox = el("span");
const [metricLabel] = select("Colour:", Object.entries(METRICS).map(([k, v]) => [k, v[0]]).sort((a) => (a[0] === metric ? -1 : 1)), choose);

function cellAt(i, j) { return cells.get(layers[j] + " " + positions[i]); }

function fit() {
  const room = Math.max(60, box.clientWidth - LEFT);
  WIDE = room / Math.max(1, Math.min(positions.length, Math.floor(room / 76)));
  WIDE = Math.min(WIDE, 120);
  spacer.style.width = LEFT + positions.length * WIDE + "px";
}

// All positions in a strip of one pixel a layer or more, where they do not fit the map.
let stripImage = null;
function drawStrip() {
  const width = box.clientWidth, all = positions.length * WIDE + LEFT > width + 1;
  strip.style.display = all ? "block" : "none";
  if (!all) return;
  const height = Math.max(28, Math.min(64, 2 * layers.length)), scale = devicePixelRatio || 1;
  if (!stripImage) {
    stripImage = document.createElement("canvas");
    stripImage.width = positions.length;
    stripImage.height = layers.length;
    const pixels = new ImageData(positions.length, layers.length), table = heatTable();
    positions.forEach((_, i) => layers.forEach((_, j) => {
      const c = 3 * Math.round(255 * Math.min(1, Math.max(0, METRICS[metric][1](cellAt(i, j)) || 0)));
      pixels.data.set([table[c], table[c + 1], table[c + 2], 255], 4 * (j * positions.length + i));
    }));
    stripImage.getContext("2d").putImageData(pixels, 0, 0);
  }
  strip.width = Math.round(width * scale);
  strip.height = Math.round(height * scale);
  strip.style.width = width + "px";
  strip.style.height = height + "px";
  const g = strip.getContext("2d");
  g.scale(scale, scale);
  g.imageSmoothingEnabled = positions.length > width;
  g.drawImage(stripImage, 0, 0, width, height);
  g.strokeStyle = colour("--focus");
  g.lineWidth = 2;
  const of = width / (positions.length * WIDE);
  g.strokeRect(box.scrollLeft * of + 1, 1, Math.max(4, (box.clientWidth - LEFT) * of) - 2, height - 2);
}
const goto_ = (event) => {
  const r = strip.getBoundingClientRect();
  box.scrollLeft = (event.clientX - r.left) / r.width * positions.length * WIDE - (box.clientWidth - LEFT) / 2;
};
strip.addEventListener("pointerdown", (event) => { strip.setPointerCapture(event.pointerId); goto_(event); });
strip.addEventListener("pointermove", (event) => { if (event.buttons) goto_(event); });

function draw() {
  fit();
  const width = Math.min(box.clientWidth, LEFT + positions.length * WIDE);
  const height = TOP + layers.length * HIGH;
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = width + "px";
    canvas.style.height = height + "px";
  }
  const g = canvas.getContext("2d");
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, width, height);
  g.font = "12px ui-monospace, 'DejaVu Sans Mono', monospace";
  g.textBaseline = "middle";
  const offset = box.scrollLeft;
  const first = Math.max(0, Math.floor(offset / WIDE));
  const last = Math.min(positions.length - 1, Math.ceil((offset + width) / WIDE));
  for (let i = first; i <= last; i++) {
    const x = LEFT + i * WIDE - offset;
    g.fillStyle = colour("--fg");
    g.fillText(clip(g, shown(data.pieces[positions[i]]), WIDE - 6), x + 3, TOP / 2);
    for (let j = 0; j < layers.length; j++) {
      const cell = cellAt(i, j), y = TOP + j * HIGH;
      const c = heat(METRICS[metric][1](cell));
      g.fillStyle = rgb(c);
      g.fillRect(x, y, WIDE - 1, HIGH - 1);
      g.fillStyle = ink(c);
      const leads = cell.top[0].id === data.answers[i].id;
      g.globalAlpha = leads ? 1 : 0.72;
      g.fillText(clip(g, metric === "token" ? String(cell.token_rank) : shown(cell.top[0].piece), WIDE - 8), x + 4, y + HIGH / 2);
      g.globalAlpha = 1;
      if (leads) { g.fillStyle = colour("--focus"); g.fillRect(x, y, 2, HIGH - 1); }
    }
  }
  for (const [mark, style] of [[pinned, "--accent"], [here, "--focus"]]) {
    if (!mark) continue;
    g.strokeStyle = colour(style);
    g.lineWidth = 2;
    g.strokeRect(LEFT + mark[0] * WIDE - offset, TOP + mark[1] * HIGH, WIDE - 1, HIGH - 1);
  }
  g.fillStyle = colour("--panel");
  g.fillRect(0, 0, LEFT - 2, height);
  g.fillStyle = colour("--soft");
  layers.forEach((layer, j) => g.fillText(String(layer), 10, TOP + j * HIGH + HIGH / 2));
  g.fillText("layer", 4, TOP / 2);
  drawStrip();
}

function choose(value) {
  metric = value;
  stripImage = null;
  legendBox.replaceChildren(legend(METRICS[metric][2], METRICS[metric][3]));
  draw();
}

function describe(i, j) {
  const cell = cellAt(i, j);
  return [el("b", {}, "after layer " + cell.layer + ", " + shown(data.pieces[cell.position]) + " (" + cell.position + ")"),
    bars(cell.top.slice(0, 5), cell.top[0].prob, "likeliest"),
    el("div", { class: "soft" }, "entropy " + fixed(cell.entropy_bits, 2) + " bits, " + fixed(cell.kl_to_final, 3) + " nats from the end" +
      (cell.token_rank ? ", rank of " + shown(data.token.piece) + ": " + cell.token_rank : ""))];
}

function point(i, j, x, y) {
  here = [i, j];
  draw();
  const r = canvas.getBoundingClientRect();
  showTip(x ?? r.left + LEFT + (i + 1) * WIDE - box.scrollLeft, y ?? r.top + TOP + (j + 1) * HIGH, describe(i, j));
}

// The rank of a token after every layer, as a line: the best on top, on a logarithmic scale.
function rankLine(i) {
  const ns = "http://www.w3.org/2000/svg", W = 560, H = 170, L = 46, R = 12, T = 12, B = 34;
  const node = (name, attributes, text) => {
    const e = document.createElementNS(ns, name);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    if (text != null) e.textContent = text;
    return e;
  };
  const title = "rank of " + shown(data.token.piece) + " after each layer";
  const svg = node("svg", { viewBox: "0 0 " + W + " " + H, role: "img", "aria-label": title });
  svg.style.maxWidth = "560px";
  const x = (k) => L + (W - L - R) * (layers.length > 1 ? k / (layers.length - 1) : 0.5);
  const y = (rank) => T + (H - T - B) * Math.log(rank) / Math.log(mostRank);
  for (let rank = 1; rank <= mostRank; rank *= 10) {
    svg.append(node("line", { x1: L, y1: y(rank), x2: W - R, y2: y(rank), class: "axis" }),
      node("text", { x: L - 6, y: y(rank) + 4, "text-anchor": "end", class: "soft" }, String(rank)));
  }
  const every = Math.ceil(layers.length / 16);
  layers.forEach((layer, k) => { if (k % every === 0) svg.append(node("text", { x: x(k), y: H - B + 16, "text-anchor": "middle", class: "soft" }, String(layer))); });
  svg.append(node("text", { x: L, y: H - 3, class: "soft" }, "across: layer; up: " + title));
  const line = (column, attributes) => node("polyline", { fill: "none", points: layers.map((_, k) => x(k) + "," + y(cellAt(column, k).token_rank)).join(" "), ...attributes });
  // The other positions stand behind it, as long as they can be told apart.
  if (positions.length <= 40) positions.forEach((_, other) => { if (other !== i) svg.append(line(other, { stroke: colour("--soft"), "stroke-width": 1, opacity: 0.25 })); });
  svg.append(line(i, { stroke: colour("--accent"), "stroke-width": 2 }));
  layers.forEach((layer, k) => svg.append(node("circle", { cx: x(k), cy: y(cellAt(i, k).token_rank), r: 3.5 })));
  return el("div", {}, svg, positions.length > 1 && positions.length <= 40 ? el("p", { class: "soft" }, "Faint: the other positions.") : null);
}

// The same token in views beside this one.
const tellOthers = linked((position) => {
  const i = positions.indexOf(position);
  if (i < 0) return;
  pin(i, pinned ? pinned[1] : layers.length - 1, true);
  const left = i * WIDE, room = canvas.clientWidth - LEFT;
  if (left < box.scrollLeft || left + WIDE > box.scrollLeft + room) box.scrollLeft = left - room / 2;
});
function pin(i, j, told) {
  pinned = [i, j];
  draw();
  if (!told) tellOthers(positions[i]);
  const answer = data.answers[i];
  detail.replaceChildren(
    el("h1", {}, "After ", el("code", {}, shown(data.pieces[positions[i]])), " at position " + positions[i]),
    el("p", { class: "soft" }, "the answer ", el("code", {}, shown(answer.piece)), " (" + percent(answer.prob) + ") leads first after layer " +
      (answer.first_layer ?? "\u2013") + ", to the end from layer " + (answer.settled_layer ?? "\u2013")),
    ...(data.token ? [rankLine(i)] : []),
    table(["layer>", "says", "entropy bits>", "KL to end, nats>", ...(data.token ? ["rank of " + shown(data.token.piece) + ">"] : [])], layers.map((layer, k) => {
      const cell = cellAt(i, k);
      return [String(layer),
        el("td", { class: "says" }, cell.top.slice(0, 5).map((c) => {
          const tint = heat(c.prob);
          return el("span", { class: c.id === answer.id ? "final" : null, style: "background:" + rgb(tint) + ";color:" + ink(tint) }, shown(c.piece), el("small", {}, percent(c.prob)));
        })), fixed(cell.entropy_bits, 2), fixed(cell.kl_to_final, 3), ...(data.token ? [String(cell.token_rank)] : [])];
    })));
}

function under(event) {
  const r = canvas.getBoundingClientRect();
  const i = Math.floor((event.clientX - r.left - LEFT + box.scrollLeft) / WIDE), j = Math.floor((event.clientY - r.top - TOP) / HIGH);
  return event.clientX - r.left >= LEFT && i >= 0 && i < positions.length && j >= 0 && j < layers.length ? [i, j] : null;
}

canvas.addEventListener("mousemove", (event) => {
  const at = under(event);
  if (at) point(...at, event.clientX, event.clientY);
  else { here = null; draw(); showTip(); }
});
canvas.addEventListener("mouseleave", () => { here = null; draw(); showTip(); });
canvas.addEventListener("blur", () => { here = null; draw(); showTip(); });
canvas.addEventListener("click", (event) => { const at = under(event); if (at) pin(...at); });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
  let at = here || pinned || [positions.length - 1, layers.length - 1];
  if (step) at = [at[0] + (here ? step[0] : 0), at[1] + (here ? step[1] : 0)];
  else if (event.key === "Home") at = [0, at[1]];
  else if (event.key === "End") at = [positions.length - 1, at[1]];
  else if (event.key === "Enter" || event.key === " ") { pin(...at); event.preventDefault(); return; }
  else return;
  event.preventDefault();
  at = [Math.max(0, Math.min(positions.length - 1, at[0])), Math.max(0, Math.min(layers.length - 1, at[1]))];
  const left = at[0] * WIDE, room = canvas.clientWidth - LEFT;
  if (left < box.scrollLeft) box.scrollLeft = left;
  else if (left + WIDE > box.scrollLeft + room) box.scrollLeft = left + WIDE - room;
  point(...at);
});
box.addEventListener("scroll", draw);
addEventListener("resize", draw);
dark.addEventListener("change", () => { stripImage = null; draw(); });

main.append(el("h1", {}, "What would each layer say?"), el("p", { class: "prompt", tabindex: 0 }, el("code", {}, data.prompt)),
  (() => {
    const answer = data.answers[data.answers.length - 1];
    return reading("Each cell is the likeliest next token if the model stopped after that layer: its state there goes through the last norm and the output matrix. An edge marks the final answer. Hover for the likeliest five, click for the whole column; the colour is what the list above the map says.",
      answer ? "Here: after " + shown(data.pieces[answer.position]) + " the model says " + shown(answer.piece) + " (" + percent(answer.prob) + "). " +
        (answer.first_layer == null ? "After none of the layers shown does it lead." : "It leads first after layer " + answer.first_layer + (answer.settled_layer == null ? "." : ", and to the end from layer " + answer.settled_layer + ".")) : null,
      "What a layer would say need not be what it holds: later layers may read its state otherwise.");
  })(),
  el("div", { class: "tools" }, metricLabel, legendBox), strip, box, detail);
choose(metric);
if (positions.length) pin(positions.length - 1, layers.length - 1, true);
box.scrollLeft = box.scrollWidth;
draw();
if (data.answers.length) {
  const answer = data.answers[data.answers.length - 1];
  main.append(el("div", { style: "height:16px" }), further([
    ["the words and parts of the model that the answer hangs on", ["why", data.prompt, "--token-id", String(data.token ? data.token.id : answer.id)]],
    ["where the heads look meanwhile", ["attention", data.prompt]],
    ["where another prompt parts from it", ["patch", data.prompt, "ANOTHER PROMPT"]],
  ]));
}
