const layers = [...new Set(data.cells.map((c) => c.layer))].sort((a, b) => a - b);
const positions = data.answers.map((a) => a.position);
const cells = new Map(data.cells.map((c) => [c.layer + " " + c.position, c]));
const LEFT = 46, TOP = 26, WIDE = 76, HIGH = 22;
const mostKl = Math.max(1e-9, ...data.cells.map((c) => c.kl_to_final || 0).slice(0, 100000).sort((a, b) => a - b).slice(-1));
const mostEntropy = Math.max(1e-9, ...positions.map((p) => Math.max(...layers.map((l) => cells.get(l + " " + p).entropy_bits || 0))));
const METRICS = {
  prob: ["probability of what it says", (c) => c.top[0].prob, "0", "1"],
  entropy: ["entropy", (c) => c.entropy_bits / mostEntropy, "0", mostEntropy.toFixed(1) + " bits"],
  kl: ["divergence from the end", (c) => Math.sqrt(c.kl_to_final / mostKl), "0", mostKl.toFixed(1) + " bits"],
};
if (data.token) METRICS.token = ["rank of " + shown(data.token.piece), (c) => 1 - Math.log(c.token_rank) / Math.log(32000), "32,000", "1"];
let metric = data.token ? "token" : "prob";
let here = null, pinned = null;

const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": "layers by positions; arrow keys walk, Enter pins" });
const spacer = el("div", { style: "height:1px;margin-top:-1px;width:" + (LEFT + positions.length * WIDE) + "px" });
const box = el("div", { class: "map" }, canvas, spacer);
const detail = el("section", { class: "panel", style: "margin-top:14px", "aria-live": "polite" });
const legendBox = el("span");
const [metricLabel] = select("Colour:", Object.entries(METRICS).map(([k, v]) => [k, v[0]]).sort((a) => (a[0] === metric ? -1 : 1)), (value) => { metric = value; draw(); });

function cellAt(i, j) { return cells.get(layers[j] + " " + positions[i]); }

function clip(g, text, width) {
  if (g.measureText(text).width <= width) return text;
  let s = text;
  while (s.length > 1 && g.measureText(s + "\u2026").width > width) s = s.slice(0, -1);
  return s + "\u2026";
}

function draw() {
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
  const css = getComputedStyle(document.documentElement);
  const colour = (name) => css.getPropertyValue(name).trim();
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
  legendBox.replaceChildren(legend(METRICS[metric][2], METRICS[metric][3]));
}

function describe(i, j) {
  const cell = cellAt(i, j);
  return [el("b", {}, "after layer " + cell.layer + ", " + shown(data.pieces[cell.position]) + " (" + cell.position + ")"),
    bars(cell.top.slice(0, 5), cell.top[0].prob, "likeliest"),
    el("div", { class: "soft" }, "entropy " + fixed(cell.entropy_bits, 2) + " bits, " + fixed(cell.kl_to_final, 3) + " bits from the end" +
      (cell.token_rank ? ", rank of " + shown(data.token.piece) + ": " + cell.token_rank : ""))];
}

function point(i, j, x, y) {
  here = [i, j];
  draw();
  const r = canvas.getBoundingClientRect();
  showTip(x ?? r.left + LEFT + (i + 1) * WIDE - box.scrollLeft, y ?? r.top + TOP + (j + 1) * HIGH, describe(i, j));
}

function pin(i, j) {
  pinned = [i, j];
  draw();
  const answer = data.answers[i];
  detail.replaceChildren(
    el("h1", {}, "After ", el("code", {}, shown(data.pieces[positions[i]])), " at position " + positions[i]),
    el("p", { class: "soft" }, "the answer ", el("code", {}, shown(answer.piece)), " (" + percent(answer.prob) + ") leads first after layer " +
      (answer.first_layer ?? "\u2013") + ", to the end from layer " + (answer.settled_layer ?? "\u2013")),
    table(["layer>", "entropy>", "KL to end>", "says"], layers.map((layer, k) => {
      const cell = cellAt(i, k);
      return [String(layer), fixed(cell.entropy_bits, 2), fixed(cell.kl_to_final, 3),
        el("code", {}, cell.top.slice(0, 5).map((c) => shown(c.piece) + " " + percent(c.prob)).join("   "))];
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
dark.addEventListener("change", draw);

main.append(el("h1", {}, "What would each layer say?"), el("p", { class: "prompt", tabindex: 0 }, el("code", {}, data.prompt)),
  el("p", { class: "soft" }, "Each cell is the likeliest next token if the model stopped after that layer; an edge marks the final answer. Hover for the likeliest five, click for the whole column."),
  el("div", { class: "tools" }, metricLabel, legendBox), box, detail);
draw();
if (positions.length) pin(positions.length - 1, layers.length - 1);
box.scrollLeft = box.scrollWidth;
draw();
