// A conversation, and the prompt that the model's template makes of it, with the template's tokens.

let answering = false;

function drawChat() {
  const view = open_.get("chat");
  if (!view) return;
  const name = { system: "instructions", user: "you", assistant: "model" };
  const turns = el("ol", { class: "turns", "aria-label": "conversation" }, state.chat.map((turn) =>
    el("li", { class: turn.role }, el("b", {}, name[turn.role]), el("div", { class: "said" }, turn.content || (answering ? "\u2026" : "")))));
  const field = el("textarea", { id: "say", rows: 2, placeholder: "Say something", "aria-label": "your message",
    onkeydown: (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); say(); } } });
  const say = () => { const text = field.value.trim(); if (text && !answering) speak(text); };
  view.body.replaceChildren(turns, el("form", { class: "saying", onsubmit: (event) => { event.preventDefault(); say(); } }, field,
    el("div", { class: "tools" }, answering ? el("button", { type: "button", onclick: () => giveUp("chat") }, "Stop") : el("button", {}, "Send"),
      state.chat.length && !answering ? el("button", { type: "button", onclick: () => { state.chat = []; writeState(); drawChat(); } }, "Start over") : null)),
  el("div", { id: "template" }));
  view.foot.replaceChildren();
  if (state.chat.length && !answering) drawTemplate();
}

async function speak(text) {
  state.chat.push({ role: "user", content: text });
  const messages = state.chat.map(({ role, content }) => ({ role, content }));
  const turn = { role: "assistant", content: "" };
  state.chat.push(turn);
  answering = true;
  drawChat();
  const view = open_.get("chat");
  try {
    for await (const [, data] of events("chat", "/v1/chat/completions", { messages, temperature: 0, max_tokens: 256 })) {
      if (data === "[DONE]") break;
      const part = JSON.parse(data);
      if (part.error) throw new Error(part.error.message);
      const delta = part.choices.length ? part.choices[0].delta : {};
      turn.content += (delta.reasoning_content || "") + (delta.content || "");
      const said = view.body.querySelector(".turns li:last-child .said");
      if (said) said.textContent = turn.content || "\u2026";
    }
  } catch (error) {
    if (!(error instanceof Replaced)) {
      state.chat.splice(-2);
      answering = false;
      drawChat();
      document.getElementById("say").value = text;
      return fault(document.getElementById("template"), error);
    }
  }
  answering = false;
  if (!turn.content) state.chat.splice(-1);
  writeState();
  drawChat();
  document.getElementById("say")?.focus();
}

// Shows the templated prompt; control tokens are framed.
async function drawTemplate() {
  const box = document.getElementById("template"), view = open_.get("chat");
  const turns = state.chat.filter((turn) => turn.role !== "assistant" || turn.content);
  try {
    const { tokens, prompt } = await ask("template", "/apply-template", { messages: turns, with_pieces: true });
    if (!box.isConnected) return;
    box.replaceChildren(el("h2", {}, "What the model reads"),
      el("div", { class: "text raw" }, tokens.map(({ id, piece }) => ({ id, piece: Array.isArray(piece) ? { bytes: piece } : piece })).map((token) => {
        const control = controls.has(token.id);
        return el("span", { class: control ? "control" : null, title: "token " + token.id }, control ? spelled(token.piece) : shown(token.piece));
      })),
      el("p", { class: "soft" }, tokens.length + " tokens; those of the template are framed"),
      el("div", { class: "tools" }, el("button", { type: "button", onclick: () => { keep(state.text); setText(prompt); document.getElementById("text").focus(); scrollTo(0, 0); } }, "Look at it as a text")));
    const last = turns.map((turn) => turn.role).lastIndexOf("user");
    const system = turns.find((turn) => turn.role === "system");
    view.foot.replaceChildren(turns.filter((turn) => turn.role === "user").length === 1
      ? commandLine(["complete", "--chat", turns[last].content, "--temp", "0", ...(system ? ["--system", system.content] : [])])
      : el("p", { class: "soft" }, "The same over HTTP: /v1/chat/completions of modelve serve"));
  } catch (error) {
    fault(box, error);
  }
}
