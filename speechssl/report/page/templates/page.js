"use strict";
(() => {
  const GREY = "#8a8f95";
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x"];
  // Two of Okabe's and Ito's colours are too light for lines on white.
  const DEEPER = { "#e69f00": "#b57700", "#56b4e9": "#2b8cc0" };
  const MOST_COLOURS = COLOURS.length * SYMBOLS.length;
  const MOST_LISTED = 100;
  const MOST_IN_LEGEND = 4;
  const DASHES = { dash: "7 4", dot: "2 3", dashdot: "7 3 2 3" };
  const CONFIG = {
    responsive: true, displaylogo: false, scrollZoom: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" },
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const hidden = new Set();
  const redraws = [];
  let printing = false;

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const read = (root, selector) => JSON.parse(root.querySelector(selector).textContent);
  const clips = read(document, "#clips");

  // Plotly takes <b>, <a> and entities in texts for markup: names are text.
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  const unescaped = (text) => text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");

  function element(name, properties = {}, children = []) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function variable(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function shared(height) {
    const axis = {
      gridcolor: variable("--grid"), linecolor: variable("--line"), zerolinecolor: variable("--grid"),
      automargin: true,
    };
    const narrow = innerWidth < 760;
    return {
      height, autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: variable("--ink"), size: narrow ? 11 : 12, family: "system-ui, sans-serif" },
      margin: { l: narrow ? 45 : 60, r: 12, t: 10, b: 45 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      hoverlabel: { align: "left" }, xaxis: axis, yaxis: axis,
    };
  }

  function merged(base, extra) {
    const out = { ...base };
    for (const [key, value] of Object.entries(extra)) {
      const isObject = value && typeof value === "object" && !Array.isArray(value);
      out[key] = isObject ? merged(base[key] || {}, value) : value;
    }
    return out;
  }

  function coloured(traces) {
    if (dark.matches && !printing) return traces;
    let text = JSON.stringify(traces);
    for (const [light, deep] of Object.entries(DEEPER)) text = text.replaceAll(light, deep);
    return JSON.parse(text);
  }

  // ---- charts

  function chart(figure) {
    const data = read(figure, ".data");
    const plot = figure.querySelector(".plot");
    const menu = figure.querySelector(".variant");
    const chosen = () => data.variants[menu ? Number(menu.value) : 0];
    const draw = () => {
      const shown = chosen().filter((trace) => !hidden.has(trace.meta));
      const square = data.layout.yaxis && data.layout.yaxis.scaleanchor;
      const named = shown.filter((trace) => trace.name && trace.showlegend !== false);
      const below = innerWidth < 760 && named.length > MOST_IN_LEGEND && data.layout.showlegend !== false;
      const room = below ? 60 : 110;
      const height = square ? Math.min(data.height, figure.clientWidth + room) : data.height;
      plot.style.minHeight = `${height}px`;
      const layout = merged(shared(height), data.layout);
      if (below) layout.showlegend = false;
      const drawn = coloured(shown);
      legend(figure.querySelector(".legend"), below ? drawn : []);
      return Plotly.react(plot, drawn, layout, CONFIG);
    };
    if (menu) menu.addEventListener("change", draw);
    const details = figure.querySelector(".figures");
    const fill = () => {
      if (details.open) details.querySelector(".scroll").replaceChildren(table(chosen(), data.layout));
    };
    details.addEventListener("toggle", fill);
    if (menu) menu.addEventListener("change", fill);
    redraws.push(draw);
    return draw();
  }

  // On a telephone Plotly's legend of many names takes the place of the curves: it is HTML then.
  function legend(list, traces) {
    const named = traces.filter((trace) => trace.name && trace.showlegend !== false);
    list.hidden = named.length === 0;
    list.replaceChildren(...named.map((trace) => element("li", {}, [swatch(trace), unescaped(trace.name)])));
  }

  function swatch(trace) {
    const { color, dash } = trace.line || trace.marker || {};
    const made = (name, attributes) => {
      const one = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
      return one;
    };
    const svg = made("svg", { viewBox: "0 0 28 10", width: 28, height: 10, "aria-hidden": "true" });
    const pattern = DASHES[dash] || "none";
    svg.append(made("line", {
      x1: 0, x2: 28, y1: 5, y2: 5, stroke: color || GREY, "stroke-width": 2.5, "stroke-dasharray": pattern,
    }));
    return svg;
  }

  function table(traces, layout) {
    const title = (axis) => unescaped(((layout[axis] || {}).title || {}).text || "value");
    const head = ["", title("xaxis"), title("yaxis")];
    const body = element("tbody");
    for (const trace of traces.filter((one) => one.type !== "heatmap" && one.hoverinfo !== "skip")) {
      const step = Math.max(1, Math.ceil(trace.x.length / 50));
      for (let i = 0; i < trace.x.length; i += step) {
        const name = trace.meta || unescaped(trace.name || "");
        const what = Array.isArray(trace.text) ? `: ${unescaped(String(trace.text[i]))}` : "";
        // Where the axes are warped (normal deviates), customdata has the figures in their unit.
        const [x, y] = trace.customdata ? trace.customdata[i] : [trace.x[i], trace.y[i]];
        const cells = [name + what, x, y].map((value) => element("td", {
          textContent: typeof value === "number" ? String(Number(value.toPrecision(5))) : String(value),
        }));
        body.append(element("tr", {}, cells));
      }
    }
    for (const trace of traces.filter((one) => one.type === "heatmap")) {
      trace.y.forEach((name, row) => {
        const cells = [name, ...trace.z[row].map((share, i) => `${trace.x[i]}: ${(100 * share).toFixed(0)} %`)];
        body.append(element("tr", {}, cells.map((cell) => element("td", { textContent: cell }))));
      });
    }
    const cells = head.map((text) => element("th", { scope: "col", textContent: text }));
    return element("table", {}, [element("thead", {}, [element("tr", {}, cells)]), body]);
  }

  // ---- map

  function embeddingMap(figure) {
    const { maps } = read(figure, ".data");
    const find = (name) => figure.querySelector(name);
    const plot = find(".plot");
    const which = find(".which");
    const field = find(".field");
    const only = find(".only");
    const search = find(".search");
    const current = () => maps[Number(which.value)];
    const column = () => current().fields[field.value];

    function options(select, values) {
      select.replaceChildren(...values.map(([value, text]) => element("option", { value, textContent: text })));
    }
    function fields() {
      const before = field.value;
      const found = Object.keys(current().fields);
      options(field, found.length ? found.map((name) => [name, name]) : [["", "nothing"]]);
      if (found.includes(before)) field.value = before;
      only_values();
    }
    function only_values() {
      const found = column() ? column().names : [];
      const rows = found.slice(0, 500).map((name, i) => [String(i), name || "(not known)"]);
      options(only, [["", "all"], ...rows]);
    }
    function visible() {
      const map = current();
      const words = search.value.toLowerCase();
      const code = only.value === "" ? null : Number(only.value);
      return map.ids.map((_, i) => i).filter((i) =>
        (!words || map.ids[i].toLowerCase().includes(words)) &&
        (code === null || column().codes[i] === code));
    }
    function about(i) {
      const map = current();
      const lines = [`<b>${plain(map.ids[i])}</b>`];
      for (const [name, one] of Object.entries(map.fields)) {
        lines.push(`${plain(name)}: ${plain(one.names[one.codes[i]] || "not known")}`);
      }
      lines.push(map.clips[i] ? "click to play" : "no audio here");
      return lines.join("<br>");
    }
    function groups(rows) {
      const byCode = new Map();
      for (const i of rows) {
        const code = column() ? column().codes[i] : 0;
        const place = code < MOST_COLOURS && !(column() && column().names[code] === "") ? code : -1;
        if (!byCode.has(place)) byCode.set(place, []);
        byCode.get(place).push(i);
      }
      return [...byCode].sort((a, b) => a[0] - b[0]);
    }
    function draw() {
      const map = current();
      const rows = visible();
      const ink = variable("--ink");
      const traces = groups(rows).map(([code, members]) => ({
        type: "scatter", mode: "markers",
        name: code < 0 ? "others, or not known" : plain(column() ? column().names[code] : "utterances"),
        x: members.map((i) => map.x[i]), y: members.map((i) => map.y[i]),
        customdata: members, text: members.map(about), hovertemplate: "%{text}<extra></extra>",
        marker: {
          size: members.map((i) => (map.clips[i] ? 10 : 7)), opacity: 0.85,
          color: code < 0 ? GREY : COLOURS[code % COLOURS.length],
          symbol: code < 0 ? "circle" : SYMBOLS[Math.floor(code / COLOURS.length)],
          line: { color: ink, width: members.map((i) => (map.clips[i] ? 1.5 : 0)) },
        },
      }));
      const bare = { visible: false };
      // On a telephone the names of many groups would take more room than the map; a touch tells them.
      const narrow = innerWidth < 760;
      const named = traces.length > 1 && (!narrow || traces.length <= 8);
      let height = 620;
      if (narrow) height = named ? 460 : plot.clientWidth + 40;
      plot.style.minHeight = `${height}px`;
      const layout = merged(shared(height), {
        xaxis: bare, yaxis: { ...bare, scaleanchor: "x" }, hovermode: "closest",
        showlegend: named, legend: { y: -0.02, yanchor: "top", itemsizing: "constant" },
      });
      find(".count").textContent = `${rows.length} of ${map.ids.length} points`;
      list(rows);
      return Plotly.react(plot, coloured(traces), layout, CONFIG);
    }
    function list(rows) {
      const map = current();
      const heard = rows.filter((i) => map.clips[i]).slice(0, MOST_LISTED);
      find(".list ul").replaceChildren(...heard.map((i) => element("li", {}, [playButton(map.clips[i], map.ids[i])])));
      find(".list").hidden = heard.length === 0;
    }
    which.addEventListener("change", () => { fields(); draw(); });
    field.addEventListener("change", () => { only_values(); draw(); });
    only.addEventListener("change", draw);
    search.addEventListener("input", draw);
    fields();
    redraws.push(draw);
    return draw().then(() => plot.on("plotly_click", (event) => {
      const i = event.points[0].customdata;
      play(current().clips[i], current().ids[i]);
    }));
  }

  // ---- player

  function playButton(key, name) {
    const button = element("button", { type: "button", textContent: `▶ ${name}` });
    button.dataset.play = key;
    button.dataset.name = name;
    return button;
  }

  function play(key, name) {
    const audio = document.querySelector("#audio");
    document.querySelector("#player").hidden = false;
    const say = (text) => { document.querySelector("#playing").textContent = text; };
    if (!Object.hasOwn(clips, key)) {
      audio.removeAttribute("src");
      audio.load();
      say(`${name}: its audio is not in this page`);
      return;
    }
    audio.src = clips[key];
    say(name);
    audio.play().catch((error) => {
      if (error.name !== "AbortError") say(`${name}: this browser cannot play it (${error.name})`);
    });
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-play]");
    if (button) play(button.dataset.play, button.dataset.name);
  });
  document.querySelector("#close").addEventListener("click", () => {
    document.querySelector("#audio").pause();
    document.querySelector("#player").hidden = true;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.querySelector("#close").click();
  });

  // ---- what is shown

  const boxes = all("#filter input");
  function filter() {
    hidden.clear();
    for (const box of boxes) if (!box.checked) hidden.add(box.value);
    for (const row of all("tr[data-system]")) row.hidden = hidden.has(row.dataset.system);
    redraw();
  }
  for (const box of boxes) box.addEventListener("change", filter);
  for (const button of all("#filter button")) {
    button.addEventListener("click", () => {
      for (const box of boxes) box.checked = button.dataset.all === "true";
      filter();
    });
  }

  const redraw = () => { for (const one of redraws) one(); };
  dark.addEventListener("change", redraw);
  addEventListener("beforeprint", () => { printing = true; redraw(); });
  addEventListener("afterprint", () => { printing = false; redraw(); });

  const drawn = [...all("figure.chart").map(chart), ...all("figure.map").map(embeddingMap)];
  Promise.all(drawn).then(() => { document.documentElement.dataset.ready = "true"; });
})();
