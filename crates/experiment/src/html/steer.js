const { twin } = twins();
const runs = data.runs, plain = runs[0];
const scaled = (run, i) => (i === 0 ? "without" : signed(run.scale, 2).replace(/\.?0+$/, "") + " \u00d7");
const layers = data.layers.length === 1 ? "layer " + data.layers[0] : "layers " + data.layers.join(", ");
const names = fileNames(data.files.map((f) => f.file));
const files = data.files.map((f, i) => names[i] + (f.scale === 1 ? "" : " \u00d7 " + f.scale)).join(" + ");

// All columns on one scale, with the same token in the same row.
const choices = [...new Map(runs.flatMap((run) => run.next.top.slice(0, 6)).map((c) => [c.id, c])).values()];
const prob = (run, id) => {
  const listed = [...run.next.top, ...(run.next.beside || [])].find((c) => c.id === id);
  return listed ? listed.prob : null;
};
const most = Math.max(0.01, ...runs.flatMap((run) => run.next.top.map((c) => c.prob)));
const bar = (p) => (p == null ? el("td", { class: "soft" }, "not among the first")
  : el("td", {}, el("span", { style: "display:inline-block;height:11px;border-radius:0 3px 3px 0;background:var(--accent);width:" + Math.max(1, 70 * p / most) + "px" }), " ", percent(p)));
const ordered = choices.sort((a, b) => (prob(plain, b.id) ?? 0) - (prob(plain, a.id) ?? 0));
const list = table(["token", ...runs.map(scaled)], ordered.map((c) => [el("code", {}, shown(c.piece)), ...runs.map((run) => bar(prob(run, c.id)))]));
const rows = [...list.querySelector("tbody").children];
rows.forEach((row, i) => { row.dataset.i = i; });
for (const row of list.querySelectorAll("tr")) runs.forEach((_, i) => twin("scale " + i, row.children[i + 1]));
const moves = table(["scale", "KL, nats>", "entropy, bits>"], runs.map((run, i) => [scaled(run, i), fixed(run.kl, 3), fixed(run.next.entropy_bits, 2)]));
[...moves.querySelector("tbody").children].forEach((row, i) => twin("scale " + i, row));
walk(list.querySelector("tbody"), rows, (i) => [el("b", {}, shown(ordered[i].piece)), el("div", {}, "token " + ordered[i].id),
  ...runs.map((run, k) => { const p = prob(run, ordered[i].id); return el("div", {}, scaled(run, k) + ": " + (p == null ? "not among the first" : percent(p))); })]);

const far = runs.slice(1).reduce((a, b) => (b.kl > a.kl ? b : a), runs[1] || plain);
const now = far.next.top[0], then = plain.next.top[0];
main.append(el("h1", {}, "What does it say when it is led along a direction?"),
  el("p", { class: "prompt", tabindex: 0 }, el("code", {}, data.prompt), el("span", { class: "soft" }, " _")));
if (!data.complete) main.append(el("p", {}, el("b", {}, "Stopped before its end: "), "what was computed by then is shown."));
main.append(reading(
  "The direction of " + files + " is added to the residual stream after " + layers + ", at every token, as many times as a column says. The first column is the model without it.",
  runs.length > 1 && then && now ? "Here: at " + scaled(far, 1) + " the likeliest token " + (now.id === then.id ? "is still " + shown(then.piece) + ", at " + percent(now.prob) + " in place of " + percent(then.prob)
    : "goes from " + shown(then.piece) + " (" + percent(then.prob) + ") to " + shown(now.piece) + " (" + percent(now.prob) + ")") + "; the distribution moves by " + fixed(far.kl, 2) + " nats, more than at any other scale shown." : null,
  "Where a text only repeats itself, the scale is too large for this model: the direction drowns what the prompt says."));
main.append(el("section", { class: "panel" }, el("h2", { style: "margin-top:0" }, "What comes next"), list,
  el("h2", {}, "How far the distribution moves"),
  moves,
  el("p", { class: "soft" }, "KL is D(without \u2016 with) of the next token.")));
if (runs.some((run) => run.text)) {
  main.append(el("h2", {}, "How it goes on"), el("div", { class: "columns" }, runs.map((run, i) =>
    twin("scale " + i, el("section", { class: "panel" }, el("p", { class: "soft" }, scaled(run, i)), el("div", { class: "text" }, el("span", { class: "soft" }, data.prompt), el("b", {}, run.text)))))));
}
const vectors = data.files.flatMap((f) => ["--control-vector", f.file + ":" + f.scale * (runs[1] ? runs[1].scale : 1)]);
main.append(el("div", { style: "height:16px" }), further([
  ["the text alone, as long as you like", ["complete", data.prompt, ...vectors]],
  ["what the answer hangs on without the vector", ["why", data.prompt]],
]));
