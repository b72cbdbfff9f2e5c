// The layout of the page, the properties of the model, and the start from the state in the address.

let props = { n_layer: 1, n_head: 1 };
// The ids of control tokens.
let controls = new Set();

function layout() {
  const field = el("textarea", { id: "text", rows: 2, spellcheck: "false", placeholder: "The capital of France is", oninput: () => { state.text = field.value; state.at = null; grow(field); changed("text"); } });
  const link = el("button", { type: "button", onclick: () => { writeNow(); copyText(location.href, link); } }, "Copy link");
  document.getElementById("app").replaceChildren(
    el("header", { id: "top" }, el("b", {}, "modelve explore"), el("span", { id: "model" }, props.model_alias), link),
    el("main", { id: "main" },
      el("div", { class: "work" },
        el("div", { class: "left" },
          el("section", { class: "panel", "aria-label": "text" },
            el("div", { class: "row" }, el("label", { for: "text" }, "Text"),
              el("button", { type: "button", id: "add", onclick: () => { setBeside(state.text); document.getElementById("beside").focus(); } }, "Put a second text beside it")),
            field, el("div", { id: "text-tokens" }), el("p", { class: "soft", id: "text-told" }), el("div", { id: "beside-box" }), el("div", { id: "token" }),
            el("div", { class: "tools scale" }, legend("expected", HOT + " bits of surprise"),
              el("label", { class: "soft" }, el("input", { type: "checkbox", id: "ids", onchange: (event) => document.getElementById("app").classList.toggle("ids", event.target.checked) }), " ids of tokens"))),
          el("section", { class: "panel", id: "tree", "aria-label": "branches" })),
        el("section", { class: "panel", id: "next", "aria-label": "what comes next" })),
      el("nav", { class: "tools", id: "open", "aria-label": "views" }),
      el("div", { id: "views" })));
  field.focus();
}

// Draws the whole state, as after a change of the address.
function show() {
  for (const name of [...open_.keys()]) if (!state.views.includes(name)) { const views = state.views; closeView(name); state.views = views; }
  const field = document.getElementById("text");
  field.value = state.text;
  grow(field);
  drawBeside();
  drawTree();
  drawNext();
  drawViews();
  if (open_.has("chat")) drawChat();
  for (const which of ["text", "beside"]) told[which] = null;
  readText("text").then(() => { if (state.beside != null) readText("beside"); state.views.forEach(refresh); });
}

async function start() {
  const app = document.getElementById("app");
  const wait = el("p", { class: "waiting", role: "status" }, "The model is being loaded\u2026");
  for (let tries = 0; ; tries++) {
    try {
      props = await ask("props", "/props");
      break;
    } catch (error) {
      if (error.status !== 503) return fault(app, error);
      if (tries === 0) app.replaceChildren(wait);
      await new Promise((done) => setTimeout(done, 150));
    }
  }
  controls = new Set(props.control_tokens || []);
  document.title = props.model_alias + " \u00b7 modelve explore";
  readState();
  layout();
  show();
}

addEventListener("pagehide", writeNow);
addEventListener("hashchange", () => { readState(); show(); });
start();
