const n = data.ids.length;
const mean = Array.from({ length: n }, () => new Float64Array(n));
for (const head of data.heads) {
  head.weights.forEach((row, q) => row.forEach((w, k) => { mean[q][k] += w / data.heads.length; }));
}
let current = data.heads.length === 1 ? data.heads[0].head : "mean";
let query = n - 1;
const weights = () => (current === "mean" ? mean : data.heads.find((h) => String(h.head) === String(current)).weights);

const spans = data.pieces.map((piece, i) => el("span", { "data-i": i }, spelled(piece)));
const text = el("div", { class: "text", role: "group", "aria-label": "tokens; arrow keys walk, Enter asks where a token looks" }, spans);
const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": "map of weights: rows look at columns; arrow keys walk" });
const box = el("div", { class: "map", style: "display:inline-block;max-width:100%" }, canvas);
const note = el("p", { class: "soft" });
const habits = el("p", { class: "soft" });

function side() { return Math.max(1, Math.min(24, Math.floor(Math.min(box.parentElement ? box.parentElement.clientWidth - 30 : 600, 760) / n))); }

let hover = null;
function draw() {
  const w = weights(), s = side(), scale = devicePixelRatio || 1;
  canvas.width = n * s * scale;
  canvas.height = n * s * scale;
  canvas.style.width = canvas.style.height = n * s + "px";
  const g = canvas.getContext("2d");
  const css = getComputedStyle(document.documentElement);
  g.setTransform(scale, 0, 0, scale, 0, 0);
  const small = document.createElement("canvas");
  small.width = small.height = n;
  const image = new ImageData(n, n);
  for (let q = 0; q < n; q++) {
    for (let k = 0; k < n; k++) {
      const c = k > q ? heat(0) : heat(Math.sqrt(w[q][k]));
      image.data.set([c[0], c[1], c[2], k > q ? 90 : 255], 4 * (q * n + k));
    }
  }
  small.getContext("2d").putImageData(image, 0, 0);
  g.imageSmoothingEnabled = false;
  g.drawImage(small, 0, 0, n * s, n * s);
  g.lineWidth = 2;
  g.strokeStyle = css.getPropertyValue("--accent");
  g.strokeRect(0, query * s, n * s, s);
  if (hover) { g.strokeStyle = css.getPropertyValue("--focus"); g.strokeRect(hover[1] * s, hover[0] * s, s, s); }
  const row = w[query], most = Math.max(1e-9, ...row);
  spans.forEach((span, i) => {
    const c = heat(i > query ? 0 : row[i] / most);
    span.style.background = i > query ? "none" : rgb(c);
    span.style.color = i > query ? "var(--soft)" : ink(c);
    span.style.textDecoration = i === query ? "underline" : "none";
  });
  note.textContent = "where \u201c" + shown(data.pieces[query]) + "\u201d (position " + query + ") looks; pick another token to ask it";
  const head = data.heads.find((h) => String(h.head) === String(current));
  habits.textContent = head ? "entropy " + fixed(head.entropy_bits, 2) + " bits, on the first token " + percent(head.to_first) + ", on the previous " + percent(head.to_previous)
    : "mean of " + data.heads.length + " heads";
}

walk(text, spans, (i) => [el("b", {}, shown(data.pieces[i])), el("div", {}, "position " + i),
  el("div", {}, i > query ? "comes later" : percent(weights()[query][i]) + " of what " + shown(data.pieces[query]) + " looks at")],
  (i) => { query = i; draw(); });

function describe(q, k) {
  return [el("b", {}, shown(data.pieces[q]) + " \u2192 " + shown(data.pieces[k])), el("div", {}, "positions " + q + " \u2192 " + k + ": " + (k > q ? "comes later" : percent(weights()[q][k])))];
}
function at(event) {
  const r = canvas.getBoundingClientRect(), s = r.width / n;
  const k = Math.floor((event.clientX - r.left) / s), q = Math.floor((event.clientY - r.top) / s);
  return q >= 0 && q < n && k >= 0 && k < n ? [q, k] : null;
}
canvas.addEventListener("mousemove", (event) => {
  hover = at(event);
  draw();
  if (hover) showTip(event.clientX, event.clientY, describe(...hover)); else showTip();
});
for (const leave of ["mouseleave", "blur"]) canvas.addEventListener(leave, () => { hover = null; draw(); showTip(); });
canvas.addEventListener("click", (event) => { const p = at(event); if (p) { query = p[0]; draw(); } });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  if (!step) return;
  event.preventDefault();
  hover = hover ? hover.map((v, i) => Math.max(0, Math.min(n - 1, v + step[i]))) : [query, query];
  query = hover[0];
  draw();
  const r = canvas.getBoundingClientRect(), s = r.width / n;
  showTip(r.left + (hover[1] + 1) * s, r.top + (hover[0] + 1) * s, describe(...hover));
});

const [headLabel, headSelect] = select("Head:", [["mean", "mean of all"], ...data.heads.map((h) => [h.head, "head " + h.head])], (value) => { current = value; draw(); });
headSelect.value = current;
const turn = (by) => { headSelect.selectedIndex = (headSelect.selectedIndex + by + headSelect.length) % headSelect.length; current = headSelect.value; draw(); };

main.append(el("h1", {}, "Where do the heads look?"), el("p", { class: "prompt", tabindex: 0 }, el("code", {}, data.prompt)),
  el("div", { class: "tools" }, el("b", {}, "layer " + data.layer + " of 0 to " + (data.n_layers - 1)), headLabel,
    el("button", { onclick: () => turn(-1), "aria-label": "head before" }, "\u2039"), el("button", { onclick: () => turn(1), "aria-label": "next head" }, "\u203a"), legend("0", "1")),
  habits, el("section", { class: "panel" }, note, text), el("h2", {}, "Map"), el("p", { class: "soft" }, "rows look at columns"), el("div", {}, box));

if (data.overview) {
  const METRICS = { to_first: "weight on the first token", to_previous: "weight on the token before", entropy_bits: "entropy" };
  let metric = "to_first";
  const width = Math.max(...data.overview.map((l) => l.heads.length));
  const places = data.overview.flatMap((l) => l.heads.map((h, i) => ({ layer: l.layer, head: i, ...h })));
  const items = places.map((p, i) => el("div", { "data-i": i, style: "height:16px;border-radius:2px" }));
  const grid = el("div", { role: "group", "aria-label": "heads of all layers; arrow keys walk", style: "display:grid;gap:1px;grid-template-columns:2.4em repeat(" + width + ",minmax(5px,26px))" });
  data.overview.forEach((l) => {
    grid.append(el("span", { class: "soft", style: "line-height:16px;font-size:11px" }, String(l.layer)));
    for (let h = 0; h < width; h++) {
      const i = places.findIndex((p) => p.layer === l.layer && p.head === h);
      grid.append(i < 0 ? el("div") : items[i]);
    }
  });
  const paint = () => { const most = Math.max(1e-9, ...places.map((q) => q[metric])); places.forEach((p, i) => { items[i].style.background = rgb(heat(p[metric] / most)); }); };
  const [label] = select("Colour:", Object.entries(METRICS), (value) => { metric = value; paint(); });
  walk(grid, items, (i) => {
    const p = places[i];
    return [el("b", {}, "layer " + p.layer + ", head " + p.head), el("div", {}, "entropy " + fixed(p.entropy_bits, 2) + " bits"),
      el("div", {}, "first token " + percent(p.to_first) + ", previous " + percent(p.to_previous))];
  }, (i) => {
    const p = places[i];
    if (p.layer === data.layer && data.heads.some((h) => h.head === p.head)) { headSelect.value = p.head; current = String(p.head); draw(); }
  });
  paint();
  dark.addEventListener("change", paint);
  main.append(el("h2", {}, "All heads"), el("p", { class: "soft" }, "rows are layers, columns heads; a click on one of layer " + data.layer + " shows its map"),
    el("div", { class: "tools" }, label, legend("low", "high")), grid);
}
draw();
addEventListener("resize", draw);
dark.addEventListener("change", draw);
