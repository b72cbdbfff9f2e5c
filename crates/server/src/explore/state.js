// The state of the page. It is kept in the fragment of the address, so that a link restores it.

const about = JSON.parse(document.getElementById("about").textContent);
const tip = document.getElementById("tip");

// `text` is the text that is examined, `beside` a second text or null, `at` the position of the token
// that is marked in all views, `off` the part of the model that is switched off, `why` the token that
// is asked about as `[position, id]`, or null for the likeliest next token. `kept` are the texts of the
// branches.
const START = { text: "", beside: null, at: null, views: [], kept: [], off: "0.0", layer: null, why: null, chat: [] };
let state = structuredClone(START);

// Writes the address after a delay, because browsers limit the rate of such changes.
let writing = 0;
function writeState() {
  clearTimeout(writing);
  writing = setTimeout(writeNow, 300);
}
function writeNow() {
  clearTimeout(writing);
  const words = new URLSearchParams();
  if (state.text) words.set("text", state.text);
  if (state.beside != null) words.set("beside", state.beside);
  if (state.at != null) words.set("at", state.at);
  if (state.off !== START.off) words.set("off", state.off);
  if (state.layer != null) words.set("layer", state.layer);
  if (state.why) words.set("why", state.why.join(":"));
  state.views.forEach((view) => words.append("view", view));
  state.kept.forEach((kept) => words.append("kept", (kept.prob ?? "") + ":" + kept.text));
  if (state.chat.length) words.set("chat", JSON.stringify(state.chat));
  history.replaceState(null, "", location.pathname + location.search + "#" + words);
}

// Reads the state from the address. Invalid values are ignored.
function readState() {
  const words = new URLSearchParams(location.hash.slice(1));
  const number = (text) => (text != null && /^\d{1,7}$/.test(text) ? Number(text) : null);
  const next = structuredClone(START);
  next.text = words.get("text") ?? "";
  next.beside = words.get("beside");
  next.at = number(words.get("at"));
  next.layer = number(words.get("layer"));
  if (isPart(words.get("off"))) next.off = words.get("off");
  const why = (words.get("why") || "").split(":").map(number);
  if (why.length === 2 && why.every((n) => n != null)) next.why = why;
  next.views = [...new Set(words.getAll("view"))].filter((view) => view in KINDS);
  next.kept = words.getAll("kept").map((kept) => {
    const at = kept.indexOf(":"), prob = Number(kept.slice(0, at));
    return { text: kept.slice(at + 1), prob: at > 0 && prob >= 0 && prob <= 1 ? prob : null };
  });
  try {
    const chat = JSON.parse(words.get("chat") || "[]");
    next.chat = chat.filter((turn) => ["system", "user", "assistant"].includes(turn.role) && typeof turn.content === "string")
      .map(({ role, content }) => ({ role, content }));
  } catch { /* Not a conversation; it stays empty. */ }
  state = next;
}

// Whether a text names a part of the model as `modelve ablate --part` does.
function isPart(text) { return /^(embed|\d{1,5}\.\d{1,5}|(attn|mlp|layer)\.\d{1,5})$/.test(text || ""); }

// Keeps a text as a branch. One that is kept already stays where it is.
function keep(text, prob) {
  if (text && !state.kept.some((kept) => kept.text === text)) state.kept.push({ text, prob: prob == null ? null : Number(prob.toPrecision(3)) });
}
