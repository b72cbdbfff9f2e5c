const { mark, twin } = twins();
const HOT = 16;
const bitsOf = (token) => (token.logprob == null ? null : -token.logprob / Math.LN2);

function scored(score) {
  const tokens = score.tokens;
  const key = "text " + data.indexOf(score) + " token ";
  const spans = tokens.map((token, i) => twin(key + i, el("span", { "data-i": i }, written(token.piece, i, score.text))));
  const paint = () => tokens.forEach((token, i) => {
    const bits = bitsOf(token);
    const c = heat(bits == null ? 0 : Math.pow(Math.min(1, bits / HOT), 0.8));
    spans[i].style.background = bits == null ? "none" : rgb(c);
    spans[i].style.color = bits == null ? "" : ink(c);
  });
  paint();
  dark.addEventListener("change", paint);
  const text = el("div", { class: "text", role: "group", "aria-label": "text, coloured by surprisal; arrow keys walk the tokens" }, spans);
  walk(text, spans, (i) => {
    const token = tokens[i];
    return [el("b", {}, shown(token.piece)), el("div", {}, "token " + token.id + ", position " + i),
      token.logprob == null ? el("div", {}, "nothing before it to judge it by") :
        el("div", {}, fixed(bitsOf(token), 2) + " bits, probability " + percent(Math.exp(token.logprob)) + ", rank " + token.rank),
      token.instead ? el("div", {}, "expected instead: ", el("code", {}, shown(token.instead.piece)), " " + percent(token.instead.prob)) : null].filter(Boolean);
  });
  const worst = tokens.map((token, i) => [bitsOf(token), i]).filter((x) => x[0] != null).sort((a, b) => b[0] - a[0]).slice(0, 8);
  const surprising = table(["bits>", "rank>", "token", "expected instead", "after"], worst.map(([bits, i]) => [fixed(bits, 2), String(tokens[i].rank), el("code", {}, shown(tokens[i].piece)),
    tokens[i].instead ? [el("code", {}, shown(tokens[i].instead.piece)), " " + percent(tokens[i].instead.prob)] : "\u2013",
    el("td", { class: "wide" }, "\u2026" + tokens.slice(Math.max(0, i - 8), i).map((t) => spelled(t.piece)).join(""))]));
  [...surprising.querySelector("tbody").children].forEach((row, k) => twin(key + worst[k][1], row));
  return el("section", { class: "panel" }, data.length > 1 ? el("p", { class: "soft" }, "text " + (data.indexOf(score) + 1)) : null, text,
    table(["perplexity>", "bits/token>", "bits/byte>", "log-prob>", "tokens>"],
      [[fixed(score.perplexity, 3), fixed(score.bits_per_token, 3), fixed(score.bits_per_byte, 3), fixed(score.total_logprob, 2), String(score.n_scored)]]),
    el("h2", {}, "Most surprising"), surprising);
}

main.append(el("h1", {}, "How likely is this text?"));
{
  const score = data[0], scoredOnes = score ? score.tokens.filter((t) => t.logprob != null) : [];
  const worst = scoredOnes.reduce((a, t) => (!a || t.logprob < a.logprob ? t : a), null);
  if (worst) main.append(reading("Each token is coloured by how much it surprises the model after what stands before it: bits, \u2212log2 of its probability. 0 bits is certain, 1 bit is one of two, 10 bits one of a thousand.",
    "Here: " + shown(worst.piece) + " surprises most, with " + fixed(bitsOf(worst), 1) + " bits; " + (worst.rank - 1) + " tokens were likelier in its place" + (worst.instead ? ", most of all " + shown(worst.instead.piece) + " (" + percent(worst.instead.prob) + ")" : "") + ". The whole text has " + fixed(score.bits_per_token, 2) + " bits a token."));
}
main.append(el("p", {}, legend("expected", HOT + " bits")));
if (data.length > 1) {
  const order = [...data].sort((a, b) => a.bits_per_byte - b.bits_per_byte);
  main.append(el("h2", {}, "Likeliest first"), table(["text>", "bits/byte>", "bits/token>", "perplexity>", "log-prob>", ""],
    order.map((s) => [String(data.indexOf(s) + 1), fixed(s.bits_per_byte, 3), fixed(s.bits_per_token, 3), fixed(s.perplexity, 2), fixed(s.total_logprob, 2), el("td", { class: "wide" }, s.text.slice(0, 200))])));
}
main.append(el("div", { class: "columns", style: "margin-top:18px" }, data.map(scored)));
if (data.length) {
  main.append(el("div", { style: "height:16px" }), further([
    ["what it expects where the text ends", ["next", data[0].text]],
    ["which words and parts that hangs on", ["why", data[0].text]],
  ]));
}
