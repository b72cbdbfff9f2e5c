const { twin } = twins();
const T = shown(data.token.piece), U = data.against ? shown(data.against.piece) : null;
const rival = U || "the mean of all tokens";
const replaced = data.with === "mean" ? "set to its mean over the prompt" : "set to zero";
const measure = ["--token-id", String(data.token.id), ...(U ? ["--against-id", String(data.against.id)] : [])];

// Before and after on one scale, with the same token in the same row.
function beforeAfter() {
  const parts = data.parts.join(" + ");
  const choices = [...new Map([...data.before.top, ...data.after.top].map((c) => [c.id, c])).values()];
  const of = (next, id) => { const c = [...next.top, ...(next.beside || [])].find((x) => x.id === id); return c ? c.prob : null; };
  const before = (id) => of(data.before, id), after = (id) => of(data.after, id);
  const most = Math.max(...choices.map((c) => c.prob), 0.01);
  const bar = (p) => el("td", { style: "min-width:150px" }, p == null ? el("span", { class: "soft" }, "not among the first")
    : [el("span", { style: "display:inline-block;height:11px;border-radius:0 3px 3px 0;background:var(--accent);width:" + Math.max(1, 80 * p / most) + "px" }), " ", percent(p)]);
  const rows = choices.map((c) => [el("code", {}, shown(c.piece)), bar(before(c.id)), bar(after(c.id))]);
  const now = data.after.top[0], then = data.before.top[0];
  main.append(el("h1", {}, "What does it say without ", el("code", {}, parts), "?"),
    el("p", { class: "prompt", tabindex: 0 }, el("code", {}, data.prompt), el("span", { class: "soft" }, " _")),
    reading("The model reads the prompt twice: whole, and with " + parts + " " + replaced + ". What follows from what it writes then is computed anew.",
      "Here: " + shown(then.piece) + " (" + percent(then.prob) + ") becomes " + (now.id === then.id ? percent(now.prob) : shown(now.piece) + " (" + percent(now.prob) + ")") + "; the measure, " + T + " over " + rival + ", goes from " + signed(data.value, 2) + " to " + signed(data.without, 2) + " logits."),
    el("section", { class: "panel" }, el("div", { class: "answer" },
      el("div", {}, el("div", { class: "big" }, signed(data.change, 2)), el("div", { class: "soft" }, "logits, change of " + T + " over " + rival)),
      el("div", {}, el("div", { class: "big" }, fixed(data.kl, 4)), el("div", { class: "soft" }, "nats, KL(before \u2016 after)")),
      el("div", {}, el("div", { class: "big" }, fixed(data.before.entropy_bits, 2) + " \u2192 " + fixed(data.after.entropy_bits, 2)), el("div", { class: "soft" }, "bits, entropy"))),
      table(["token", "before", "without it"], rows)));
  for (const row of main.querySelectorAll("tr")) ["before", "after"].forEach((key, i) => twin(key, row.children[i + 1]));
  const walked = main.querySelector("tbody"), lines = [...walked.children];
  lines.forEach((line, i) => { line.dataset.i = i; });
  walk(walked, lines, (i) => [el("b", {}, shown(choices[i].piece)), el("div", {}, "token " + choices[i].id), el("div", {}, "before " + (before(choices[i].id) == null ? "\u2013" : percent(before(choices[i].id))) + ", without it " + (after(choices[i].id) == null ? "\u2013" : percent(after(choices[i].id))))]);
  if (data.text != null) {
    main.append(el("h2", {}, "What it then writes"), el("div", { class: "columns" }, [["before", "before", data.text_before], ["after", "without it", data.text]].map(([key, name, text]) =>
      twin(key, el("section", { class: "panel" }, el("p", { class: "soft" }, name), el("div", { class: "text" }, el("span", { class: "soft" }, data.prompt), el("b", {}, text == null ? "" : spelled(text))))))));
  }
  main.append(el("div", { style: "height:16px" }), further([
    ["which heads matter", ["ablate", data.prompt, "--all", "heads", ...measure]],
    ["the words and parts the answer hangs on", ["why", data.prompt, ...measure]],
  ]));
}

// Every part of a kind.
function ranking() {
  const parts = data.parts, top = parts[0];
  const kind = top.head != null ? "heads" : top.part.startsWith("attn") ? "attention blocks" : top.part.startsWith("mlp") ? "MLPs" : "layers";
  const describe = (p) => [el("b", {}, p.part), el("div", {}, "without it the measure is " + signed(p.without) + ", a change of " + signed(p.change)),
    el("div", {}, "KL(before \u2016 after) " + fixed(p.kl, 4) + " nats"), el("div", {}, "the model then says " + shown(p.says.piece) + " (" + percent(p.says.prob) + ")")];
  main.append(el("h1", {}, "Which " + kind + " does the answer hang on?"),
    el("p", { class: "prompt", tabindex: 0 }, el("code", {}, data.prompt), el("span", { class: "soft" }, " _")));
  if (!data.complete) main.append(el("p", {}, el("b", {}, "Stopped before its end: "), "what was tried by then is shown."));
  main.append(reading("Each of the " + parts.length + " " + kind + " is " + replaced + " once, at every token, and the model reads the prompt again. Blue ones speak for " + T + ": without them the measure, " + T + " over " + rival + ", falls. Orange ones speak for " + rival + ".",
    "Here: without " + top.part + " the measure goes from " + signed(data.value, 2) + " to " + signed(top.without, 2) + " logits, and the model says " + shown(top.says.piece) + " (" + percent(top.says.prob) + "). A part may look idle because another takes over when it is missing."));
  const panel = el("section", { class: "panel" });
  if (top.head != null) {
    const most = Math.abs(top.change) || 1, cells = [];
    const find = new Map(parts.map((p) => [p.part, p]));
    const layers = [...new Set(parts.map((p) => p.layer))].sort((a, b) => b - a), heads = 1 + Math.max(...parts.map((p) => p.head));
    const rows = layers.map((l) => el("tr", {}, el("th", { scope: "row" }, String(l)), Array.from({ length: heads }, (_, h) => {
      const p = find.get(l + "." + h);
      if (!p) return el("td", {}, "");
      const td = el("td", { "data-i": String(cells.length) }, Math.abs(p.change) > 0.25 * most ? signed(p.change, 1) : "");
      cells.push([td, p]);
      return tint(twin(p.part, td), sides, -p.change / most);
    })));
    const frame = el("div", { class: "scroll", role: "group", "aria-label": "layers by heads; arrow keys walk" }, el("table", { class: "cells" },
      el("thead", {}, el("tr", {}, el("th", { scope: "row" }, "layer"), Array.from({ length: heads }, (_, h) => el("th", { scope: "col" }, String(h))))), el("tbody", {}, rows)));
    walk(frame, cells.map((c) => c[0]), (i) => describe(cells[i][1]), null, heads);
    panel.append(frame, el("p", {}, legend("for " + rival, "for " + T, sides, -1), el("span", { class: "soft" }, "layers, the last on top; heads from 0; the change of the measure in logits")));
  } else {
    const order = [...parts].sort((a, b) => a.layer - b.layer);
    const list = signedList(order.map((p) => ({ name: p.part, value: p.change })), kind + " and how the measure changes without them", (i) => describe(order[i]));
    order.forEach((p, i) => twin(p.part, list.children[i]));
    panel.append(list);
  }
  const most = table(["part", "change, logits>", "without it>", "KL, nats>", "then says"], parts.slice(0, 20).map((p) => [el("code", {}, p.part), signed(p.change), signed(p.without), fixed(p.kl, 4), el("code", {}, shown(p.says.piece) + " " + percent(p.says.prob))]));
  [...most.querySelector("tbody").children].forEach((row, i) => twin(parts[i].part, row));
  main.append(panel, el("h2", {}, "Those that matter most"), el("section", { class: "panel" }, most),
  el("div", { style: "height:16px" }), further([
    ["what it says and writes without the first", ["ablate", data.prompt, "--part", top.part, "-n", "16", ...measure]],
    ["the words and parts the answer hangs on", ["why", data.prompt, ...measure]],
    ...(top.head != null ? [["where the heads of its layer look", ["attention", data.prompt, "--layer", String(top.layer)]]] : []),
  ]));
}

if (data.before) beforeAfter(); else ranking();
