const { twin } = twins();
const KINDS = {
  induction: { name: "induction", letter: "I", most: 1, what: "weight on the token that followed the same token before" },
  duplicate: { name: "duplicate token", letter: "D", most: 1, what: "weight on the same token in the first copy" },
  previous: { name: "previous token", letter: "P", most: 1, what: "weight on the token before" },
  first: { name: "first token", letter: "F", most: 1, what: "weight on the first token" },
  entropy_bits: { name: "entropy", letter: "", most: null, what: "bits: log2 of the number of tokens it could be spread over evenly" },
};
const said = data.last ? data : null;
const told = said && !data.writes_missing;
const layers = [...Array(data.layers).keys()].filter((l) => (data.first[l] || []).length);
const places = layers.flatMap((layer) => data.first[layer].map((_, head) => ({ layer, head })));
const name = (p) => p.layer + "." + p.head;
const score = (kind, p) => (data[kind][p.layer] || [])[p.head];
const number = (kind, x) => (kind === "entropy_bits" ? fixed(x, 2) + " bits" : percent(x));
const best = (kind) => places.reduce((a, b) => ((score(kind, b) ?? -1) > (score(kind, a) ?? -1) ? b : a), places[0]);
const lastOf = (p) => (said ? data.last[p.layer][p.head] : null);

// A few lines on what a head does.
function describe(p) {
  const lines = Object.entries(KINDS).map(([kind, k]) => el("div", {}, k.name + " " + number(kind, score(kind, p))));
  const last = lastOf(p);
  if (told) lines.push(el("div", {}, "adds " + signed(last.to_answer, 2) + " to ", el("code", {}, shown(data.answer.piece)), ", writes ", last.writes.slice(0, 3).map((w) => [el("code", {}, shown(w.piece)), " "])));
  return [el("b", {}, "layer " + p.layer + ", head " + p.head), ...lines];
}

// A map of all heads, coloured by one number of each.
// A model without induction heads would show an empty map of them.
const inducing = places.length > 0 && score("induction", best("induction")) >= 0.2;
let kind = told ? "to_answer" : inducing ? "induction" : "previous";
let chosen = told ? places.reduce((a, b) => (Math.abs(lastOf(b).to_answer) > Math.abs(lastOf(a).to_answer) ? b : a), places[0]) : best(kind);
const wide = Math.max(...layers.map((l) => data.first[l].length));
const items = places.map((p, i) => twin("head " + name(p), el("div", { "data-i": i })));
const grid = el("div", { class: "grid", role: "group", "aria-label": "heads of all layers; arrow keys walk, Enter shows one", style: "grid-template-columns:2.2em repeat(" + wide + ",minmax(6px,24px))" });
{
  let next = 0;
  grid.append(el("span"), ...Array.from({ length: wide }, (_, h) => el("span", { style: "text-align:center" }, wide <= 40 ? String(h) : "")));
  for (const l of layers) {
    grid.append(el("span", {}, String(l)), ...Array.from({ length: wide }, (_, h) => (h < data.first[l].length ? items[next++] : el("div"))));
  }
}
const key = el("span");
function paint() {
  const signs = kind === "to_answer";
  const value = (p) => (signs ? lastOf(p).to_answer : score(kind, p));
  const most = signs ? Math.max(1e-9, ...places.map((p) => Math.abs(value(p)))) : KINDS[kind].most || Math.max(1e-9, ...places.map(value));
  places.forEach((p, i) => {
    const c = signs ? sides(value(p) / most) : heat(value(p) / most);
    items[i].style.background = rgb(c);
    items[i].classList.toggle("shown", p === chosen);
  });
  key.replaceChildren(signs ? legend(signed(-most, 1), signed(most, 1) + " logits", sides, -1) : legend("0", kind === "entropy_bits" ? fixed(most, 1) + " bits" : "100 %"));
}
const options = [...(told ? [["to_answer", "what it adds to the answer"]] : []), ...Object.entries(KINDS).map(([k, v]) => [k, v.name])];
const [colour_, colouring] = select("Colour:", options, (value) => { kind = value; paint(); });
walk(grid, items, (i) => describe(places[i]), (i) => { chosen = places[i]; paint(); show(); }, wide);

// The heads with the highest score of a kind.
function leaders(k) {
  const order = [...places].filter((p) => score(k, p) != null).sort((a, b) => score(k, b) - score(k, a)).slice(0, 8);
  const items = order.map((p, i) => twin("head " + name(p), el("li", { "data-i": i },
    el("span", { class: "piece" }, name(p)),
    el("span", { class: "track" }, el("div", { class: "fill", style: "width:" + 100 * score(k, p) + "%" })),
    el("span", { class: "number" }, percent(score(k, p))))));
  const list = el("ol", { class: "bars", "aria-label": "heads that look most at " + KINDS[k].name }, items);
  walk(list, items, (i) => describe(order[i]), (i) => { chosen = order[i]; paint(); show(); });
  return el("section", { class: "panel" }, el("h2", { style: "margin-top:0" }, KINDS[k].name), el("p", { class: "soft" }, KINDS[k].what), list);
}

// One head at the last token of the prompt.
const one = el("section", { class: "panel", id: "one" });
function show() {
  if (!said) return;
  const last = lastOf(chosen), n = data.ids.length;
  const most = Math.max(1e-9, ...last.weights);
  const spans = data.pieces.map((piece, i) => tint(el("span", { "data-i": i }, written(piece, i, data.prompt)), heat, last.weights[i] / most));
  const text = el("div", { class: "text", role: "group", "aria-label": "tokens; arrow keys walk" }, spans);
  walk(text, spans, (i) => [el("b", {}, shown(data.pieces[i])), el("div", {}, "position " + i + ": " + percent(last.weights[i]) + " of its attention")]);
  const parts = [el("h2", { style: "margin-top:0" }, "Head " + name(chosen) + ": where it looks from ", el("code", {}, shown(data.pieces[n - 1]))), text];
  if (told) {
    const rows = last.writes.map((w) => ({ name: shown(w.piece), value: w.logit, id: w.id }));
    parts.push(el("h2", {}, "What it writes there"), signedList([{ name: shown(data.answer.piece), value: last.to_answer, id: data.answer.id }, ...rows.filter((r) => r.id !== data.answer.id)], "tokens it writes",
      (i) => { const r = [{ name: shown(data.answer.piece), value: last.to_answer, id: data.answer.id }, ...rows.filter((x) => x.id !== data.answer.id)][i]; return [el("b", {}, r.name), el("div", {}, "token " + r.id + ": " + signed(r.value) + " logits above the mean of the vocabulary")]; }),
      el("p", { class: "soft" }, "The answer first, then the tokens whose logits it raises most; logits above the mean of the vocabulary."));
  }
  one.replaceChildren(...parts);
}

// The heads that contribute most to the answer.
function movers() {
  const order = [...places].sort((a, b) => Math.abs(lastOf(b).to_answer) - Math.abs(lastOf(a).to_answer)).slice(0, 14);
  const rows = order.map((p) => ({ name: name(p), value: lastOf(p).to_answer }));
  const list = signedList(rows, "heads", (i) => { chosen = order[i]; paint(); show(); return describe(order[i]); });
  order.forEach((p, i) => twin("head " + name(p), list.children[i]));
  return el("section", { class: "panel" }, el("h2", { style: "margin-top:0" }, "Heads that add most to ", el("code", {}, shown(data.answer.piece)), ", or take most away"),
    list,
    el("p", { class: "soft" }, "Logits above the mean of the vocabulary, with the last norm as it was in this pass. Walking over a head shows it."));
}

const draws = (data.random || []).length;
const induction = best("induction"), what = score("induction", induction);
main.append(el("h1", {}, said ? "What do the heads do at the end of this prompt?" : "Which head does what?"));
if (said) main.append(el("p", { class: "prompt", tabindex: 0 }, el("code", {}, data.prompt), el("span", { class: "soft" }, " _ "), el("b", {}, shown(data.answer.piece)), " " + percent(data.answer.prob)));
if (!data.complete) main.append(el("p", {}, el("b", {}, "Stopped before its end: "), "what was computed by then is shown."));
main.append(reading(
  "A square is a head: layers downwards, heads to the right. For its scores the model read " + data.length + " random tokens twice over, " + (draws === 1 ? "once" : draws + " draws of them") + ": nothing in them means anything, so a head that looks back at what followed a token the first time copies patterns (an induction head).",
  places.length ? "Here: head " + name(induction) + " puts " + percent(what) + " of its attention on that token, the most of all" + (inducing ? "" : ", which is little: this model has no induction head") + ". Head " + name(best("previous")) + " looks at the token before with " + percent(score("previous", best("previous"))) + "." : null,
  told ? "At the end of the prompt a head's output, through its columns of the output matrix, the last norm as it was here and the unembedding, adds to every logit. Head " + name(chosen) + " adds " + signed(lastOf(chosen).to_answer, 2) + " to " + shown(data.answer.piece) + "." : null,
  "Much attention on the first token is what heads show that have nothing to do."));
if (data.writes_missing) main.append(el("p", { class: "soft" }, "What heads write is not told: " + data.writes_missing));
main.append(el("div", { class: "split", style: "align-items:start" },
  el("section", { class: "panel" }, el("div", { class: "tools", style: "margin-top:0" }, colour_, key), el("div", { class: "scroll" }, grid)),
  said ? one : leaders(kind)));
if (told) main.append(el("div", { style: "height:16px" }), movers());
main.append(el("div", { style: "height:16px" }), el("div", { class: "columns" }, ["induction", "duplicate", "previous", "first"].filter((k) => said || k !== kind).map(leaders)), el("div", { style: "height:16px" }));
const asked = said ? [
  ["what the model says without this head", ["ablate", data.prompt, "--part", name(chosen)]],
  ["where the heads of its layer look, token by token", ["attention", data.prompt, "--layer", String(chosen.layer), "--html", "attention.html"]],
  ["the words and parts the answer hangs on", ["why", data.prompt]],
] : [["what each head writes at the end of a prompt", ["heads", "The ball hit the bat, and", "--html", "heads.html"]]];
main.append(further(asked));
colouring.value = kind;
paint();
show();
dark.addEventListener("change", paint);
