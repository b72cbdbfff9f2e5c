main.append(el("h1", {}, "To come"));
