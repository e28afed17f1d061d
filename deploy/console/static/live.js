// Draws the figures of the last 15 minutes, and keeps them up to date by the stream of events.
"use strict";

(() => {
  const KEPT = 450;
  const SPAN_SECONDS = 180; // at least, so that the first points don't fill the width
  const AGAIN_MS = 30000;
  const MEAN_POINTS = 30;
  const at = [];
  const figures = {};
  const charts = [];
  const connection = document.getElementById("connection");
  const away = document.getElementById("away");

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = (value) => {
    if (value === null || value === undefined) return "–";
    const digits = Number.isInteger(value) || Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
    return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  };
  const clock = (step) => {
    const parts = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(step < 60 ? { second: "2-digit" } : {}) };
    return (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB", parts);
  };

  const series = (section) => [...section.querySelectorAll("[data-figure]")].map((row) => row.dataset.figure);

  const data = (names) => [at, ...names.map((name) => figures[name] || at.map(() => null))];

  const draw = (section) => {
    const plot = section.querySelector(".plot");
    const names = series(section);
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false } };
    const font = "11px system-ui, sans-serif";
    const chart = new uPlot({
      width: plot.clientWidth,
      height: plot.clientHeight,
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, sync: { key: "live" }, drag: { x: false, y: false } },
      scales: { x: { range: (_, low, high) => [Math.min(low, high - SPAN_SECONDS), high] }, y: { range: (_, low, high) => [0, Math.max(high === null ? 0 : high * 1.1, 1)] } },
      series: [{}, ...names.map((_, index) => ({
        stroke: colour(`--c${index + 1}`), width: 1.5, points: { show: false }, spanGaps: false,
      }))],
      axes: [
        { ...axis, font, space: 64, size: 28, values: (_, splits, axis, space, step) => splits.map(clock(step)) },
        { ...axis, font, space: 36, size: 48, values: (_, splits) => splits.map(number) },
      ],
      hooks: { setCursor: [(self) => show(section, names, self.cursor.idx)] },
    }, data(names), plot);
    charts.push({ section, names, plot, chart });
  };

  // The column "now" shows what is under the pointer, while it is over a chart.
  const show = (section, names, index) => {
    const last = index === null || index === undefined ? at.length - 1 : index;
    for (const name of names) {
      const row = section.querySelector(`[data-figure="${name}"]`);
      row.querySelector('[data-of="now"]').textContent = number((figures[name] || [])[last]);
    }
  };

  const update = () => {
    for (const { section, names, chart } of charts) {
      chart.setData(data(names));
      if (chart.cursor.idx === null || chart.cursor.idx === undefined) show(section, names, null);
      for (const name of names) {
        const values = figures[name] || [];
        const known = values.filter((value) => value !== null);
        const minute = values.slice(-MEAN_POINTS).filter((value) => value !== null);
        const row = section.querySelector(`[data-figure="${name}"]`);
        const mean = minute.length ? minute.reduce((sum, value) => sum + value, 0) / minute.length : null;
        row.querySelector('[data-of="mean"]').textContent = number(mean);
        row.querySelector('[data-of="highest"]').textContent = number(known.length ? Math.max(...known) : null);
      }
    }
    for (const tile of document.querySelectorAll("[data-tile]")) {
      tile.textContent = number((figures[tile.dataset.tile] || []).at(-1));
    }
  };

  const showAway = (replicas) => {
    const text = replicas.length ? away.dataset.away.replace("{replicas}", replicas.join(", ")) : away.dataset.back;
    if (replicas.length || !away.hidden) {
      if (away.textContent !== text) away.textContent = text;
      away.classList.toggle("good", !replicas.length);
      away.hidden = false;
    }
  };

  const take = (event, replace) => {
    const sent = JSON.parse(event.data);
    if (replace) {
      at.length = 0;
      for (const name of Object.keys(figures)) delete figures[name];
    }
    const before = at.length;
    at.push(...sent.at);
    for (const [name, values] of Object.entries(sent.figures)) {
      figures[name] = figures[name] || new Array(before).fill(null);
      figures[name].push(...values);
    }
    const surplus = Math.max(0, at.length - KEPT);
    at.splice(0, surplus);
    for (const values of Object.values(figures)) values.splice(0, surplus);
    showAway(sent.away);
    update();
  };

  const say = (state) => {
    const text = connection.dataset[state];
    if (connection.textContent !== text) connection.textContent = text;
    connection.classList.toggle("good", state === "connected");
  };

  const listen = () => {
    const source = new EventSource("/live/stream");
    source.addEventListener("open", () => say("connected"));
    source.addEventListener("all", (event) => take(event, true));
    source.addEventListener("point", (event) => take(event, false));
    source.addEventListener("error", () => {
      // A browser resumes a lost stream by itself, but not after an answer that is none.
      const ended = source.readyState === EventSource.CLOSED;
      say(ended ? "ended" : "lost");
      if (ended) setTimeout(listen, AGAIN_MS);
    });
  };

  const redraw = () => {
    for (const { chart } of charts.splice(0)) chart.destroy();
    document.querySelectorAll("[data-chart]").forEach(draw);
    update();
  };

  redraw();
  new ResizeObserver(() => {
    for (const { chart, plot } of charts) chart.setSize({ width: plot.clientWidth, height: plot.clientHeight });
  }).observe(document.querySelector(".charts"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  listen();
})();
