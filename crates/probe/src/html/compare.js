// Names that distinguish the files.
const paths = [data[0].a, ...data.map((c) => c.b)], told = fileNames(paths);
const short = (path) => told[paths.indexOf(path)];
const mostSwapped = Math.max(1e-12, ...data.flatMap((c) => (c.swap || []).map((s) => s.kl_mean)));
const size = (bytes) => (bytes >= 2 ** 30 ? (bytes / 2 ** 30).toFixed(2) + " GiB" : (bytes / 2 ** 20).toFixed(1) + " MiB");

// Quality against size: one point per file.
function scatter(points) {
  const W = innerWidth < 560 ? 350 : 600, H = 320, L = 66, R = 34, T = 22, B = 44;
  const ticks = W < 560 ? 2 : 4;
  const ns = "http://www.w3.org/2000/svg";
  const node = (name, attributes, text) => {
    const e = document.createElementNS(ns, name);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    if (text != null) e.textContent = text;
    return e;
  };
  const svg = node("svg", { viewBox: "0 0 " + W + " " + H, role: "img", style: "max-width:640px", "aria-label": "divergence against size" });
  const mostX = Math.max(...points.map((p) => p.size)) * 1.05, mostY = Math.max(1e-9, ...points.map((p) => p.kl)) * 1.1;
  const x = (v) => L + (W - L - R) * v / mostX, y = (v) => H - B - (H - T - B) * v / mostY;
  svg.append(node("line", { x1: L, y1: H - B, x2: W - R, y2: H - B, class: "axis" }), node("line", { x1: L, y1: T, x2: L, y2: H - B, class: "axis" }));
  for (let i = 0; i <= ticks; i++) {
    svg.append(node("text", { x: x(mostX * i / ticks), y: H - B + 16, "text-anchor": "middle", class: "soft" }, size(mostX * i / ticks)));
  }
  for (let i = 0; i <= 4; i++) {
    svg.append(node("line", { x1: L, y1: y(mostY * i / 4), x2: W - R, y2: y(mostY * i / 4), class: "axis", "stroke-dasharray": i ? "2 4" : "none" }));
    svg.append(node("text", { x: L - 6, y: y(mostY * i / 4) + 4, "text-anchor": "end", class: "soft" }, (mostY * i / 4).toPrecision(2)));
  }
  svg.append(node("text", { x: L, y: H - 6, class: "soft" }, "across: size of the file; up: KL, nats"));
  for (const p of points) {
    const dot = node("circle", { cx: x(p.size), cy: y(p.kl), r: 6, tabindex: 0, "aria-label": p.name });
    const tell = () => { const r = dot.getBoundingClientRect(); showTip(r.right, r.bottom, [el("b", {}, p.name), el("div", {}, size(p.size) + ", mean KL " + p.kl.toPrecision(3))]); };
    for (const event of ["mouseenter", "focus"]) dot.addEventListener(event, tell);
    for (const event of ["mouseleave", "blur"]) dot.addEventListener(event, () => showTip());
    const end = x(p.size) > W * 0.7;
    svg.append(dot, node("text", { x: x(p.size) + (end ? -10 : 10), y: y(p.kl) - 9, "text-anchor": end ? "end" : "start" }, p.name));
  }
  return svg;
}

main.append(el("h1", {}, "What did quantization change?"),
  el("p", { class: "soft" }, "against " + short(data[0].a) + " over " + data[0].n_tokens + " tokens"),
  reading("Both models read the same text, and at each token their distributions of the next one are compared. Mean KL is how surprised the second is, in nats, by what the first says: 0 is the same, 0.01 hardly to be noticed, 0.1 another model. Perplexity is how many tokens a model is torn between on average.",
    "Here: " + short(data[0].b) + " takes " + size(data[0].bytes_b) + " where " + short(data[0].a) + " takes " + size(data[0].bytes_a) + ", has a mean KL of " + data[0].kl_mean.toPrecision(3) + ", and prefers the same token in " + percent(data[0].same_top) + " of the places."));
const points = [{ name: short(data[0].a), size: data[0].bytes_a, kl: 0 }, ...data.map((c) => ({ name: short(c.b), size: c.bytes_b, kl: c.kl_mean }))];
main.append(el("div", { class: "split" }, el("section", { class: "panel" }, scatter(points)),
  table(["model", "size>", "mean KL>", "perplexity>", "same choice>", "tokens/s>"], [
    [short(data[0].a), size(data[0].bytes_a), "0", data[0].perplexity_a.toPrecision(5), "", fixed(data[0].speed_a, 1)],
    ...data.map((c) => [short(c.b), size(c.bytes_b), c.kl_mean.toPrecision(3) + " \u00b1 " + c.kl_error.toPrecision(1), c.perplexity_b.toPrecision(5), percent(c.same_top), fixed(c.speed_b, 1)])])));

for (const c of data) {
  const said = (choice) => el("code", {}, shown(choice.piece) + " " + percent(choice.prob));
  const parts = [el("h1", {}, short(c.b))];
  if (c.parting) {
    parts.push(el("h2", {}, "Where greedy texts part"), el("p", {}, el("code", {}, c.parting.prompt), " ", el("code", { class: "soft" }, c.parting.same),
      c.parting.a ? [" then ", el("code", {}, shown(c.parting.a.piece)), " or ", el("code", {}, shown(c.parting.b.piece))] : null,
      el("span", { class: "soft" }, c.parting.a ? "" : " (the same for " + c.parting.n_same + " tokens)")));
  }
  parts.push(el("h2", {}, "Where it got worst"), table(["KL>", "position>", "after", "first file says", "this one says", "text goes on"],
    c.worst.map((w) => [fixed(w.kl, 3), String(w.position), el("td", { class: "wide" }, "\u2026" + w.context), said(w.top_a), said(w.top_b), el("code", {}, shown(w.piece))])));
  if (c.swap && c.swap.length) {
    parts.push(el("h2", {}, "One tensor at a time"), el("p", { class: "soft" }, "mean KL, in nats, when only this tensor is this file\u2019s" + (data.length > 1 ? "; one scale for all files" : "")),
      bars(c.swap.map((s) => ({ id: "", piece: s.name, prob: s.kl_mean, logprob: NaN })), mostSwapped, "swaps"));
    parts[parts.length - 1].querySelectorAll(".number").forEach((cell, i) => { cell.textContent = c.swap[i].kl_mean.toPrecision(3); });
    parts[parts.length - 1].querySelectorAll("li").forEach((cell) => { cell.removeAttribute("title"); cell.style.gridTemplateColumns = "minmax(9em,16em) 1fr 5em"; });
  }
  parts.push(el("h2", {}, "Weights, worst first" + (c.tensors.length > 60 ? ": 60 of " + c.tensors.length : "")), !c.tensors.length ? el("p", {}, "No tensor differs.") : table(["relative error>", "tensor", "first", "this"],
    c.tensors.slice(0, 60).map((t) => [percent(t.error), el("code", {}, t.name), t.type_a, t.type_b])));
  main.append(el("section", { class: "panel", style: "margin-top:16px" }, parts));
}
{
  const c = data[0], worst = c.worst[0], text = worst ? worst.context : "The ball hit the bat, and";
  main.append(el("div", { style: "height:16px" }), further([
    ["what the first file expects where the other got worst", ["next", text], c.a], ["what the other expects there", ["next", text], c.b],
    ["after which layer it settles on that", ["lens", text], c.b], ["the words and parts that hangs on", ["why", text], c.b],
  ]));
}
