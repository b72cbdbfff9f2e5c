// The text, its tokens, and the distribution of the next token.

const HOT = 16;
// The last answers for the text and for the second text.
const told = { text: null, beside: null };
// The functions that mark a token, by the name of their view.
const marking = new Map();

// Marks a token in all views except the one it was chosen in.
function point(position, from) {
  state.at = position;
  writeState();
  for (const [name, mark] of marking) if (name !== from) mark(position);
}

// The place of each token in the text as `[from, to]`; null for tokens that the text does not contain,
// such as the beginning of the sequence.
function places(text, tokens) {
  const found = [];
  let at = 0, bytes = [], since = 0;
  tokens.forEach((token, i) => {
    if (typeof token.piece !== "string") {
      // The bytes of a character may be spread over several tokens.
      if (!bytes.length) since = i;
      bytes.push(...token.piece.bytes);
      found.push(null);
      const letters = new TextDecoder().decode(Uint8Array.from(bytes));
      if (!letters.includes("\ufffd") && text.startsWith(letters, at)) {
        found.fill([at, at + letters.length], since);
        at += letters.length;
        bytes = [];
      }
      return;
    }
    bytes = [];
    const piece = at === 0 && !text.startsWith(" ") ? token.piece.replace(/^ /, "") : token.piece;
    const here = piece && text.startsWith(piece, at);
    found.push(here ? [at, at + piece.length] : null);
    if (here) at += piece.length;
  });
  return found;
}

// Extends a place in the text to the word around it.
function wordAt(text, [from, to]) {
  while (from < to && /\s/.test(text[from])) from++;
  if (from === to) return [from - (to - from || 1), to];
  while (from > 0 && !/\s/.test(text[from - 1])) from--;
  while (to < text.length && !/\s/.test(text[to])) to++;
  return [from, to];
}

const bitsOf = (token) => (token.logprob == null ? null : -token.logprob / Math.LN2);

// The tokens of a text, coloured by their surprisal in bits.
function strip(which, live) {
  const tokens = live.score.tokens, text = state[which];
  const first = tokens.findIndex((token) => !controls.has(token.id));
  const spans = tokens.map((token, i) => {
    const span = el("span", { "data-i": i, "data-id": token.id, class: controls.has(token.id) ? "control" : null }, i === first ? written(token.piece, 0, text) : spelled(token.piece) || "\u2205");
    const bits = bitsOf(token);
    return bits == null ? span : tint(span, heat, bits / HOT);
  });
  const box = el("div", { class: "text marks", role: "group", "aria-label": "tokens, coloured by how surprising each was; arrow keys walk, Enter opens one" }, spans);
  const describe = (i) => {
    const token = tokens[i], bits = bitsOf(token);
    return [el("b", {}, shown(token.piece)), el("div", {}, "token " + token.id + " at position " + i),
      bits == null ? el("div", {}, "the first: nothing expects it") : el("div", {}, fixed(bits, 2) + " bits, " + percent(Math.exp(token.logprob)) + ", number " + token.rank),
      token.instead ? el("div", { class: "soft" }, "expected: " + shown(token.instead.piece) + " (" + percent(token.instead.prob) + ")") : null].filter(Boolean);
  };
  walk(box, spans, describe, (i) => { openToken(which, i); if (which === "text") point(i, "tokens"); });
  if (which === "text") {
    marking.set("tokens", (position) => spans.forEach((span, i) => span.classList.toggle("marked", i === position)));
    if (state.at != null && spans[state.at]) spans[state.at].classList.add("marked");
  }
  return box;
}

// Opens a panel under the tokens with what can be done with one of them.
function openToken(which, i) {
  const live = told[which], token = live.score.tokens[i], text = state[which];
  const place = places(text, live.score.tokens)[i], box = document.getElementById("token");
  const close = () => { box.replaceChildren(); document.querySelector("#" + which + "-tokens .text")?.focus(); };
  const change = (next) => { close(); keep(state.text); setBeside(next); };
  const buttons = [];
  const button = (name, onclick, title) => buttons.push(el("button", { type: "button", onclick, title }, name));
  if (i > 0 && which === "text") button("Why this token?", () => { close(); state.why = [i, token.id]; openView("why"); }, "the words and the parts of the model that it hangs on");
  if (place) {
    const [from, to] = wordAt(text, place), word = text.slice(from, to);
    const gap = from > 0 && text[from - 1] === " " ? 1 : 0;
    button("Without \u201c" + word + "\u201d", () => change(text.slice(0, from - gap) + text.slice(to)), "the text without this word, beside this one");
    const field = el("input", { type: "text", value: word, size: Math.max(6, word.length + 2), "aria-label": "another word for " + word });
    buttons.push(el("form", { class: "swap", onsubmit: (event) => { event.preventDefault(); change(text.slice(0, from) + field.value + text.slice(to)); } },
      field, el("button", { title: "the text with this word in its place, beside this one" }, "Swap")));
    button("Back to here", () => { close(); keep(state.text); setText(text.slice(0, place[1])); }, "the text up to this token; the whole stays a branch");
  }
  button("Close", close);
  const bits = bitsOf(token);
  box.replaceChildren(el("div", { class: "opened", role: "group", "aria-label": "token " + shown(token.piece) },
    el("p", {}, el("code", {}, shown(token.piece)), " ", el("span", { class: "soft" }, "token " + token.id + ", position " + i + (bits == null ? "" : ", " + fixed(bits, 2) + " bits, number " + token.rank)),
      token.instead ? [" ", el("span", { class: "soft" }, "where " + shown(token.instead.piece) + " was expected (" + percent(token.instead.prob) + ")")] : null),
    el("div", { class: "tools" }, buttons)));
  box.querySelector("button").focus();
}

// Draws the likeliest next tokens of both texts on one scale.
function drawNext() {
  const box = document.getElementById("next");
  const a = told.text, b = state.beside == null ? null : told.beside;
  if (!a) { box.replaceChildren(el("h2", {}, "What comes next"), el("p", { class: "soft" }, "Write something, and the model says what it expects.")); return; }
  const all = new Map();
  for (const live of [a, b]) for (const c of live ? live.next.top : []) if (!all.has(c.id)) all.set(c.id, c);
  const probs = (live) => new Map((live ? [...live.next.top, ...live.also] : []).map((c) => [c.id, c.prob]));
  const [pa, pb] = [probs(a), probs(b)];
  const rows = [...all.values()].sort((x, y) => (pa.get(y.id) || 0) - (pa.get(x.id) || 0) || (pb.get(y.id) || 0) - (pb.get(x.id) || 0));
  const most = Math.max(1e-9, ...rows.flatMap((c) => [pa.get(c.id) || 0, pb.get(c.id) || 0]));
  const fill = (p, second) => el("div", { class: second ? "fill second" : "fill", style: "width:" + 100 * (p || 0) / most + "%" });
  const number = (p) => el("span", { class: "number" }, p == null ? "\u2013" : percent(p));
  const items = rows.map((c, i) => el("li", { "data-i": i, class: "choice" },
    el("span", { class: "piece" }, shown(c.piece)),
    el("span", { class: b ? "track two" : "track" }, fill(pa.get(c.id)), b ? fill(pb.get(c.id), true) : null),
    number(pa.get(c.id)), b ? number(pb.get(c.id)) : null));
  const list = el("ol", { class: b ? "bars both" : "bars", "aria-label": "likeliest next tokens; arrow keys walk, Enter goes on with one" }, items);
  const describe = (i) => [el("b", {}, shown(rows[i].piece)), el("div", {}, "token " + rows[i].id),
    el("div", {}, (pa.has(rows[i].id) ? percent(pa.get(rows[i].id)) : "\u2013") + (b ? " here, " + (pb.has(rows[i].id) ? percent(pb.get(rows[i].id)) : "\u2013") + " beside" : "")),
    el("div", { class: "soft" }, typeof rows[i].piece === "string" ? "Enter or a click goes on with it; W asks why" : "part of a character: no text by itself")];
  walk(list, items, describe, (i) => goOn(rows[i], pa.get(rows[i].id)));
  list.addEventListener("keydown", (event) => {
    const at = items.findIndex((item) => item.classList.contains("here"));
    if (event.key.toLowerCase() === "w" && at >= 0 && !event.ctrlKey && !event.metaKey) askWhy(rows[at].id);
  });
  const alike = (live) => fixed(Math.pow(2, live.next.entropy_bits), live.next.entropy_bits < 3.4 ? 1 : 0) + " equal tokens (" + fixed(live.next.entropy_bits, 2) + " bits)";
  const first = rows[0], focused = box.contains(document.activeElement) && document.activeElement.matches(".bars");
  box.replaceChildren(el("h2", {}, "What comes next"),
    b ? el("p", { class: "soft keys" }, el("span", {}, el("i", { class: "swatch" }), "the text"), el("span", {}, el("i", { class: "swatch second" }), "the one beside it")) : el("p", { class: "soft" }, "A click goes on with a token."),
    list, el("p", { class: "soft" }, "As open as " + alike(a) + (b ? "; beside, " + alike(b) : "")),
    el("div", { class: "tools" },
      el("button", { type: "button", onclick: () => askWhy(first.id) }, "Why " + shown(first.piece) + "?"),
      el("button", { type: "button", onclick: (event) => keepPage("next", b ? [a.next, b.next] : [a.next], nextWords()).catch((error) => fault(event.target.parentElement, error)) }, "Keep as page")),
    commandLine(nextWords()));
  // Keeps the keyboard's focus on the token it was on.
  if (focused) list.focus();
}
const nextWords = () => ["next", state.text, ...(state.beside == null ? [] : [state.beside])];

function askWhy(id) { state.why = [told.text.score.tokens.length, id]; openView("why"); }

function goOn(choice, prob) {
  if (typeof choice.piece !== "string") return;
  keep(state.text);
  const next = state.text + choice.piece;
  keep(next, prob);
  setText(next, true);
}

// Asks for the tokens and the next token of a text.
async function readText(which, also = []) {
  const text = state[which], since = performance.now();
  const line = document.getElementById(which + "-told");
  try {
    // There is nothing to ask about an empty text.
    if (text === "") throw new Error("");
    const live = await ask("live " + which, "/v1/modelve/live", { prompt: text, top: 12, also });
    told[which] = live;
    const n = live.score.tokens.length, ms = Math.round(performance.now() - since);
    line.dataset.ms = String(ms);
    line.replaceChildren(n + (n === 1 ? " token" : " tokens") + (live.score.bits_per_token > 0 ? ", " + fixed(live.score.bits_per_token, 2) + " bits each" : "") + "; answered in " + ms + " ms");
    line.classList.remove("fault");
    if (!also.length) document.getElementById(which + "-tokens").replaceChildren(within("tokens " + which, () => strip(which, live)));
  } catch (error) {
    if (error instanceof Replaced) return;
    told[which] = null;
    document.getElementById(which + "-tokens").replaceChildren();
    line.classList.toggle("fault", text !== "");
    line.textContent = text === "" ? "" : error.message;
  }
  line.dataset.of = text;
  drawNext();
  // Each text also needs the probabilities of the tokens that the other text expects.
  if (state.beside == null || also.length || !told.text || !told.beside) return;
  for (const [one, other] of [["text", "beside"], ["beside", "text"]]) {
    const known = new Set(told[one].next.top.map((c) => c.id));
    const missing = told[other].next.top.map((c) => c.id).filter((id) => !known.has(id));
    if (missing.length) await readText(one, missing);
  }
}

// Called when the text changes; the pending request is aborted. If the last request was answered, the
// next one is sent at once. While keys come faster than answers, requests are debounced by 15 ms.
const typing = {};
function changed(which) {
  const busy = typing[which] || running.has("live " + which);
  writeState();
  stopViews();
  giveUp("live " + which);
  document.getElementById("token").replaceChildren();
  clearTimeout(typing[which]);
  const ask = () => { typing[which] = 0; readText(which).then(viewsLater); };
  if (busy) typing[which] = setTimeout(ask, 15); else ask();
  if (which === "text") drawTree();
}

function setText(text, focus) {
  state.text = text;
  state.at = null;
  const field = document.getElementById("text");
  if (field.value !== text) field.value = text;
  grow(field);
  if (focus) document.querySelector("#next .bars")?.focus();
  changed("text");
}

function setBeside(text) {
  state.beside = text;
  drawBeside();
  if (text == null) { told.beside = null; giveUp("live beside"); writeState(); drawNext(); viewsLater(); } else changed("beside");
}

// Makes a field as high as its text.
function grow(field) {
  field.style.height = "auto";
  field.style.height = Math.min(260, field.scrollHeight + 2) + "px";
}

function drawBeside() {
  const box = document.getElementById("beside-box");
  document.getElementById("add").hidden = state.beside != null;
  if (state.beside == null) { box.replaceChildren(); return; }
  let field = document.getElementById("beside");
  if (!field) {
    field = el("textarea", { id: "beside", rows: 2, spellcheck: "false", oninput: () => { state.beside = field.value; grow(field); changed("beside"); } });
    box.replaceChildren(el("div", { class: "row" }, el("label", { for: "beside" }, "Beside it"),
      el("button", { type: "button", onclick: () => { keep(state.text); const other = state.beside; setBeside(state.text); setText(other); } }, "Change places"),
      el("button", { type: "button", onclick: () => setBeside(null), "aria-label": "close the second text" }, "Close")),
    field, el("div", { id: "beside-tokens" }), el("p", { class: "soft", id: "beside-told" }));
  }
  if (field.value !== state.beside) field.value = state.beside;
  grow(field);
}
