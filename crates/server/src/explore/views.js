// Views beside the text, drawn by the scripts of the one-file pages.

const media = matchMedia("(prefers-color-scheme: dark)");
// The listeners of a view on the colour scheme and the window are removed when it is drawn again.
let scope = new AbortController();
const scopes = new Map();
function within(name, drawing) {
  endScope(name);
  scope = new AbortController();
  scopes.set(name, scope);
  return drawing();
}
function endScope(name) {
  if (scopes.has(name)) scopes.get(name).abort();
  scopes.delete(name);
}
const dark = { get matches() { return media.matches; }, addEventListener: (type, hear) => media.addEventListener(type, hear, { signal: scope.signal }) };

// The views: their titles, the bodies of their requests, the command lines that give the same result,
// and their controls.
const KINDS = {
  lens: { title: "Lens", about: "what each layer would say", body: () => ({ prompt: state.text, top: 5 }), words: () => ["lens", state.text] },
  attention: {
    title: "Attention", about: "where the heads look",
    body: () => ({ prompt: state.text, ...(state.layer == null ? {} : { layer: state.layer }) }),
    words: () => ["attention", state.text, ...(state.layer == null ? [] : ["--layer", String(state.layer)])],
    knobs: layerKnob, drawn: attentionDrawn,
  },
  why: { title: "Why?", about: "what an answer hangs on", body: whyBody, words: whyWords, knobs: whyKnobs },
  ablate: { title: "Switch off", about: "what it says without a head or a layer", body: offBody, words: offWords, knobs: offKnobs, drawn: offDrawn },
  patch: {
    title: "Patch", about: "where two texts part", body: () => ({ prompt: state.text, corrupt: state.beside, top: 5 }), words: () => ["patch", state.text, state.beside],
    ready: () => (state.beside == null ? "Put a second text beside the first: this shows where what tells them apart lies." : null),
  },
  chat: { title: "Chat", about: "in the model\u2019s template" },
};
// Of each open view, its panel, the elements in it, and how long its last answer took, in milliseconds.
const open_ = new Map();

function openView(name) {
  if (!state.views.includes(name)) state.views.push(name);
  writeState();
  drawViews();
  const panel = open_.get(name).panel;
  refresh(name);
  panel.scrollIntoView({ block: "nearest" });
}

function closeView(name) {
  giveUp(name);
  const view = open_.get(name);
  if (view) view.panel.remove();
  endScope(name);
  open_.delete(name);
  marking.delete(name);
  state.views = state.views.filter((other) => other !== name);
  writeState();
  drawViews();
}

// Draws the buttons that open and close views, and makes panels for views that have none yet.
function drawViews() {
  document.getElementById("open").replaceChildren(el("span", { class: "soft" }, "Open beside it:"), ...Object.entries(KINDS).map(([name, kind]) =>
    el("button", { type: "button", "aria-pressed": String(state.views.includes(name)), title: kind.about, onclick: () => (state.views.includes(name) ? closeView(name) : openView(name)) }, kind.title)));
  for (const name of state.views) {
    if (open_.has(name)) continue;
    const body = el("div", { class: "drawn" }), note = el("span", { class: "soft note", role: "status" }), knobs = el("div", { class: "tools knobs" }), foot = el("div", { class: "foot" });
    const panel = el("section", { class: "view panel", id: "view-" + name, "aria-label": KINDS[name].title },
      el("div", { class: "row" }, el("h2", {}, KINDS[name].title), el("span", { class: "soft" }, KINDS[name].about), note,
        el("button", { type: "button", onclick: () => closeView(name), "aria-label": "close " + KINDS[name].title }, "\u00d7")), knobs, body, foot);
    document.getElementById("views").append(panel);
    open_.set(name, { panel, body, note, knobs, foot, took: 0 });
    if (name === "chat") drawChat();
  }
  document.getElementById("views").classList.toggle("several", state.views.length > 1);
  dispatchEvent(new Event("resize"));
}

function fault(box, error) {
  if (error instanceof Replaced) return;
  box.replaceChildren(el("p", { class: "fault", role: "alert" }, error.message));
}

async function refresh(name) {
  const view = open_.get(name), kind = KINDS[name];
  if (!view || name === "chat") return;
  const missing = kind.ready ? kind.ready() : null;
  if (!state.text || missing) {
    giveUp(name);
    view.knobs.replaceChildren();
    view.foot.replaceChildren();
    view.body.replaceChildren(el("p", { class: "soft" }, missing || "There is no text yet."));
    view.note.textContent = "";
    return;
  }
  const since = performance.now(), of = JSON.stringify(kind.body());
  view.note.textContent = "asking\u2026";
  view.panel.setAttribute("aria-busy", "true");
  try {
    const data = await probe(name, name, JSON.parse(of), (done, total) => { if (total > 0) view.note.textContent = Math.round(100 * done / total) + " %"; });
    view.took = performance.now() - since;
    view.of = of;
    view.note.textContent = view.took < 1000 ? Math.round(view.took) + " ms" : fixed(view.took / 1000, 1) + " s";
    view.panel.classList.remove("stale");
    draw(name, data);
  } catch (error) {
    if (error instanceof Replaced) return;
    view.note.textContent = "";
    view.foot.replaceChildren();
    if (kind.knobs) view.knobs.replaceChildren(...kind.knobs(null));
    fault(view.body, error);
  } finally {
    view.panel.removeAttribute("aria-busy");
  }
}

function draw(name, data) {
  const view = open_.get(name), kind = KINDS[name];
  marking.delete(name);
  view.knobs.replaceChildren(...(kind.knobs ? kind.knobs(data) : []));
  view.body.replaceChildren();
  const linked = (mark) => { marking.set(name, mark); return (position) => point(position, name); };
  within(name, () => {
    const { signal } = scope;
    VIEWS[name](data, view.body, linked, (type, hear) => addEventListener(type, hear, { signal }));
  });
  // Several views share one document, so the ids of their elements get the view's name in front,
  // explanations are folded, and the list of further commands, which are buttons here, is removed.
  for (const node of view.body.querySelectorAll("[id]")) node.id = name + "-" + node.id;
  for (const node of view.body.querySelectorAll("details.reading")) node.open = false;
  view.body.querySelector("ul.further")?.closest("section").remove();
  if (kind.drawn) kind.drawn(view, data);
  const words = kind.words(data);
  view.foot.replaceChildren(el("div", { class: "tools" }, el("button", { type: "button", onclick: () => keepPage(name, data, words).catch((error) => fault(view.foot, error)) }, "Keep as page")), commandLine(words));
  if (state.at != null && marking.has(name)) marking.get(name)(state.at);
}

// Views are not computed while somebody types. After a pause those whose last answer took less than
// LONG milliseconds are asked again; the others are marked as of another text.
const LONG = 1500;
let later = 0;
function stopViews() {
  clearTimeout(later);
  for (const name of open_.keys()) if (name !== "chat") giveUp(name);
}
function viewsLater() {
  clearTimeout(later);
  later = setTimeout(async () => {
    for (const [name, view] of [...open_]) {
      const kind = KINDS[name];
      if (name === "chat" || !kind.body || view.of === JSON.stringify(kind.body())) continue;
      if (name === "why") state.why = whyStill();
      if (view.took < LONG) { await refresh(name); continue; }
      view.panel.classList.add("stale");
      view.note.replaceChildren("of another text ", el("button", { type: "button", onclick: () => refresh(name) }, "Ask again"));
    }
  }, 250);
}

// The control of the attention view: the layer.
function layerKnob(data) {
  const n = props.n_layer, now = data ? data.layer : state.layer ?? 0;
  const choose = el("select", { onchange: () => { state.layer = Number(choose.value); writeState(); refresh("attention"); } },
    Array.from({ length: n }, (_, i) => el("option", { value: i, selected: i === now }, String(i))));
  const heads = data ? data.heads.length : 0;
  return [el("label", {}, "Layer: ", choose), state.layer == null ? null : el("button", { type: "button", onclick: () => { state.layer = null; writeState(); refresh("attention"); } }, "All layers at a glance"),
    heads ? el("button", { type: "button", onclick: () => switchOff("attn." + now) }, "Switch its attention off") : null].filter(Boolean);
}

// A click on a head of another layer in the overview asks for that layer.
function attentionDrawn(view, data) {
  if (!data.overview) return;
  const places = data.overview.flatMap((layer) => layer.heads.map(() => layer.layer));
  view.body.querySelector(".grid")?.addEventListener("click", (event) => {
    const cell = event.target.closest("[data-i]"), layer = cell ? places[Number(cell.dataset.i)] : data.layer;
    if (layer !== data.layer) { state.layer = layer; writeState(); refresh("attention"); }
  });
}

// The view `why` asks about a token of the text or about a likely next token.
function whyBody() {
  const ids = told.text ? told.text.next.ids : [];
  if (!state.why) return { prompt: state.text };
  const [at, id] = state.why;
  return at >= ids.length ? { prompt: state.text, token: id } : { prompt: ids.slice(0, at), token: id };
}
// Keeps the token that is asked about while it stays at its position in the text.
function whyStill() {
  if (!state.why || !told.text) return null;
  const [at, id] = state.why, ids = told.text.next.ids;
  return at < ids.length && ids[at] === id ? state.why : null;
}
function whyWords(data) {
  return state.why ? ["why", data.prompt, "--token-id", String(data.token.id)] : ["why", state.text];
}
function whyKnobs() {
  if (!told.text) return [];
  const ids = told.text.next.ids, now = state.why ? state.why.join(":") : "";
  const options = [el("option", { value: "" }, "the likeliest next token"),
    ...told.text.next.top.map((c) => el("option", { value: ids.length + ":" + c.id }, "next: " + shown(c.piece))),
    ...told.text.score.tokens.map((token, i) => (i === 0 ? null : el("option", { value: i + ":" + token.id }, "position " + i + ": " + shown(token.piece)))).filter(Boolean)];
  options.forEach((option) => { option.selected = option.value === now; });
  const choose = el("select", { onchange: () => { state.why = choose.value ? choose.value.split(":").map(Number) : null; writeState(); refresh("why"); } }, options);
  return [el("label", {}, "Why: ", choose)];
}

// The view that switches off one part, or all parts of a kind one by one.
let every = null;
function offBody() { return every ? { prompt: state.text, all: every } : { prompt: state.text, parts: [state.off], top: 10, max_tokens: 8 }; }
function offWords() { return every ? ["ablate", state.text, "--all", every] : ["ablate", state.text, "--part", state.off, "-n", "8"]; }
function switchOff(part) { state.off = part; every = null; openView("ablate"); }
function offKnobs() {
  const [kind, layer, head] = /^\d/.test(state.off) ? ["head", ...state.off.split(".")] : [...state.off.split("."), "0"];
  const set = () => {
    const l = layers.value, h = heads.value;
    const part = kinds.value === "head" ? l + "." + h : kinds.value + "." + l;
    if (!isPart(part)) return;
    switchOff(part);
  };
  const kinds = el("select", { onchange: set, "aria-label": "part of the model" }, [["head", "head"], ["attn", "attention"], ["mlp", "MLP"], ["layer", "layer"]].map(([value, text]) => el("option", { value, selected: value === kind }, text)));
  const number = (label, value, most) => el("input", { type: "number", min: 0, max: most, value: value || 0, onchange: set, "aria-label": label });
  const layers = number("layer", layer, props.n_layer - 1), heads = number("head", head, Math.max(0, props.n_head - 1));
  const all = el("select", { "aria-label": "or all of a kind, one by one", onchange: () => { every = all.value || null; refresh("ablate"); } },
    [["", "one part"], ["heads", "every head"], ["attn", "every attention"], ["mlp", "every MLP"], ["layers", "every layer"]].map(([value, text]) => el("option", { value, selected: value === (every || "") }, text)));
  return [el("label", {}, "Try ", all), ...(every ? [] : [kinds, el("label", {}, "layer ", layers), kind === "head" ? el("label", {}, "head ", heads) : null])].filter(Boolean);
}
// A click on a head of the map switches it off.
function offDrawn(view) {
  view.body.querySelector("table.cells")?.addEventListener("click", (event) => {
    const cell = event.target.closest("td[data-i]");
    if (cell) switchOff(cell.parentElement.firstElementChild.textContent + "." + (cell.cellIndex - 1));
  });
}
