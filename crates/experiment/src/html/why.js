const { mark, twin } = twins();
const T = shown(data.token.piece), U = data.against ? shown(data.against.piece) : null;
const rival = U || "the mean of all tokens";

// 1. The answer.
const tops = bars(data.top, data.top.length ? data.top[0].prob : 1, "likeliest tokens");
main.append(el("h1", {}, "Why ", el("code", {}, T), U ? [" and not ", el("code", {}, U)] : null, "?"),
  el("p", { class: "prompt", tabindex: 0 }, el("code", {}, data.prompt), el("span", { class: "soft" }, " _")));
if (!data.complete) main.append(el("p", {}, el("b", {}, "Stopped before its end: "), "what was computed by then is shown."));
const cap = data.soft_cap ? " This model caps its logits at " + data.soft_cap + "; the measure is taken before that cap, where it is a sum." : "";
main.append(el("section", { class: "panel" }, el("div", { class: "answer" },
  el("div", {}, el("div", { class: "big" }, signed(data.value, 2)), el("div", { class: "soft" }, "logits, " + T + " over " + rival)),
  el("div", { style: "flex:1 1 260px;min-width:0" }, tops)),
  el("p", { class: "soft" }, U
    ? "The model prefers " + T + " to " + U + " by this much: a factor of " + (Math.exp(Math.abs(data.value)) < 1e6 ? Math.exp(Math.abs(data.value)).toPrecision(3) : Math.exp(Math.abs(data.value)).toExponential(1)) + (data.value < 0 ? ", the other way round," : "") + " in probability." + cap
    : "How far the logit of " + T + " lies above the mean of the vocabulary. Its probability is " + percent(Math.exp(data.logprob)) + ", its log-probability " + fixed(data.logprob, 3) + "." + cap)));

// 2. The words.
const words = data.words;
const strongest = words.reduce((a, w) => (!a || Math.abs(w.change) > Math.abs(a.change) ? w : a), null);
if (words.length) {
  const most = Math.abs(strongest.change) || 1;
  const byToken = new Map();
  words.forEach((w, i) => { for (let t = w.from; t < w.to; t++) byToken.set(t, i); });
  const spans = [];
  const text = el("div", { class: "text marks", role: "group", "aria-label": "the prompt, coloured by what each word does; arrow keys walk the words" });
  for (let t = 0; t < data.ids.length; t++) {
    const i = byToken.get(t);
    if (i === undefined) { text.append(el("span", { class: "soft" }, written(data.pieces[t], t, data.prompt))); continue; }
    if (t > words[i].from) continue;
    // The measure falls without a word that supports the answer.
    const span = el("span", { "data-i": i }, written(words[i].text, t, data.prompt));
    tint(span, sides, -words[i].change / most);
    twin("word " + i, span);
    spans.push([i, span]);
    text.append(span);
  }
  spans.sort((a, b) => a[0] - b[0]);
  const tellOthers = linked((position) => spans.forEach(([i, span]) => span.classList.toggle("marked", words[i].from <= position && position < words[i].to)));
  const describe = (i) => {
    const w = words[i];
    return [el("b", {}, shown(w.text)), el("div", {}, "speaks " + (w.change < 0 ? "for " + T : "for " + rival) + ": without it " + signed(w.without) + " in place of " + signed(data.value)),
      el("div", {}, "the model then says " + shown(w.says.piece) + " (" + percent(w.says.prob) + ")")];
  };
  walk(text, spans.map((s) => s[1]), describe, (i) => tellOthers(words[i].to - 1));
  const order = words.map((_, i) => i).sort((a, b) => Math.abs(words[b].change) - Math.abs(words[a].change)).slice(0, 12).sort((a, b) => a - b);
  const list = signedList(order.map((i) => ({ name: shown(words[i].text), value: -words[i].change })), "words by what they do", (k) => describe(order[k]));
  order.forEach((i, k) => twin("word " + i, list.children[k]));
  main.append(el("h2", {}, "The words it hangs on"),
    reading("Each word is left out once, with the blank before it, and the model reads the rest. Blue words speak for " + T + ", orange ones for " + rival + "; the bars tell by how many logits.",
      "Here: without " + shown(strongest.text) + " the measure is " + signed(strongest.without, 2) + " in place of " + signed(data.value, 2) + ", and the model would say " + shown(strongest.says.piece) + " (" + percent(strongest.says.prob) + "). Leaving a word out also makes a text that nobody would write: what changes is not the word\u2019s meaning alone."),
    el("section", { class: "panel" }, text, el("p", {}, legend("for " + rival, "for " + T, sides, -1)), list));
}

// 3. The parts.
const parts = data.parts.map((p, i) => ({ ...p, order: i }));
if (parts.length) {
  const SHOWN = 16;
  const ranked = [...parts].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const box = el("div");
  const kinds = { embed: "the embedding of the last token", mlp: "MLP", attn: "attention", bias: "bias" };
  const spelledPart = (p) => p.head != null ? "head " + p.head + " of layer " + p.layer
    : p.part === "embed" ? kinds.embed : p.part === "bias.final" ? "the bias of the last norm and the output"
    : kinds[p.part.split(".")[0]] + " of layer " + p.layer;
  const describePart = (p) => [el("b", {}, p.part), el("div", {}, spelledPart(p)), el("div", {}, signed(p.value) + " logits for " + (p.value < 0 ? rival : T))];
  const proofOf = new Map(data.proof.map((p) => [p.part, p]));
  const tipOf = (p) => proofOf.has(p.part) ? [...describePart(p), el("div", {}, "set to zero at every token: the measure changes by " + signed(proofOf.get(p.part).change))] : describePart(p);
  const largest = () => {
    let running = 0;
    const kept = ranked.slice(0, SHOWN), rest = ranked.slice(SHOWN);
    const rows = kept.map((p) => ({ name: p.part, value: p.value, after: (running += p.value), p }));
    if (rest.length) { const value = rest.reduce((s, p) => s + p.value, 0); rows.push({ name: rest.length + " others", value, after: (running += value) }); }
    rows.push({ name: "not told", value: data.error, after: running + data.error });
    rows.push({ name: "measure", value: data.value, total: true });
    return signedList(rows, "the largest parts, each beginning where the one above ended", (i) => rows[i].p ? tipOf(rows[i].p)
      : [el("b", {}, rows[i].name), el("div", {}, signed(rows[i].value) + " logits")]);
  };
  const layered = () => {
    const rows = [];
    const embed = parts.find((p) => p.part === "embed"), last = parts.find((p) => p.part === "bias.final");
    let running = 0;
    const add = (name, value) => rows.push({ name, value, after: (running += value) });
    if (last) add("bias.final", last.value);
    add("embed", embed.value);
    for (const l of data.layers) { add("attn." + l.layer, l.attention); add("mlp." + l.layer, l.mlp); }
    rows.push({ name: "not told", value: data.value - running, after: data.value });
    rows.push({ name: "measure", value: data.value, total: true });
    return signedList(rows, "layer by layer, each beginning where the one above ended", (i) => [el("b", {}, rows[i].name), el("div", {}, signed(rows[i].value) + " logits"), el("div", {}, rows[i].after == null ? "" : "with all before it " + signed(rows[i].after))]);
  };
  const grid = () => {
    const heads = Math.max(0, ...parts.map((p) => (p.head != null ? p.head + 1 : 0)));
    const most = Math.abs(ranked[0].value) || 1;
    const find = new Map(parts.map((p) => [p.part, p]));
    const cells = [];
    const cell = (p) => {
      if (!p) return el("td", { style: "cursor:default" }, "");
      const td = el("td", { "data-i": cells.length }, Math.abs(p.value) > 0.25 * most ? signed(p.value, 1) : "");
      cells.push([td, p]);
      return tint(td, sides, p.value / most);
    };
    const rows = [...data.layers].reverse().map((l) => el("tr", {}, el("th", { scope: "row" }, String(l.layer)),
      Array.from({ length: heads }, (_, h) => cell(find.get(l.layer + "." + h))),
      cell(find.get("attn." + l.layer) || find.get("bias." + l.layer)), cell(find.get("mlp." + l.layer))));
    const t = el("table", { class: "cells" }, el("thead", {}, el("tr", {}, el("th", { scope: "row" }, "layer"),
      Array.from({ length: heads }, (_, h) => el("th", { scope: "col" }, String(h))), el("th", { scope: "col" }, find.has("bias.0") ? "bias" : ""), el("th", { scope: "col" }, "MLP"))), el("tbody", {}, rows));
    const frame = el("div", { class: "scroll" }, t);
    walk(frame, cells.map((c) => c[0]), (i) => tipOf(cells[i][1]), null, heads + 1);
    return el("div", {}, frame, el("p", {}, legend("for " + rival, "for " + T, sides, -1)));
  };
  const views = { largest: ["the largest parts", largest], map: ["a map of layers and heads", grid], layers: ["layer by layer", layered] };
  const [label] = select("Show", Object.entries(views).map(([k, v]) => [k, v[0]]), (k) => box.replaceChildren(views[k][1]()));
  box.replaceChildren(largest());
  const top = ranked[0];
  main.append(el("h2", {}, "The parts of the model it is the sum of"),
    reading("At the last token the model adds up what its embedding, every head and every MLP write, norms that sum, and compares it with " + T + " and " + (U || "all tokens") + ". With the norm\u2019s scale as it is here, each of them contributes a number, and the numbers add up to the measure.",
      "Here: " + spelledPart(top) + " (" + top.part + ") contributes " + signed(top.value, 2) + ", the most of " + parts.length + " parts. All of them make " + signed(data.sum) + " of " + signed(data.value) + "; " + signed(data.error) + " is not told by the sum, mostly what quantized arithmetic rounds away. In the list each bar begins where the one above it ended.",
      "A part that writes for an answer need not have found it: it may pass on what earlier parts put together."),
    el("section", { class: "panel" }, el("div", { class: "tools" }, label), box, data.notes.map((n) => el("p", { class: "soft" }, n))));
} else {
  main.append(el("h2", {}, "The parts of the model it is the sum of"), el("section", { class: "panel" }, data.notes.map((n) => el("p", {}, "Not told: " + n))));
}

// 4. The proof.
if (data.proof.length) {
  const single = data.proof.filter((p) => !p.part.includes(" + "));
  const apart = (p) => Math.abs(p.contribution + p.change_last) > 0.5 * Math.abs(p.contribution);
  const odd = single.filter(apart);
  const rows = data.proof.map((p) => ({ p, name: p.part.includes(" + ") ? "all " + single.length : p.part }));
  const shownRows = rows.flatMap(({ p, name }) => [
    { name, value: p.contribution, p, what: "contributes" },
    { name: "\u2002at the end", value: -p.change_last, p, what: "lost without it at the last token" },
    { name: "\u2002everywhere", value: -p.change, p, what: "lost without it at every token" }]);
  const list = signedList(shownRows, "contributions and what is really lost", (i) => {
    const { p, what, value } = shownRows[i];
    return [el("b", {}, p.part), el("div", {}, what + ": " + signed(value)), el("div", {}, "without it everywhere the model says " + shown(p.says.piece) + " (" + percent(p.says.prob) + ")")];
  });
  const eg = odd[0] || single[0];
  main.append(el("h2", {}, "The proof: without them"),
    reading("A contribution is what a part writes; it is not yet what depends on it. So each of the largest parts is set to zero, and the measure is computed again: with the part at zero at the last token, and with it at zero at every token. The three bars of a part are what it contributes and what is really lost.",
      "Here: " + eg.part + " contributes " + signed(eg.contribution, 2) + ", and without it at the last token " + signed(-eg.change_last, 2) + " is lost" +
      (odd.includes(eg) ? ". The two disagree: later parts, and the scale of the norms, answer to what is missing." : ", at every token " + signed(-eg.change, 2) + ". The two agree: nothing behind it makes up for it.")),
    el("section", { class: "panel" }, list,
      el("p", { class: "soft" }, odd.length ? "Contribution and loss differ by more than half for " + odd.map((p) => p.part).join(", ") + "." : "For each of these parts contribution and loss agree within half of it.")));
}

const against = U ? ["--against-id", String(data.against.id)] : [];
main.append(el("div", { style: "height:16px" }), further([
  ["after which layer it settles on the answer", ["lens", data.prompt, "--token", String(data.token.id)]],
  ["where the heads look", ["attention", data.prompt]],
  ["every head set to zero, one by one", ["ablate", data.prompt, "--all", "heads", "--token-id", String(data.token.id), ...against]],
  ...(strongest ? [["through which places the strongest word acts", ["patch", data.prompt, "--noise", "3", "--noised", Array.from({ length: strongest.to - strongest.from }, (_, k) => strongest.from + k).join(","), "--token-id", String(data.token.id), ...against]]] : []),
]));
