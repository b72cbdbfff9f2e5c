const { mark, twin } = twins();
const T = shown(data.token.piece), U = data.against ? shown(data.against.piece) : null;
const rival = U || "the mean of all tokens";
const WHAT = {
  residual: ["the residual stream after a layer", "the residual stream after layer "],
  attention: ["what a layer\u2019s attention adds", "what attention adds in layer "],
  mlp: ["what a layer\u2019s MLP adds", "what the MLP adds in layer "],
  head: ["the output of one head, at all positions", "what it gives: head "],
}[data.what];
const heads = data.heads, columns = heads || data.positions;
const difference = data.clean_value - data.corrupt_value;
const pairs = data.n != null;

main.append(el("h1", {}, "Where do these two part: ", el("code", {}, T), U ? [" or ", el("code", {}, U)] : null, "?"));
if (!data.complete) main.append(el("p", {}, el("b", {}, "Stopped before its end: "), "cells without a number were not computed."));

// The two prompts, token under token, with differences marked.
const clean = new Map(data.positions.map((at, i) => [at, data.clean_positions[i]]));
const tellOthers = linked((position) => { if (!heads) data.positions.forEach((_, c) => mark("column " + c, data.clean_positions[c] === position)); });
const columnOf = new Map(data.positions.map((at, i) => [at, i]));
const columnOfClean = new Map(data.clean_positions.map((at, i) => [at, i]));
function sentence(pieces, text, column, differs) {
  return el("div", { class: "text marks", style: "max-height:6em" }, pieces.map((piece, t) => {
    const c = column.get(t);
    const node = el("span", { class: differs(t) ? "differs" : null }, written(piece, t, text));
    return c === undefined || heads ? node : twin("column " + c, node);
  }));
}
const differsAt = (at) => !clean.has(at) || data.clean_ids[clean.get(at)] !== data.corrupt_ids[at];
const noisy = new Set(data.noise ? data.noise.positions : []);
const side = (name, pieces, text, column, differs, value, top) => el("section", { class: "panel" },
  el("h2", { style: "margin-top:0" }, name), sentence(pieces, text, column, differs),
  el("div", { class: "answer" }, el("div", {}, el("div", { class: "big" }, signed(value, 2)), el("div", { class: "soft" }, "logits, " + T + " over " + rival))),
  bars(top, Math.max(0.05, ...[...data.clean_top, ...data.corrupt_top].map((c) => c.prob)), "likeliest tokens"));
const differsClean = (t) => { const c = columnOfClean.get(t); return c === undefined ? !heads : differsAt(data.positions[c]); };
main.append(el("div", { class: "columns" },
  side("Clean", data.clean_pieces, data.clean, columnOfClean, data.noise ? () => false : differsClean, data.clean_value, data.clean_top),
  side(data.noise ? "Corrupt: the same with noise of " + data.noise.scale + " standard deviations on what is marked" : "Corrupt", data.corrupt_pieces, data.corrupt, columnOf, data.noise ? (t) => noisy.has(t) : differsAt, data.corrupt_value, data.corrupt_top)));
if (data.unaligned) main.append(el("p", { class: "soft" }, data.unaligned[0].toUpperCase() + data.unaligned.slice(1) + ": these have no column."));
if (data.doubt) main.append(el("p", {}, el("b", {}, "A small difference: "), data.doubt + "."));

// The cell that restores most, for the explanation.
let best = null;
data.recovered.forEach((row, i) => row.forEach((s, j) => {
  const trivial = !heads && data.positions[j] === data.corrupt_ids.length - 1 && i === data.layers.length - 1;
  if (s != null && !trivial && (!best || s > best.s)) best = { s, i, j };
}));
const place = (i, j) => heads ? "head " + heads[j] + " of layer " + data.layers[i]
  : WHAT[1] + data.layers[i] + " at " + shown(data.corrupt_pieces[data.positions[j]]) + " (position " + data.positions[j] + ")";
const told = Number.isFinite(difference) && difference !== 0;
main.append(el("h2", {}, "What one place restores"),
  reading("The model reads the corrupt prompt, and at one place " + WHAT[0] + " is replaced with what the clean prompt has there. A cell tells what share of the difference in the measure, from " + signed(data.corrupt_value, 2) + " to " + signed(data.clean_value, 2) + " logits, is restored by that: 100 % is the clean prompt\u2019s answer, 0 % changes nothing, and below 0 it drives the answer further away.",
    best && told ? "Here: with " + place(best.i, best.j) + " replaced the measure is " + signed(data.values[best.i][best.j], 2) + ", " + share(best.s) + " of the way" + (data.top[best.i][best.j].length ? ", and the model says " + shown(data.top[best.i][best.j][0].piece) + " (" + percent(data.top[best.i][best.j][0].prob) + ")" : "") + "." : told ? null : "Here both prompts give the same measure, so that there is no share to tell.",
    heads ? "A head that restores much carries what tells the prompts apart, by what it read of them or by what it writes." : "Read it from below: where a bright column ends and another begins, the difference moves from one token to the other between those layers, and attention carries it. Before the first token that differs, and in the last layer but at the last token, nothing can be restored."));

// The map: rows are layers, the last at the top.
const cells = [];
const title = (j) => heads ? String(heads[j]) : null;
const headRow = (name, pieces, at, differs) => el("tr", {}, el("th", { scope: "row" }, name), columns.map((_, j) => {
  const th = el("th", { scope: "col", class: differs(j) ? "differs" : null, title: spelled(pieces[at(j)]) }, el("code", {}, shown(pieces[at(j)])));
  return twin("column " + j, th);
}), data.together ? el("th", { scope: "col" }, name === "corrupt" ? "all" : "") : null);
const thead = el("thead", {}, heads
  ? el("tr", {}, el("th", { scope: "row" }, "layer"), columns.map((_, j) => twin("column " + j, el("th", { scope: "col" }, title(j)))), data.together ? el("th", { scope: "col" }, "all") : null)
  : [data.noise ? null : headRow("clean", data.clean_pieces, (j) => data.clean_positions[j], (j) => differsAt(data.positions[j])),
    headRow("corrupt", data.corrupt_pieces, (j) => data.positions[j], (j) => data.noise ? noisy.has(data.positions[j]) : differsAt(data.positions[j]))]);
const order = data.layers.map((_, i) => i).reverse();
const tbody = el("tbody", {}, order.map((i) => el("tr", {}, el("th", { scope: "row" }, String(data.layers[i])),
  columns.map((_, j) => {
    const s = data.recovered[i][j];
    const td = el("td", { "data-i": String(cells.length) }, s == null || Math.abs(s) < 0.005 ? "" : share(s));
    cells.push({ td, i, j });
    return twin("column " + j, s == null ? td : tint(td, sides, s));
  }),
  data.together ? tint(el("td", { style: "cursor:default" }, share(data.together[i])), sides, data.together[i]) : null)));
const frame = el("div", { class: "scroll", role: "group", "aria-label": "layers by " + (heads ? "heads" : "tokens") + "; arrow keys walk, Enter pins" }, el("table", { class: "cells" }, thead, tbody));
const detail = el("section", { class: "panel", id: "detail", style: "margin-top:14px", "aria-live": "polite" });
const shortBars = (choices, most) => bars(choices, most, "likeliest tokens");
function describe(k) {
  const { i, j } = cells[k];
  const s = data.recovered[i][j];
  if (s == null && data.values[i][j] == null) return [el("b", {}, place(i, j)), el("div", {}, "not computed")];
  const most = Math.max(...[...data.corrupt_top, ...data.top[i][j]].map((c) => c.prob), 0.05);
  return [el("b", {}, place(i, j)), el("div", {}, "measure " + signed(data.values[i][j]) + ", " + share(s) + " back"),
    el("div", { class: "soft" }, "before"), shortBars(data.corrupt_top.slice(0, 3), most), el("div", { class: "soft" }, "with the clean value"), shortBars(data.top[i][j].slice(0, 3), most)];
}
let pinned = null;
function pin(k, told) {
  const { i, j, td } = cells[k];
  if (!heads && !told) tellOthers(data.clean_positions[j]);
  if (pinned) pinned.classList.remove("pinned");
  pinned = td;
  td.classList.add("pinned");
  // The tokens that are likely for any of the three, on one scale and with the same token in the
  // same row.
  const here = data.top[i][j], both = new Map(data.tokens.map((t) => [t.id, t]));
  const ids = [...new Map([...data.clean_top, ...here, ...data.corrupt_top].map((c) => [c.id, c])).values()];
  const listed = (list, id) => { const c = list.find((x) => x.id === id); return c ? c.prob : null; };
  const kept = data.probs[i][j], replaced = (id) => listed(here, id) ?? (kept.length ? kept[data.followed.indexOf(id)] ?? null : null);
  const three = [(id) => listed(data.clean_top, id) ?? (both.has(id) ? both.get(id).clean_prob : null), replaced,
    (id) => listed(data.corrupt_top, id) ?? (both.has(id) ? both.get(id).corrupt_prob : null)];
  const most = Math.max(...ids.flatMap((c) => three.map((of) => of(c.id) || 0)), 0.01);
  const bar = (p) => el("td", {}, p == null ? el("span", { class: "soft" }, "not computed") : [el("span", { style: "display:inline-block;height:11px;border-radius:0 3px 3px 0;background:var(--accent);width:" + Math.max(1, 90 * p / most) + "px" }), " ", percent(p)]);
  detail.replaceChildren(el("h1", {}, place(i, j)[0].toUpperCase() + place(i, j).slice(1)),
    el("p", { class: "soft" }, "replaced with the clean prompt\u2019s: measure " + signed(data.values[i][j]) + " logits, " + share(data.recovered[i][j]) + " of the difference is back"),
    table(["token", "clean", "corrupt with the clean value here", "corrupt"], ids.map((c) => [el("code", {}, shown(c.piece)), ...three.map((of) => bar(of(c.id)))])));
}
walk(frame, cells.map((c) => c.td), describe, pin, columns.length);
main.append(el("section", { class: "panel" }, frame,
  el("p", {}, legend("\u2212100 %: further away", "100 %: all of it back", sides, -1), el("span", { class: "soft" }, "layers, the last on top; " + (heads ? "heads from 0" : "tokens as they stand")))), detail);
if (best) pin(cells.findIndex((c) => c.i === best.i && c.j === best.j), true);

const against = U ? ["--against-id", String(data.against.id)] : [];
const measure = ["--token-id", String(data.token.id), ...against];
const both = data.noise ? [data.clean, "--noise", String(data.noise.scale), "--noised", data.noise.positions.join(","), "--seed", String(data.noise.seed)] : [data.clean, data.corrupt];
main.append(el("div", { style: "height:16px" }), further([
  heads ? ["which token and layer it passes through", ["patch", ...both, ...measure]] : ["which heads carry it", ["patch", ...both, "--what", "head", ...measure]],
  ...(data.what === "attention" ? [] : [["what attention moves between tokens", ["patch", ...both, "--what", "attention", ...measure]]]),
  ["the words the clean answer hangs on", ["why", data.clean, ...measure]],
  ["what each layer would say", ["lens", data.corrupt, "--token", String(data.token.id)]],
]));
