// SPDX-License-Identifier: Apache-2.0
"use strict";
(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function bytes(value) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let i = 0;
    while (Math.abs(value) >= 1024 && i < units.length - 1) { value /= 1024; i++; }
    const digits = Number.isInteger(value) || Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
    return value.toFixed(digits) + " " + units[i];
  }
  const percent = (value) => Number((value * 100).toFixed(2)) + "%";
  const day = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);
  const count = (value) => Math.round(value).toLocaleString("en");
  function clock(seconds) {
    if (seconds < 120) return Number(seconds.toFixed(seconds < 10 ? 2 : 1)) + " s";
    const s = Math.floor(seconds), two = (n) => String(n).padStart(2, "0");
    return s < 3600 ? Math.floor(s / 60) + ":" + two(s % 60) : Math.floor(s / 3600) + ":" + two(Math.floor(s / 60) % 60) + ":" + two(s % 60);
  }

  // Sizes are marked at powers of two, so that the axis has no odd fractions.
  function byteSplits(_plot, _axis, low, high) {
    let step = 4096;
    while ((high - low) / step > 5) step *= 2;
    const out = [];
    for (let v = Math.ceil(low / step) * step; v <= high; v += step) out.push(v);
    return out;
  }

  const charts = JSON.parse(document.getElementById("charts").textContent);
  // Charts with the same label share their axes: two recordings side by side must not look alike when they are not.
  const extents = new Map();
  for (const chart of charts) {
    const known = extents.get(chart.label) ?? { top: 1, end: 0 };
    const sums = chart.times.map((_, i) => chart.series.reduce((sum, s) => sum + (s.values[i] ?? 0), 0));
    extents.set(chart.label, { top: chart.unit === "share" ? Math.max(...sums, 1e-4) : Math.max(known.top, ...sums), end: Math.max(known.end, ...chart.times) });
  }

  function draw(element, chart) {
    element.replaceChildren();
    const format = { bytes, count, share: percent }[chart.unit];
    const when = chart.days ? day : clock;
    const sums = chart.times.map(() => 0);
    const stacked = chart.series.map((series) => series.values.map((v, i) => v === null ? null : (sums[i] += v)));
    const { top, end } = extents.get(chart.label);
    const legend = document.createElement("div");
    legend.className = "legend";
    // The uppermost area comes first: each one is drawn over, down to its own sum.
    const order = chart.series.map((_, i) => i).reverse();
    const axis = { stroke: css("--faint"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const say = (index) => {
      const last = chart.times.length - (chart.days ? 2 : 1);
      const i = index === null || index === undefined ? last : Math.min(index, last);
      const parts = [`<span class="when">${when(chart.times[i])}</span>`];
      for (const s of order) {
        const value = chart.series[s].values[i];
        parts.push(`<span><i class="key" style="--c:${chart.series[s].color}"></i>${chart.series[s].label} <b>${value === null ? "–" : format(value)}</b></span>`);
      }
      legend.innerHTML = parts.join("");
    };
    new uPlot({
      width: element.clientWidth, height: 220,
      legend: { show: false },
      cursor: { points: { show: false }, drag: { x: true, y: false }, y: false },
      scales: { x: { time: false, range: (_p, low, high) => low === chart.times[0] && high === chart.times[chart.times.length - 1] ? [chart.days ? low : 0, end] : [low, high] }, y: { range: [0, top * 1.02] } },
      axes: [
        { ...axis, values: (_p, ticks) => ticks.map(when), space: chart.days ? 110 : 80, incrs: chart.days ? [1, 2, 7, 14, 28, 91, 182, 364].map((n) => n * 86400) : undefined },
        { ...axis, size: 74, values: (_p, ticks) => ticks.map((v) => chart.unit !== "count" || Number.isInteger(v) ? format(v) : ""), splits: chart.unit === "bytes" ? byteSplits : undefined },
      ],
      series: [{}, ...order.map((s) => ({ label: chart.series[s].label, fill: chart.series[s].color, stroke: "transparent", width: 0, points: { show: false },
        paths: uPlot.paths.stepped({ align: 1 }) }))],
      hooks: { setCursor: [(plot) => say(plot.cursor.idx)] },
    }, [chart.times, ...order.map((s) => stacked[s])], element);
    element.append(legend);
    say(null);
  }

  const drawAll = () => document.querySelectorAll("[data-chart]").forEach((e) => draw(e, charts[Number(e.dataset.chart)]));
  drawAll();
  let width = innerWidth, waiting = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 120);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

  // Flame graph: a click makes one frame as wide as the page.
  document.querySelectorAll(".flame").forEach((flame) => {
    const frames = [...flame.querySelectorAll(".f")].map((e) => ({ e, d: Number(e.dataset.d), l: Number(e.dataset.l), w: Number(e.dataset.w) }));
    flame.addEventListener("click", (event) => {
      const on = frames.find((f) => f.e === event.target);
      if (!on) return;
      const end = on.l + on.w, slack = 1e-6;
      for (const f of frames) {
        const above = f.d <= on.d && f.l <= on.l + slack && f.l + f.w >= end - slack;
        const below = f.d > on.d && f.l >= on.l - slack && f.l + f.w <= end + slack;
        f.e.classList.toggle("out", !above && !below);
        f.e.style.left = above ? "0" : ((f.l - on.l) / on.w) * 100 + "%";
        f.e.style.width = above ? "100%" : (f.w / on.w) * 100 + "%";
      }
    });
  });

  // Maps: what is under the pointer, and the film.
  const names = ["no memory", "4K mappings", "2M mapping", "1G mapping"];
  const palettes = new Map();
  function classes(img) {
    if (!palettes.has(img.src)) {
      const canvas = document.createElement("canvas");
      canvas.width = img.naturalWidth; canvas.height = img.naturalHeight;
      const context = canvas.getContext("2d");
      context.drawImage(img, 0, 0);
      palettes.set(img.src, context.getImageData(0, 0, canvas.width, canvas.height));
    }
    return palettes.get(img.src);
  }
  const colors = ["4k", "2m", "1g"].map((l) => {
    const e = document.createElement("span");
    e.className = "l-" + l;
    document.body.append(e);
    const color = getComputedStyle(e).getPropertyValue("--c").trim();
    e.remove();
    return [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)).join();
  });
  document.querySelectorAll(".map").forEach((map) => {
    const img = map.querySelector("img"), out = map.querySelector("output");
    img.addEventListener("mousemove", (event) => {
      const box = img.getBoundingClientRect();
      const x = Math.min(img.naturalWidth - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * img.naturalWidth)));
      const y = Math.min(img.naturalHeight - 1, Math.max(0, Math.floor((event.clientY - box.top) / box.height * img.naturalHeight)));
      const row = Number(map.dataset.rows.split(",")[y]);
      if (row < 0) { out.textContent = "no memory"; return; }
      const cell = Number(map.dataset.cell), pfn = row + x * cell;
      const data = classes(img).data.slice((y * img.naturalWidth + x) * 4, (y * img.naturalWidth + x) * 4 + 4);
      const level = colors.indexOf([data[0], data[1], data[2]].join());
      const what = data[3] === 0 ? names[0] : level >= 0 ? names[level + 1] : "pages absent";
      out.textContent = `${bytes(pfn * 4096)} (pfn ${pfn}, 2M region ${Math.floor(pfn / 512)}): ${what}`;
    });
    img.addEventListener("mouseleave", () => { out.textContent = "\u00a0"; });
  });
  document.querySelectorAll(".film").forEach((film) => {
    const later = film.parentElement.querySelector(".map.later");
    const frames = [...film.querySelectorAll(".frame")];
    const show = (frame) => {
      frames.forEach((f) => f.classList.toggle("on", f === frame));
      later.querySelector("img").src = frame.querySelector("img").src;
      later.dataset.rows = frame.dataset.rows;
      const last = frame === frames[frames.length - 1];
      const caption = later.querySelector("figcaption");
      caption.dataset.end ??= caption.innerHTML;
      if (last) caption.innerHTML = caption.dataset.end;
      else caption.innerHTML = "<b></b>", caption.firstChild.textContent = "at " + frame.dataset.label;
    };
    frames.forEach((f) => f.addEventListener("click", () => show(f)));
    if (frames.length) frames[frames.length - 1].classList.add("on");
  });
})();
