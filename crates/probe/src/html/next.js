const { mark, twin } = twins();
// A branch with continuations can be folded.
function branch(node) {
  const line = [el("code", {}, shown(node.piece)), " " + percent(node.prob) + " ",
    el("span", { class: "soft" }, "together " + percent(Math.exp(node.joint_logprob)))];
  if (!(node.branches || []).length) return el("li", {}, line);
  return el("li", {}, el("details", { open: true }, el("summary", {}, line), el("ul", {}, node.branches.map(branch))));
}

// Prompts side by side, on one scale, with the same token in the same row.
const several = data.length > 1;
const shared = [...new Map(data.flatMap((next) => next.top).map((c) => [c.id, c])).values()];
const most = Math.max(1e-9, ...data.flatMap((next) => next.top.map((c) => c.prob)));
function rowsOf(next, n) {
  if (!several) return next.top;
  const own = new Map([...next.top, ...(next.beside || [])].map((c) => [c.id, c]));
  const moved = new Map((n > 0 ? next.moved || [] : data.slice(1).flatMap((other) => other.moved || [])).map((m) => [m.id, n > 0 ? m.prob : m.prob_first]));
  return shared.map((c) => own.get(c.id) || { id: c.id, piece: c.piece, prob: moved.has(c.id) ? moved.get(c.id) : null });
}

const first = data[0];
main.append(el("h1", {}, "What comes next?"),
  reading("Each bar is the probability of one next token, of the whole vocabulary and before temperature. A dot is a space" +
      (several ? "; the same token stands in the same row, on one scale." : "."),
    first && first.top.length ? "Here: after \u201c" + (first.prompt.length > 40 ? "\u2026" : "") + first.prompt.slice(-40) + "\u201d the model expects " + shown(first.top[0].piece) + " with " + percent(first.top[0].prob) +
      ". Its entropy of " + fixed(first.entropy_bits, 2) + " bits is that of " + fixed(Math.pow(2, first.entropy_bits), first.entropy_bits < 3.4 ? 1 : 0) + " equally likely tokens." : null));
main.append(el("div", { class: "columns" }, data.map((next, n) => {
  let sum = 0;
  const rows = rowsOf(next, n);
  const list = bars(rows, most, "likeliest tokens");
  const describe = (i) => {
    const c = rows[i], at = next.top.findIndex((own) => own.id === c.id);
    if (at < 0) return [el("b", {}, shown(c.piece)), el("div", {}, "token " + c.id + ", not among the first " + next.top.length), el("div", {}, c.prob == null ? "" : percent(c.prob))];
    const mass = next.top.slice(0, at + 1).reduce((s, t) => s + t.prob, 0);
    return [el("b", {}, shown(c.piece)), el("div", {}, "token " + c.id + ", number " + (at + 1)),
      el("div", {}, percent(c.prob) + ", log-probability " + fixed(c.logprob, 4)),
      el("div", {}, "with those likelier " + percent(mass))];
  };
  const items = [...list.children];
  items.forEach((item, i) => { item.dataset.i = i; item.removeAttribute("title"); twin("token " + rows[i].id, item); });
  walk(list, items, describe);
  next.top.forEach((c) => { sum += c.prob; });
  const parts = [el("h1", {}, next.prompt, el("span", { class: "soft" }, " _")), list,
    el("p", { class: "soft" }, "entropy " + fixed(next.entropy_bits, 2) + " bits, like " +
      fixed(Math.pow(2, next.entropy_bits), next.entropy_bits < 3.4 ? 1 : 0) + " equal tokens; shown: " + percent(sum))];
  if (next.candidates.length) {
    parts.push(el("h2", {}, "Candidates"), table(["text", "probability>", "log>", "rank>"],
      next.candidates.map((c) => [el("code", {}, c.pieces.map(shown).join("|")), percent(c.prob), fixed(c.logprob, 3),
        c.ids.length > 1 ? c.rank + " (first)" : String(c.rank)])));
  }
  if (next.moved) {
    parts.push(el("h2", {}, "Moved most since the first prompt"), table(["token", "before>", "here>"],
      next.moved.map((m) => [el("code", {}, shown(m.piece)), percent(m.prob_first),
        el("span", { style: "color:var(" + (m.prob > m.prob_first ? "--up" : "--down") + ")" },
          (m.prob > m.prob_first ? "\u25b2 " : "\u25bc ") + percent(m.prob))])));
  }
  if (next.tree) parts.push(el("h2", {}, "Likeliest continuations"), el("ul", { class: "tree" }, next.tree.map(branch)));
  return el("section", { class: "panel" }, parts);
})));

if (first) {
  main.append(el("div", { style: "height:16px" }), further([
    ["the words and parts of the model that the answer hangs on", ["why", first.prompt]],
    ["after which layer it settles on it", ["lens", first.prompt, "--positions", "-1"]],
    ...(several ? [["where the prompts part", ["patch", data[0].prompt, data[1].prompt]]] : []),
  ]));
}
