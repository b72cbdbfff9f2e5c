const { mark, twin } = twins();
// One prompt, or two that are compared.
const lenses = Array.isArray(data) ? data : [data];
const two = lenses.length > 1;
const followed = lenses[0].token || null;
const layers = [...new Set(lenses.flatMap((lens) => lens.cells.map((c) => c.layer)))].sort((a, b) => a - b);
const places = lenses.map((lens) => new Map(lens.cells.map((c) => [c.layer + " " + c.position, c])));
const answers = lenses.map((lens) => new Map(lens.answers.map((a) => [a.position, a])));

// The columns, with the position of each prompt. Tokens of equally long prompts correspond by
// position; of others, the common beginning and the common end correspond, and tokens between have
// columns of their own.
function align() {
  if (!two) return lenses[0].answers.map((a) => [a.position]);
  const [a, b] = lenses.map((lens) => lens.ids), pairs = [];
  let head = 0, tail = 0;
  if (a.length === b.length) head = a.length;
  else {
    while (head < a.length && head < b.length && a[head] === b[head]) head++;
    while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  }
  for (let i = 0; i < head; i++) pairs.push([i, i]);
  for (let i = head; i < a.length - tail; i++) pairs.push([i, null]);
  for (let i = head; i < b.length - tail; i++) pairs.push([null, i]);
  for (let i = tail; i > 0; i--) pairs.push([a.length - i, b.length - i]);
  return pairs.map((pair) => pair.map((at, k) => (at != null && answers[k].has(at) ? at : null))).filter((pair) => pair.some((at) => at != null));
}
const columns = align();
const pieceAt = (i, k) => (columns[i][k] == null ? null : shown(lenses[k].pieces[columns[i][k]]));
const cellAt = (i, j, k) => (columns[i][k] == null ? null : places[k].get(layers[j] + " " + columns[i][k]) || null);
const answerAt = (i, k) => (columns[i][k] == null ? null : answers[k].get(columns[i][k]));
const differs = (i) => two && (columns[i][0] == null || columns[i][1] == null || lenses[0].ids[columns[i][0]] !== lenses[1].ids[columns[i][1]]);

// The quantities that colour a cell: name, value with unit, and its place on the colour scale.
const largest = (of) => lenses.reduce((most, lens) => lens.cells.reduce((m, cell) => Math.max(m, of(cell) || 0), most), 1e-9);
const mostKl = largest((c) => c.kl_to_final), mostEntropy = largest((c) => c.entropy_bits);
const mostRank = Math.max(2, largest((c) => c.token_rank)), leastAnswer = largest((c) => -c.answer_logprob), leastToken = largest((c) => -c.token_logprob);
const METRICS = {
  answer: { name: "log-probability of the final answer", value: (c) => c.answer_logprob, unit: "nats", at: (v) => 1 + v / leastAnswer, low: fixed(-leastAnswer, 1) + " nats", high: "0: certain" },
  kl: { name: "divergence from the final distribution", value: (c) => c.kl_to_final, unit: "nats", at: (v) => Math.sqrt(v / mostKl), low: "0", high: fixed(mostKl, 1) + " nats" },
  prob: { name: "probability of what it says", value: (c) => c.top[0].prob, unit: "", at: (v) => v, low: "0", high: "1" },
  entropy: { name: "entropy", value: (c) => c.entropy_bits, unit: "bits", at: (v) => v / mostEntropy, low: "0", high: fixed(mostEntropy, 1) + " bits" },
};
if (followed) {
  METRICS.tokenlog = { name: "log-probability of " + shown(followed.piece), value: (c) => c.token_logprob, unit: "nats", at: (v) => 1 + v / leastToken, low: fixed(-leastToken, 1) + " nats", high: "0: certain" };
  METRICS.token = { name: "rank of " + shown(followed.piece), value: (c) => c.token_rank, unit: "", at: (v) => 1 - Math.log(v) / Math.log(mostRank), low: String(mostRank), high: "1" };
}
let metric = followed ? (two ? "tokenlog" : "token") : "answer";
let view = two ? "both" : "0";
let here = null, pinned = null, marked = null;

const LEFT = 46, HIGH = 22;
// Column widths with which whole columns fill the map.
let WIDE = 80;
const halves = () => (view === "both" ? 2 : 1);
const rowHigh = () => (halves() === 2 ? 38 : HIGH);
const top_ = () => (two ? 46 : 26);

const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": "layers by positions; arrow keys walk, Enter pins" });
const spacer = el("div", { style: "height:1px;margin-top:-1px" });
const box = el("div", { class: "map" }, canvas, spacer);
const strip = el("canvas", { class: "strip", title: "all positions; a click goes there" });
const detail = el("section", { class: "panel", id: "detail", style: "margin-top:14px", "aria-live": "polite" });
const legendBox = el("span");
const [metricLabel] = select("Colour:", Object.entries(METRICS).map(([k, v]) => [k, v.name]).sort((a) => (a[0] === metric ? -1 : 1)), choose);
const [viewLabel] = select("Show:", [["both", "both, the first above"], ["0", "the first prompt"], ["1", "the second prompt"], ["change", "second less first"]], (value) => { view = value; choose(metric); });

// The difference between the second prompt's value and the first's, and its largest size.
function change(i, j) {
  const [a, b] = [cellAt(i, j, 0), cellAt(i, j, 1)];
  if (!a || !b) return null;
  const of = (c) => (metric === "token" ? -Math.log(METRICS.token.value(c)) : METRICS[metric].value(c));
  return of(b) - of(a);
}
let mostChange = 1;

// The colour of a cell of one prompt, or of the difference.
function paint(i, j, k) {
  if (view === "change") { const d = change(i, j); return d == null ? null : sides(d / mostChange); }
  const cell = cellAt(i, j, k);
  return cell && heat(METRICS[metric].at(METRICS[metric].value(cell)));
}
function words(i, j, k) {
  if (view === "change") {
    const says = [0, 1].map((side) => { const c = cellAt(i, j, side); return c && shown(c.top[0].piece); }).filter((text) => text != null);
    return says[0] === says[1] ? says[0] : says.join("|");
  }
  const cell = cellAt(i, j, k);
  return !cell ? "" : metric === "token" ? String(cell.token_rank) : shown(cell.top[0].piece);
}
const sidesShown = () => (view === "both" ? [0, 1] : [view === "change" ? 0 : Number(view)]);

function fit() {
  const room = Math.max(60, box.clientWidth - LEFT);
  WIDE = room / Math.max(1, Math.min(columns.length, Math.floor(room / 76)));
  WIDE = Math.min(WIDE, 120);
  spacer.style.width = LEFT + columns.length * WIDE + "px";
}

// An overview of all positions with at least one pixel per layer, if they do not fit the map.
let stripImage = null;
function drawStrip() {
  const width = box.clientWidth, all = columns.length * WIDE + LEFT > width + 1;
  strip.style.display = all ? "block" : "none";
  if (!all) return;
  const shownSides = sidesShown(), rows = layers.length * shownSides.length;
  const height = Math.max(28, Math.min(64, 2 * rows)), scale = devicePixelRatio || 1;
  if (!stripImage) {
    stripImage = document.createElement("canvas");
    stripImage.width = columns.length;
    stripImage.height = rows;
    const pixels = new ImageData(columns.length, rows);
    columns.forEach((_, i) => layers.forEach((_, j) => shownSides.forEach((k, s) => {
      const c = paint(i, j, k);
      if (c) pixels.data.set([...c, 255], 4 * ((j * shownSides.length + s) * columns.length + i));
    })));
    stripImage.getContext("2d").putImageData(pixels, 0, 0);
  }
  strip.width = Math.round(width * scale);
  strip.height = Math.round(height * scale);
  strip.style.width = width + "px";
  strip.style.height = height + "px";
  const g = strip.getContext("2d");
  g.scale(scale, scale);
  g.imageSmoothingEnabled = columns.length > width;
  g.drawImage(stripImage, 0, 0, width, height);
  g.strokeStyle = colour("--focus");
  g.lineWidth = 2;
  const of = width / (columns.length * WIDE);
  g.strokeRect(box.scrollLeft * of + 1, 1, Math.max(4, (box.clientWidth - LEFT) * of) - 2, height - 2);
}
const goto_ = (event) => {
  const r = strip.getBoundingClientRect();
  box.scrollLeft = (event.clientX - r.left) / r.width * columns.length * WIDE - (box.clientWidth - LEFT) / 2;
};
strip.addEventListener("pointerdown", (event) => { strip.setPointerCapture(event.pointerId); goto_(event); });
strip.addEventListener("pointermove", (event) => { if (event.buttons) goto_(event); });

function draw() {
  fit();
  const TOP = top_(), ROW = rowHigh(), shownSides = sidesShown();
  const width = Math.min(box.clientWidth, LEFT + columns.length * WIDE);
  const height = TOP + layers.length * ROW;
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
  const offset = box.scrollLeft, part = ROW / shownSides.length;
  const first = Math.max(0, Math.floor(offset / WIDE));
  const last = Math.min(columns.length - 1, Math.ceil((offset + width) / WIDE));
  for (let i = first; i <= last; i++) {
    const x = LEFT + i * WIDE - offset;
    lenses.forEach((_, k) => {
      const name = pieceAt(i, k);
      g.fillStyle = colour(marked === i || differs(i) ? "--focus" : "--fg");
      if (name != null) g.fillText(clip(g, name, WIDE - 6), x + 3, two ? 12 + 19 * k : TOP / 2);
    });
    for (let j = 0; j < layers.length; j++) {
      shownSides.forEach((k, s) => {
        const c = paint(i, j, k), y = TOP + j * ROW + s * part;
        if (!c) return;
        g.fillStyle = rgb(c);
        g.fillRect(x, y, WIDE - 1, part - (s + 1 === shownSides.length ? 1 : 0));
        const cell = cellAt(i, j, k), answer = answerAt(i, k);
        const leads = view !== "change" && cell && answer && cell.top[0].id === answer.id;
        g.fillStyle = ink(c);
        g.globalAlpha = leads || view === "change" ? 1 : 0.72;
        g.fillText(clip(g, words(i, j, k), WIDE - 8), x + 4, y + part / 2);
        g.globalAlpha = 1;
        if (leads) { g.fillStyle = colour("--focus"); g.fillRect(x, y, 2, part - 1); }
      });
    }
  }
  if (marked != null) {
    g.strokeStyle = colour("--focus");
    g.lineWidth = 2;
    g.strokeRect(LEFT + marked * WIDE - offset, TOP + 1, WIDE - 1, height - TOP - 2);
  }
  for (const [spot, style] of [[pinned, "--accent"], [here, "--focus"]]) {
    if (!spot) continue;
    g.strokeStyle = colour(style);
    g.lineWidth = 2;
    g.strokeRect(LEFT + spot[0] * WIDE - offset, TOP + spot[1] * ROW, WIDE - 1, ROW - 1);
  }
  g.fillStyle = colour("--panel");
  g.fillRect(0, 0, LEFT - 2, height);
  g.fillStyle = colour("--soft");
  layers.forEach((layer, j) => g.fillText(String(layer), 10, TOP + j * ROW + ROW / 2));
  g.fillText("layer", 4, two ? TOP - 12 : TOP / 2);
  drawStrip();
}

function choose(value) {
  metric = value;
  stripImage = null;
  if (view === "change") {
    mostChange = 1e-9;
    columns.forEach((_, i) => layers.forEach((_, j) => { mostChange = Math.max(mostChange, Math.abs(change(i, j) || 0)); }));
    const unit = metric === "token" ? "" : METRICS[metric].unit, text = metric === "token" ? fixed(Math.exp(mostChange), 0) + " times" : fixed(mostChange, 2) + (unit ? " " + unit : "");
    legendBox.replaceChildren(legend("less in the second, " + text, "more", sides, -1));
  } else {
    legendBox.replaceChildren(legend(METRICS[metric].low, METRICS[metric].high));
  }
  draw();
}

const nameOf = (k) => (two ? (k ? "second prompt" : "first prompt") : "");
function describe(i, j) {
  return lenses.flatMap((lens, k) => {
    const cell = cellAt(i, j, k);
    if (!cell) return [];
    return [el("b", {}, (two ? nameOf(k) + ", " : "") + "after layer " + cell.layer + ", " + pieceAt(i, k) + " (" + cell.position + ")"),
      bars(cell.top.slice(0, two ? 3 : 5), cell.top[0].prob, "likeliest"),
      el("div", { class: "soft" }, "entropy " + fixed(cell.entropy_bits, 2) + " bits, " + fixed(cell.kl_to_final, 3) + " nats from the end, the final answer at " + percent(Math.exp(cell.answer_logprob)) +
        (cell.token_rank ? ", rank of " + shown(followed.piece) + ": " + cell.token_rank : ""))];
  });
}

function point(i, j, x, y) {
  if (here) mark("column " + here[0], false);
  here = [i, j];
  mark("column " + i, true);
  marked = null;
  draw();
  const r = canvas.getBoundingClientRect();
  showTip(x ?? r.left + LEFT + (i + 1) * WIDE - box.scrollLeft, y ?? r.top + top_() + (j + 1) * rowHigh(), describe(i, j));
}
function leave() {
  if (here) mark("column " + here[0], false);
  here = null;
  draw();
  showTip();
}

// The rank of a token after every layer, as a line on a logarithmic scale, with the best at the
// top.
function rankLine(i) {
  const ns = "http://www.w3.org/2000/svg", W = innerWidth < 560 ? 340 : 560, H = 170, L = 46, R = 12, T = 12, B = 34;
  const node = (name, attributes, text) => {
    const e = document.createElementNS(ns, name);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    if (text != null) e.textContent = text;
    return e;
  };
  const title = "rank of " + shown(followed.piece) + " after each layer";
  const svg = node("svg", { viewBox: "0 0 " + W + " " + H, role: "img", "aria-label": title });
  svg.style.maxWidth = "560px";
  const x = (j) => L + (W - L - R) * (layers.length > 1 ? j / (layers.length - 1) : 0.5);
  const y = (rank) => T + (H - T - B) * Math.log(rank) / Math.log(mostRank);
  for (let rank = 1; rank <= mostRank; rank *= 10) {
    svg.append(node("line", { x1: L, y1: y(rank), x2: W - R, y2: y(rank), class: "axis" }),
      node("text", { x: L - 6, y: y(rank) + 4, "text-anchor": "end", class: "soft" }, String(rank)));
  }
  const every = Math.ceil(layers.length / 16);
  layers.forEach((layer, j) => { if (j % every === 0) svg.append(node("text", { x: x(j), y: H - B + 16, "text-anchor": "middle", class: "soft" }, String(layer))); });
  svg.append(node("text", { x: L, y: H - 3, class: "soft" }, "across: layer; up: rank of " + shown(followed.piece)));
  const line = (column, k, attributes) => {
    const points = layers.map((_, j) => [j, cellAt(column, j, k)]).filter(([, cell]) => cell);
    return node("polyline", { fill: "none", points: points.map(([j, cell]) => x(j) + "," + y(cell.token_rank)).join(" "), ...attributes });
  };
  // The other positions are drawn in the background, unless there are too many.
  const faint = !two && columns.length > 1 && columns.length <= 40;
  if (faint) columns.forEach((_, other) => { if (other !== i) svg.append(line(other, 0, { stroke: colour("--soft"), "stroke-width": 1, opacity: 0.25 })); });
  const hues = ["--accent", "--down"];
  lenses.forEach((_, k) => {
    if (columns[i][k] == null) return;
    svg.append(line(i, k, { stroke: colour(hues[k]), "stroke-width": 2 }));
    layers.forEach((_, j) => { const cell = cellAt(i, j, k); if (cell) svg.append(node("circle", { cx: x(j), cy: y(cell.token_rank), r: 3.5, style: "fill:" + colour(hues[k]) })); });
  });
  const key = two ? el("p", { class: "soft" }, el("b", { style: "color:var(--accent)" }, "\u25cf first prompt "), " ", el("b", { style: "color:var(--down)" }, "\u25cf second prompt"))
    : faint ? el("p", { class: "soft" }, "Faint: the other positions.") : null;
  return el("div", {}, svg, key);
}

function column(i, k) {
  const answer = answerAt(i, k), lens = lenses[k];
  if (!answer) return el("section", { class: two ? "panel" : null }, el("p", { class: "soft" }, "nothing in the " + nameOf(k) + " stands for this token"));
  return el("section", { class: two ? "panel" : null },
    el("h2", {}, two ? nameOf(k) + ": after " : "After ", el("code", {}, pieceAt(i, k)), " at position " + columns[i][k]),
    el("p", { class: "soft" }, "the answer ", el("code", {}, shown(answer.piece)), " (" + percent(answer.prob) + ") leads first after layer " +
      (answer.first_layer ?? "\u2013") + ", to the end from layer " + (answer.settled_layer ?? "\u2013")),
    table(["layer>", "says", "entropy, bits>", "KL to final, nats>", "answer, log>", ...(followed ? ["rank of " + shown(followed.piece) + ">"] : [])], layers.map((layer, j) => {
      const cell = cellAt(i, j, k);
      if (!cell) return [String(layer), "\u2013", "", "", "", ...(followed ? [""] : [])];
      return [String(layer),
        el("td", { class: "says" }, cell.top.slice(0, 5).map((c) => {
          const tint = heat(c.prob);
          return el("span", { class: c.id === answer.id ? "final" : null, style: "background:" + rgb(tint) + ";color:" + ink(tint) }, shown(c.piece), el("small", {}, percent(c.prob)));
        })), fixed(cell.entropy_bits, 2), fixed(cell.kl_to_final, 3), fixed(cell.answer_logprob, 2), ...(followed ? [String(cell.token_rank)] : [])];
    })));
}

// Brings a column into view.
function show(i) {
  const left = i * WIDE, room = canvas.clientWidth - LEFT;
  if (left < box.scrollLeft) box.scrollLeft = left;
  else if (left + WIDE > box.scrollLeft + room) box.scrollLeft = left + WIDE - room;
}

// Marks the same token in other views.
const tellOthers = linked((position) => {
  const i = columns.findIndex((pair) => pair[0] === position);
  if (i < 0) return;
  pin(i, pinned ? pinned[1] : layers.length - 1, true);
  show(i);
});
function pin(i, j, told) {
  pinned = [i, j];
  draw();
  if (!told && columns[i][0] != null) tellOthers(columns[i][0]);
  detail.replaceChildren(...(followed ? [rankLine(i)] : []), two ? el("div", { class: "columns" }, column(i, 0), column(i, 1)) : column(i, 0));
}

function under(event) {
  const r = canvas.getBoundingClientRect();
  const i = Math.floor((event.clientX - r.left - LEFT + box.scrollLeft) / WIDE), j = Math.floor((event.clientY - r.top - top_()) / rowHigh());
  return event.clientX - r.left >= LEFT && i >= 0 && i < columns.length && j >= 0 && j < layers.length ? [i, j] : null;
}

canvas.addEventListener("mousemove", (event) => {
  const at = under(event);
  if (at) point(...at, event.clientX, event.clientY);
  else leave();
});
canvas.addEventListener("mouseleave", leave);
canvas.addEventListener("blur", leave);
canvas.addEventListener("click", (event) => { const at = under(event); if (at) pin(...at); });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
  let at = here || pinned || [columns.length - 1, layers.length - 1];
  if (step) at = [at[0] + (here ? step[0] : 0), at[1] + (here ? step[1] : 0)];
  else if (event.key === "Home") at = [0, at[1]];
  else if (event.key === "End") at = [columns.length - 1, at[1]];
  else if (event.key === "Enter" || event.key === " ") { pin(...at); event.preventDefault(); return; }
  else return;
  event.preventDefault();
  at = [Math.max(0, Math.min(columns.length - 1, at[0])), Math.max(0, Math.min(layers.length - 1, at[1]))];
  show(at[0]);
  point(...at);
});
box.addEventListener("scroll", draw);
addEventListener("resize", draw);
dark.addEventListener("change", () => { stripImage = null; draw(); });

// The prompts; their tokens mark the columns.
const columnOf = lenses.map((_, k) => new Map(columns.flatMap((pair, i) => (pair[k] == null ? [] : [[pair[k], i]]))));
columns.forEach((_, i) => twin("column " + i, (on) => {
  marked = on ? i : null;
  if (here) return;
  if (on) show(i);
  draw();
}));
const prompts = lenses.map((lens, k) => el("div", { class: "text marks", style: "max-height:5.4em" }, lens.pieces.map((piece, t) => {
  const i = columnOf[k].get(t), span = el("span", { class: i !== undefined && differs(i) ? "differs" : null }, written(piece, t, lens.prompt));
  return i === undefined ? span : twin("column " + i, span);
})));

main.append(el("h1", {}, two ? "What would each layer say to one prompt and to the other?" : "What would each layer say?"), ...prompts,
  (() => {
    const end = [...columns.keys()].reverse().find((i) => columns[i].every((at) => at != null)) ?? columns.length - 1;
    const one = (k) => {
      const answer = columns.length ? answerAt(end, k) : null;
      return !answer ? "" : "after " + pieceAt(end, k) + (two ? " of the " + nameOf(k) : "") + " the model says " + shown(answer.piece) + " (" + percent(answer.prob) + "). " +
        (answer.first_layer == null ? "After none of the layers shown does it lead." : "It leads first after layer " + answer.first_layer + (answer.settled_layer == null ? "." : ", and to the end from layer " + answer.settled_layer + "."));
    };
    const firsts = lenses.map((_, k) => one(k)).filter(Boolean);
    return reading("Each cell is the likeliest next token if the model stopped after that layer: its state there goes through the last norm and the output matrix. An edge marks the final answer. Hover for the likeliest, click for the whole column; the colour is what the list above the map says, and a word of the prompt marks its column.",
      two ? "The first prompt\u2019s half of a cell is the upper one; where the halves look alike, the layer cannot tell the prompts apart at that token, as before the first token that differs." : null,
      firsts.length ? "Here: " + firsts.join(" And ") : null,
      "What a layer would say need not be what it holds: later layers may read its state otherwise.");
  })(),
  el("div", { class: "tools" }, two ? viewLabel : null, metricLabel, legendBox), strip, box, detail);
choose(metric);
if (columns.length) pin(columns.length - 1, layers.length - 1, true);
box.scrollLeft = box.scrollWidth;
draw();
if (lenses[0].answers.length) {
  const answer = lenses[0].answers[lenses[0].answers.length - 1], [a, b] = lenses.map((lens) => lens.prompt);
  const token = String(followed ? followed.id : answer.id);
  main.append(el("div", { style: "height:16px" }), further([
    ["the words and parts of the model that the answer hangs on", ["why", a, "--token-id", token]],
    ["where the heads look meanwhile", ["attention", a]],
    ...(two ? [["through which places the difference passes", ["patch", a, b]], ["both distributions beside each other", ["next", a, b]]] : []),
  ]));
}
