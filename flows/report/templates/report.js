"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const views = [];
  const shown = { shown_recipe: "", shown_corpus: "" };
  const ERRORS_ONLY = 1; // Vega's own number for it
  const all = (selector, inside) => Array.from((inside || document).querySelectorAll(selector));

  // Charts: drawn as SVG, with no expression compiled from text, so that the page's policy needs no exception.
  const options = {
    actions: false, ast: true, defaultStyle: false, mode: "vega-lite", renderer: "svg",
    tooltip: { disableDefaultStyle: true, theme: "page" },
  };
  const drawn = all("[data-chart]").map((place) =>
    window.vegaEmbed(place, specs[place.dataset.chart], options).then((made) => {
      const signals = Object.keys(made.view.getState().signals || {}).filter((name) => name in shown);
      views.push({ view: made.view, signals, place });
      // Warnings are only for the first drawing: later, a filter may leave no data.
      made.view.logLevel(ERRORS_ONLY);
      // The place itself is the image, with a title and a description; what is inside is only its strokes.
      all(":scope > *", place).forEach((child) => child.setAttribute("aria-hidden", "true"));
    }));
  Promise.all(drawn).then(() => { document.documentElement.dataset.drawn = drawn.length; });

  // Filters: charts by their signals, everything else by what it says it is of.
  const stands = (element) =>
    (!shown.shown_recipe || !("recipes" in element.dataset) || element.dataset.recipes.split(" ").includes(shown.shown_recipe)) &&
    (!shown.shown_corpus || !("corpus" in element.dataset) || element.dataset.corpus === shown.shown_corpus);
  const apply = () => {
    all("[data-recipes], [data-corpus]").forEach((element) => { element.hidden = !stands(element); });
    const passages = all(".passage");
    all(".none").forEach((element) => { element.hidden = passages.some((passage) => !passage.hidden); });
    hide();
    const names = all("#filter-recipe, #filter-corpus").map((select) => select.selectedOptions[0].textContent.trim());
    document.getElementById("filter-text").textContent = `Showing ${names.join(", ")}`;
    views.forEach(({ view, signals, place }) => {
      signals.forEach((name) => view.signal(name, shown[name]));
      view.runAsync().then(() => place.classList.toggle("empty", !place.querySelector(".role-mark path")));
    });
  };
  [["filter-recipe", "shown_recipe"], ["filter-corpus", "shown_corpus"]].forEach(([id, name]) => {
    const select = document.getElementById(id);
    if (select) select.addEventListener("change", () => { shown[name] = select.value; apply(); });
  });
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());

  // Colours: kept where the browser lets a local page keep something.
  const theme = document.getElementById("theme");
  const dress = (name) => {
    if (name) document.documentElement.dataset.theme = name; else delete document.documentElement.dataset.theme;
  };
  try { theme.value = localStorage.getItem("logitlake-theme") || ""; } catch { theme.value = ""; }
  dress(theme.value);
  theme.addEventListener("change", () => {
    dress(theme.value);
    try { localStorage.setItem("logitlake-theme", theme.value); } catch { /* it holds for this visit */ }
  });

  // Passages: the card says what the row of the token's table says.
  const card = document.getElementById("card");
  let current = null;
  const rowOf = new Map();
  all(".passage").forEach((passage) => {
    const rows = all("tbody tr", passage);
    all(".t", passage).forEach((token, number) => {
      const [name, surprise, entropy, expected] = rows[number].cells;
      rowOf.set(token, rows[number]);
      const likely = all("li", expected).slice(0, 3).map((item) => item.textContent.trim().replace(/\s+/g, " "));
      const expectation = likely.length ? `expected ${likely.join(", ")}` : expected.textContent.trim();
      token.setAttribute("aria-label", `${name.textContent}: surprise ${surprise.textContent}, entropy ${entropy.textContent} nats; ${expectation}`);
    });
  });
  function hide() {
    if (current) { current.classList.remove("shown"); current.removeAttribute("aria-describedby"); }
    current = null;
    card.hidden = true;
  }
  const show = (token) => {
    if (token === current) return;
    hide();
    const [name, surprise, entropy, expected] = rowOf.get(token).cells;
    const title = document.createElement("p");
    title.append(name.firstElementChild.cloneNode(true), ` surprise ${surprise.textContent} nats`);
    const before = document.createElement("p");
    before.textContent = `entropy before it ${entropy.textContent} nats`;
    const parts = Array.from(expected.children, (child) => child.cloneNode(true));
    parts.filter((part) => part.tagName === "P").forEach((part) => part.classList.add("rest"));
    card.replaceChildren(title, before, ...parts);
    all("li", card).forEach((item) => item.style.setProperty("--p", item.querySelector("data").value));
    card.hidden = false;
    current = token;
    token.classList.add("shown");
    const at = token.getClientRects()[0] || token.getBoundingClientRect();
    const box = card.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - box.width - 8));
    const below = at.bottom + box.height + 10 < innerHeight || at.top < box.height + 10;
    card.style.left = `${left + scrollX}px`;
    card.style.top = `${(below ? at.bottom + 6 : at.top - box.height - 6) + scrollY}px`;
  };
  const tokenAt = (event) => (event.target instanceof Element ? event.target.closest(".t") : null);
  document.addEventListener("pointerover", (event) => {
    const token = tokenAt(event);
    if (token) show(token);
    else if (current && current !== document.activeElement && !card.contains(event.target)) hide();
  });
  document.addEventListener("focusin", (event) => { const token = tokenAt(event); if (token) show(token); else hide(); });
  document.addEventListener("click", (event) => {
    const token = tokenAt(event);
    if (token) { token.focus({ preventScroll: true }); show(token); } else if (!card.contains(event.target)) hide();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { hide(); return; }
    const token = tokenAt(event);
    if (!token) return;
    const tokens = all(".t", token.parentElement);
    const at = tokens.indexOf(token);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (next === undefined) {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); show(token); }
      return;
    }
    event.preventDefault();
    const to = tokens[Math.max(0, Math.min(next, tokens.length - 1))];
    token.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  });
})();
