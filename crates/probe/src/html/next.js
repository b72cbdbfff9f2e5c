function branch(node) {
  const open = (node.branches || []).length > 0;
  return el("li", {}, el("code", {}, shown(node.piece)), " " + percent(node.prob) + " ",
    el("span", { class: "soft" }, "together " + percent(Math.exp(node.joint_logprob))),
    open ? el("ul", {}, node.branches.map(branch)) : null);
}

main.append(el("h1", {}, "What comes next?"),
  el("p", { class: "soft" }, "Probability of each next token, of the whole vocabulary and before temperature. A dot is a space."));
main.append(el("div", { class: "columns" }, data.map((next) => {
  let sum = 0;
  const list = bars(next.top, next.top.length ? next.top[0].prob : 1, "likeliest tokens");
  const describe = (i) => {
    const c = next.top[i];
    const mass = next.top.slice(0, i + 1).reduce((s, t) => s + t.prob, 0);
    return [el("b", {}, shown(c.piece)), el("div", {}, "token " + c.id + ", number " + (i + 1)),
      el("div", {}, percent(c.prob) + ", log-probability " + fixed(c.logprob, 4)),
      el("div", {}, "with those above " + percent(mass))];
  };
  const items = [...list.children];
  items.forEach((item, i) => { item.dataset.i = i; item.removeAttribute("title"); });
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
