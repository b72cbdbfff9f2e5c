const { mark, twin } = twins();
const heads = data.heads, columns = heads || data.positions;
const n = data.pairs.length;
const WHAT = { residual: "the residual stream after a layer", attention: "what a layer\u2019s attention adds", mlp: "what a layer\u2019s MLP adds", head: "the output of one head, at all positions" }[data.what];
const noisy = data.pairs.some((pair) => pair.noise);
document.title = n + (noisy ? " draws of noise" : " pairs") + " \u00b7 modelve patch";
const name = (j) => heads ? "head " + heads[j] : "position " + data.positions[j] + " (" + shown(data.pieces[j]) + " in the first)";
let best = null;
data.recovered.forEach((row, i) => row.forEach((s, j) => {
  const trivial = !heads && i === data.layers.length - 1;
  if (s != null && !trivial && (!best || s > best.s)) best = { s, i, j };
}));
main.append(el("h1", {}, "What one place restores, over " + n + (noisy ? " draws of noise" : " pairs of prompts")));
if (!data.complete) main.append(el("p", {}, el("b", {}, "Stopped before its end: "), "the pairs done by then are shown."));
main.append(reading("For each pair the model reads the corrupt prompt, and at one place " + WHAT + " is replaced with what the clean prompt has there. A cell is the mean share of the difference between the two that this restores. The mean lies within the interval beside it with 95 % confidence, if the pairs are a fair sample.",
  best ? "Here: " + name(best.j) + " in layer " + data.layers[best.i] + " restores " + share(best.s) + " on average" + (data.interval[best.i][best.j] == null ? "" : ", give or take " + share(data.interval[best.i][best.j])) + "." : null,
  data.alike.length ? "Left out because the model answers both prompts alike: pair " + data.alike.join(", ") + "." : null));
const cells = [];
const rows = data.layers.map((_, i) => i).reverse().map((i) => el("tr", {}, el("th", { scope: "row" }, String(data.layers[i])), columns.map((_, j) => {
  const s = data.recovered[i] ? data.recovered[i][j] : null;
  const td = el("td", { "data-i": String(cells.length) }, s == null || Math.abs(s) < 0.005 ? "" : share(s));
  cells.push({ td, i, j, s });
  // Values whose interval includes zero are faint.
  const unsure = data.interval[i] && data.interval[i][j] != null && Math.abs(s) < data.interval[i][j];
  if (unsure) td.style.opacity = ".55";
  return twin("column " + j, s == null ? td : tint(td, sides, s));
})));
const frame = el("div", { class: "scroll", role: "group", "aria-label": "layers by columns; arrow keys walk" }, el("table", { class: "cells" },
  el("thead", {}, el("tr", {}, el("th", { scope: "row" }, "layer"), columns.map((c, j) => twin("column " + j, el("th", { scope: "col" }, heads ? String(c) : el("code", {}, shown(data.pieces[j]))))))), el("tbody", {}, rows)));
walk(frame, cells.map((c) => c.td), (k) => {
  const { i, j, s } = cells[k];
  const half = data.interval[i] ? data.interval[i][j] : null;
  return [el("b", {}, name(j) + ", layer " + data.layers[i]), el("div", {}, "mean " + share(s) + (half == null ? "" : ", 95 % interval " + share(s - half) + " to " + share(s + half)))];
}, null, columns.length);
main.append(el("section", { class: "panel" }, frame, el("p", {}, legend("\u2212100 %: further away", "100 %: all of it back", sides, -1),
  el("span", { class: "soft" }, "layers, the last on top; faint where the interval holds 0"))),
el("h2", {}, noisy ? "The draws" : "The pairs"), el("section", { class: "panel" }, table(["", "clean", noisy ? "noise" : "corrupt", "measured", "clean, logits>", "corrupt, logits>"],
  data.pairs.map((p, i) => [String(i + 1), el("td", { class: "wide" }, p.clean), el("td", { class: "wide" }, p.noise ? p.noise.scale + " deviations, seed " + p.noise.seed : p.corrupt),
    el("code", {}, shown(p.token.piece) + (p.against ? " over " + shown(p.against.piece) : "")), signed(p.clean_value, 2), signed(p.corrupt_value, 2)]))));
{
  const first = data.pairs[0];
  const both = (pair) => pair.noise ? [pair.clean, "--noise", String(pair.noise.scale), "--noised", pair.noise.positions.join(","), "--seed", String(pair.noise.seed)] : [pair.clean, pair.corrupt];
  const measured = (pair) => ["--token-id", String(pair.token.id), ...(pair.against ? ["--against-id", String(pair.against.id)] : [])];
  if (first) main.append(el("div", { style: "height:16px" }), further([
    ["the first " + (noisy ? "draw" : "pair") + " alone", ["patch", ...both(first), "--what", data.what, ...measured(first)]],
    ["the words its clean answer hangs on", ["why", first.clean, ...measured(first)]],
  ]));
}
