// Divergence against size: fixed recipes, and mixes that were chosen for their sizes.
const size = (bytes) => (bytes >= 2 ** 30 ? (bytes / 2 ** 30).toFixed(2) + " GiB" : (bytes / 2 ** 20).toFixed(1) + " MiB");
const LEAST = 1e-7;

// Two lines over a logarithmic scale; every point is told when the mouse is on it.
function chart(points) {
  const W = innerWidth < 560 ? 350 : 640, H = 360, L = 60, R = 20, T = 20, B = 44;
  const node = (name, attributes, text) => {
    const e = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    if (text != null) e.textContent = text;
    return e;
  };
  const svg = node("svg", { viewBox: "0 0 " + W + " " + H, role: "img", style: "max-width:680px", "aria-label": "divergence against size" });
  const sizes = points.flatMap((p) => [p.bytes, p.mix_bytes]), kls = points.flatMap((p) => [p.kl, p.mix_kl]).map((kl) => Math.log10(Math.max(kl, LEAST)));
  const x0 = Math.min(...sizes), x1 = Math.max(...sizes), y0 = Math.floor(Math.min(...kls)), y1 = Math.ceil(Math.max(...kls));
  const x = (v) => L + (W - L - R) * (v - x0) / Math.max(1, x1 - x0);
  const y = (kl) => H - B - (H - T - B) * (Math.log10(Math.max(kl, LEAST)) - y0) / Math.max(1, y1 - y0);
  for (let power = y0; power <= y1; power++) {
    const kl = 10 ** power;
    svg.append(node("line", { x1: L, y1: y(kl), x2: W - R, y2: y(kl), class: "axis" }), node("text", { x: L - 6, y: y(kl) + 4, "text-anchor": "end", class: "soft" }, String(Number(kl.toPrecision(1)))));
  }
  const ticks = W < 560 ? 2 : 4;
  for (let i = 0; i <= ticks; i++) {
    const at = x0 + (x1 - x0) * i / ticks;
    svg.append(node("text", { x: x(at), y: H - B + 16, "text-anchor": i === 0 ? "start" : i === ticks ? "end" : "middle", class: "soft" }, size(at)));
  }
  svg.append(node("text", { x: L, y: H - 6, class: "soft" }, "across: size of the file; up: mean KL, nats"));
  const series = [
    { name: "fixed recipe", bytes: "bytes", kl: "kl", style: "fill:var(--soft)", stroke: "stroke:var(--soft)" },
    { name: "chosen mix", bytes: "mix_bytes", kl: "mix_kl", style: "", stroke: "stroke:var(--accent)" },
  ];
  for (const one of series) {
    const sorted = [...points].sort((a, b) => a[one.bytes] - b[one.bytes]);
    svg.append(node("polyline", { points: sorted.map((p) => x(p[one.bytes]) + "," + y(p[one.kl])).join(" "), style: "fill:none;stroke-width:1.5;" + one.stroke }));
    for (const p of sorted) {
      const name = one.kl === "kl" ? p.recipe : "mix of the size of " + p.recipe;
      const dot = node("circle", { cx: x(p[one.bytes]), cy: y(p[one.kl]), r: 5, tabindex: 0, "aria-label": name, style: one.style });
      const tell = () => { const r = dot.getBoundingClientRect(); showTip(r.right, r.bottom, [el("b", {}, name), el("div", {}, size(p[one.bytes]) + ", mean KL " + p[one.kl].toPrecision(3))]); };
      for (const event of ["mouseenter", "focus"]) dot.addEventListener(event, tell);
      for (const event of ["mouseleave", "blur"]) dot.addEventListener(event, () => showTip());
      svg.append(dot);
    }
    // The lines fall, so there is room above the first point of one and below that of the other.
    const first = sorted[0], above = one.kl === "kl";
    svg.append(node("text", { x: x(first[one.bytes]) + (above ? 8 : -4), y: y(first[one.kl]) + (above ? -8 : 34), class: above ? "soft" : "" }, one.name));
  }
  return svg;
}

// The recipe that its mix betters most, as an example.
const example = [...data.points].sort((a, b) => a.mix_kl / Math.max(a.kl, LEAST) - b.mix_kl / Math.max(b.kl, LEAST))[0];
main.append(el("h1", {}, "What does each size cost?"),
  el("p", { class: "soft" }, data.positions.toLocaleString("en") + " predictions of " + data.text + "; types chosen on " + data.chosen_on),
  reading("Each file is compared with the checkpoint over the same text. The mean KL, in nats, is the divergence of the file\u2019s distribution of the next token from the checkpoint\u2019s; 0 is no difference. A fixed recipe gives the same types to every model. A mix has at most the recipe\u2019s size, and its types were chosen for this model by what they do to its predictions.",
    example ? "Here: at the size of " + example.recipe + ", " + size(example.bytes) + ", the recipe has a mean KL of " + example.kl.toPrecision(3) + " and the mix one of " + example.mix_kl.toPrecision(3) + "." : null),
  el("section", { class: "panel" }, data.points.length ? chart(data.points) : el("p", {}, "No recipe is as large as the smallest mix.")),
  table(["recipe", "size>", "bits/weight>", "mean KL>", "of a mix>", "change>"], data.points.map((p) => [
    p.recipe, size(p.bytes), fixed(p.bits_per_weight, 2), p.kl.toPrecision(3) + " \u00b1 " + p.kl_error.toPrecision(1),
    p.mix_kl.toPrecision(3) + " \u00b1 " + p.mix_kl_error.toPrecision(1), (p.mix_kl >= p.kl ? "+" : "\u2212") + Math.abs(100 * (p.mix_kl / Math.max(p.kl, LEAST) - 1)).toFixed(0) + " %"])));
