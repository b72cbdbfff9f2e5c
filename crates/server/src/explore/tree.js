// The tree of branches: each kept text is a child of the longest kept text that it begins with.

function branches() {
  const sorted = [...state.kept].sort((a, b) => a.text.length - b.text.length);
  const roots = [], nodes = [];
  for (const kept of sorted) {
    const node = { ...kept, below: [] };
    const above = nodes.filter((other) => kept.text.startsWith(other.text)).pop();
    node.rest = above ? kept.text.slice(above.text.length) : kept.text;
    (above ? above.below : roots).push(node);
    nodes.push(node);
  }
  return roots;
}

function drawTree() {
  const box = document.getElementById("tree");
  const item = (node) => {
    const here = node.text === state.text;
    return el("li", {}, el("span", { class: "leaf" },
      el("button", { type: "button", class: here ? "go here" : "go", "aria-current": here ? "true" : null, onclick: () => setText(node.text), title: node.text },
        node.rest.length > 90 ? "\u2026" + shown(node.rest.slice(-90)) : shown(node.rest)),
      node.prob == null ? null : el("span", { class: "soft" }, percent(node.prob)),
      el("button", { type: "button", class: "drop", "aria-label": "forget " + shown(node.rest), onclick: () => { state.kept = state.kept.filter((kept) => kept.text !== node.text); writeState(); drawTree(); } }, "\u00d7")),
    node.below.length ? el("ul", {}, node.below.map(item)) : null);
  };
  const known = state.kept.some((kept) => kept.text === state.text);
  box.replaceChildren(el("div", { class: "row" }, el("h2", {}, "Branches"),
    known || !state.text ? null : el("button", { type: "button", onclick: () => { keep(state.text); writeState(); drawTree(); } }, "Keep this text")),
  state.kept.length ? el("ul", { class: "tree" }, branches().map(item)) : el("p", { class: "soft" }, "Going on with a token keeps where you were, so that you can go back."));
}
