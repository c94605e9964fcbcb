"use strict";
(() => {
  const layers = JSON.parse(document.getElementById("layer-data").textContent);
  const { specs, plans, chosen } = JSON.parse(document.getElementById("data").textContent);
  const views = {};
  const state = { plan: chosen === null ? 0 : chosen, layer: 0, key: "number", down: false, search: "", changed: true };
  const shown = (x) => (x === 0 ? "0" : x.toExponential(1));
  const size = (x) => (x < 1e3 ? `${x} B` : x < 1e6 ? `${(x / 1e3).toPrecision(3)} kB` : `${(x / 1e6).toPrecision(3)} MB`);

  function rows() {
    const plan = plans[state.plan];
    const own = new Map((plan ? plan.choices : []).map((choice) => [choice.layer, choice]));
    return layers.map((layer) => ({ ...layer, form: "unchanged", ranks: "", kept: 1, bytes: null, deviation: 0,
      loss: plans.length ? 0 : layer.loss, ...(own.get(layer.number) || {}), number: layer.number, parameters: layer.parameters }));
  }

  function table() {
    const body = document.querySelector("#layers tbody");
    if (!body) return;
    const words = state.search.toLowerCase();
    const all = rows();
    const few = all.filter((row) => (!state.changed || row.changed || !plans.length)
      && `${row.name} ${row.weight} ${row.node} ${row.op} ${row.form}`.toLowerCase().includes(words));
    const number = (value) => (value === null ? -Infinity : value);
    few.sort((a, b) => {
      const [x, y] = [number(a[state.key]), number(b[state.key])];
      const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
      return (state.down ? -order : order) || a.number - b.number;
    });
    body.replaceChildren(...grouped(few).flatMap(([title, group]) => [...(title && group.length > 1 ? [head(title, group)] : []), ...group.map(line)]));
    document.getElementById("count").textContent = `${few.length} of ${all.length}`;
    document.querySelectorAll("#layers th button").forEach((button) => {
      const on = button.dataset.key === state.key;
      button.parentElement.setAttribute("aria-sort", on ? (state.down ? "descending" : "ascending") : "none");
    });
  }

  function grouped(few) {
    if (few.length <= 60 || state.key !== "number") return [["", few]];
    const groups = new Map();
    for (const row of few) {
      const parts = row.name.split(/[./]/).filter(Boolean);
      const number = parts.findIndex((part) => /^\d+$/.test(part)); // of a block, as in encoder.layer.3
      const prefix = parts.slice(0, number < 0 ? 2 : number + 1).join(".");
      groups.set(prefix, [...(groups.get(prefix) || []), row]);
    }
    return [...groups];
  }

  function head(title, group) {
    const row = document.createElement("tr");
    const cell = document.createElement("td");
    cell.colSpan = 9;
    cell.textContent = `${title} (${group.length})`;
    cell.style.fontWeight = "600";
    row.append(cell);
    return row;
  }

  function line(row) {
    const tr = document.createElement("tr");
    tr.tabIndex = 0;
    tr.className = row.number === state.layer ? "on" : "";
    const cells = [row.name, row.op, row.shape, row.form, row.ranks, `${(100 * row.kept).toFixed(1)} %`,
      row.bytes === null ? "" : size(row.bytes), shown(row.loss) + (row.beyond ? "*" : "")];
    if (document.querySelector('#layers th button[data-key="ms"]')) cells.push(row.ms ? row.ms.toPrecision(3) : "");
    cells.forEach((text, place) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (place === 1 || place === 3) cell.className = "words";
      tr.append(cell);
    });
    const choose = () => { state.layer = row.number; table(); curve(); };
    tr.addEventListener("click", choose);
    tr.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(); });
    return tr;
  }

  function losses() {
    if (!views.sensitivity || !plans.length) return;
    const top = rows().filter((row) => row.loss > 0).sort((a, b) => b.loss - a.loss).slice(0, 25);
    const data = top.map((row) => ({ name: row.label, form: row.form, loss: row.loss, deviation: row.deviation,
      low: Math.max(row.loss - row.deviation, 0), high: row.loss + row.deviation }));
    views.sensitivity.data("losses", data).runAsync();
  }

  function times() {
    if (!views.time || !plans.length) return;
    const data = rows().filter((row) => layers[row.number].ms).map((row) => ({ name: row.label, form: row.form, ms: row.ms,
      was: layers[row.number].ms })).sort((a, b) => b.was - a.was).slice(0, 25);
    views.time.data("times", data).runAsync();
  }

  function curve() {
    const title = document.getElementById("layer-name");
    if (title) title.textContent = layers.length ? layers[state.layer].name : "";
    if (views.curve) views.curve.signal("layer", state.layer).runAsync();
    if (views.spectrum) views.spectrum.signal("layer", state.layer).runAsync();
  }

  function plan() {
    const one = plans[state.plan];
    if (one) {
      document.getElementById("reason").textContent = one.reason;
      document.getElementById("about").textContent = one.about;
      document.getElementById("command").textContent = one.command;
      document.getElementById("copy").textContent = "copy";
      document.getElementById("plan").value = String(state.plan);
    }
    table();
    losses();
    times();
  }

  function drop() {
    const place = document.getElementById("drop");
    const told = JSON.parse(place.dataset.verdict);
    if (!told.drop) { place.remove(); return; }
    const ends = [told.drop.low, told.drop.high, told.allowed, told.bound, 0].filter((x) => x !== null);
    const [low, high] = [Math.min(...ends), Math.max(...ends)];
    const at = (x) => `${4 + (92 * (x - low)) / (high - low || 1)}%`;
    const add = (tag, left, text, kind) => {
      const made = document.createElement(tag);
      if (kind) made.className = kind;
      made.style.left = at(left);
      if (text) made.textContent = text;
      if (text && parseFloat(at(left)) > 70) made.style.transform = "translateX(calc(-100% - 4px))";
      if (text && parseFloat(at(left)) < 30) made.style.transform = "translateX(4px)";
      place.append(made);
      return made;
    };
    const span = add("b", told.drop.low === null ? low : told.drop.low);
    span.style.right = `${100 - parseFloat(at(told.drop.high === null ? high : told.drop.high))}%`;
    add("em", told.drop.estimate);
    const marks = [[0, "no drop", ""], [told.allowed, `allowed ${told.allowed}`, "far"]];
    if (told.bound_told) marks.push([told.bound, told.bound_told, told.certified ? "certified" : "bound"]);
    for (const [x, name, kind] of marks) {
      add("i", x, "", kind);
      add("span", x, name, kind);
    }
  }

  function sort(key) {
    state.down = state.key === key ? !state.down : false;
    state.key = key;
    table();
  }

  document.querySelectorAll("#layers th button").forEach((b) => b.addEventListener("click", () => sort(b.dataset.key)));
  if (layers.length) {
    document.getElementById("search").addEventListener("input", (e) => { state.search = e.target.value; table(); });
    if (plans.length) document.getElementById("changed").addEventListener("change", (e) => { state.changed = e.target.checked; table(); });
  }
  const select = document.getElementById("plan");
  if (select) select.addEventListener("change", () => { state.plan = Number(select.value); plan(); });
  const copy = document.getElementById("copy");
  if (copy) copy.addEventListener("click", () => {
    getSelection().selectAllChildren(document.getElementById("command"));
    if (document.execCommand("copy")) copy.textContent = "copied";
  });
  const first = rows().find((row) => row.changed);
  state.layer = first ? first.number : 0;
  drop();
  plan();
  const drawn = Object.entries(specs).map(async ([name, spec]) => {
    const place = document.getElementById(`chart-${name}`);
    if (!place) return;
    const { view } = await vegaEmbed(place, spec, { renderer: "svg", actions: false });
    views[name] = view;
    if (name === "size") view.addEventListener("click", (_, item) => {
      if (item && item.datum && Number.isInteger(item.datum.number)) { state.plan = item.datum.number; plan(); }
    });
  });
  Promise.all(drawn).then(() => { losses(); times(); curve(); document.body.dataset.drawn = "1"; });
})();
