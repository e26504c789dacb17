"use strict";
// Draws the charts of a page from the JSON in #data: {charts: [{title, note, series:
// [{name, color, dash, x: [], y: [], mx: [], my: []}]}]}; mx and my are means of long
// curves, drawn over them. Drag over a chart to look closer, double click to see all of
// it again.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.getElementById("charts");
  const drawn = [];
  const color = (n) => getComputedStyle(document.documentElement).getPropertyValue(n);
  const short = (v) => {
    if (!Number.isFinite(v)) return "";
    const a = Math.abs(v);
    if (a !== 0 && (a < 1e-3 || a >= 1e6)) return v.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
    return String(+v.toPrecision(4));
  };
  // A label with the digits that tell it from the next one.
  const tick = (v, step) => {
    const a = Math.abs(v);
    if (a >= 1e6 || a < 1e-3) return short(v);
    return String(+v.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9))));
  };
  const make = (tag, parent, text) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };

  // Round steps of 1, 2 or 5 times a power of ten, and their labels.
  const ticks = (low, high, count, least = 0) => {
    const raw = Math.max((high - low) / count || 1, least);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
    const out = [];
    for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9 && out.length < 50; k++) out.push([k * step, tick(k * step, step)]);
    return out;
  };

  // Index of the point whose x is nearest.
  const nearest = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle; else high = middle;
    }
    return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
  };

  const chart = (spec) => {
    const figure = make("figure", root);
    const caption = make("figcaption", figure);
    make("span", caption, spec.title);
    const label = make("label", caption);
    const log = make("input", label);
    log.type = "checkbox";
    label.append(" log");
    label.hidden = !spec.series.every((s) => s.y.every((v) => v > 0));
    const canvas = make("canvas", figure);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", spec.title);
    const keys = make("div", figure);
    keys.className = "keys";
    const values = spec.series.map((s) => {
      const key = make("span", keys);
      make("i", key).style.background = `var(--c${s.color})`;
      key.append(s.name + " ");
      return make("b", key);
    });
    if (spec.note) make("p", figure, spec.note).className = "dim";

    const all = spec.series.flatMap((s) => [s.x[0], s.x[s.x.length - 1]]);
    const whole = [Math.min(...all), Math.max(...all)];
    let range = whole, hover = null, drag = null, scale = null;

    const draw = () => {
      const ratio = window.devicePixelRatio || 1;
      const width = canvas.clientWidth, height = canvas.clientHeight;
      if (!width) return;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      const g = canvas.getContext("2d");
      g.scale(ratio, ratio);
      const [x0, x1] = range[0] === range[1] ? [range[0] - 1, range[1] + 1] : range;
      const y = log.checked ? Math.log10 : (v) => v;
      let low = Infinity, high = -Infinity;
      for (const s of spec.series) s.y.forEach((v, i) => {
        if (s.x[i] < x0 || s.x[i] > x1) return;
        low = Math.min(low, y(v)); high = Math.max(high, y(v));
      });
      if (low > high) { low = 0; high = 1; }
      const room = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
      low -= room; high += room;
      const left = 52, right = width - 8, top = 8, bottom = height - 20;
      const px = (v) => left + (v - x0) / (x1 - x0) * (right - left);
      const py = (v) => bottom - (y(v) - low) / (high - low) * (bottom - top);
      scale = (at) => x0 + (at - left) / (right - left) * (x1 - x0);
      g.font = "11px system-ui, sans-serif";
      g.fillStyle = color("--dim"); g.strokeStyle = color("--line"); g.lineWidth = 1;
      g.textAlign = "right"; g.textBaseline = "middle";
      for (const [t, text] of ticks(low, high, 5)) {
        const at = bottom - (t - low) / (high - low) * (bottom - top);
        g.beginPath(); g.moveTo(left, at); g.lineTo(right, at); g.stroke();
        g.fillText(log.checked ? short(10 ** t) : text, left - 5, at);
      }
      g.textAlign = "center"; g.textBaseline = "top";
      // Steps are whole.
      for (const [t, text] of ticks(x0, x1, Math.max(2, width / 90), 1)) {
        g.textAlign = right - px(t) < 16 ? "right" : "center";
        g.fillText(text, g.textAlign === "right" ? right : px(t), bottom + 5);
      }
      g.save(); g.beginPath(); g.rect(left - 3, 0, right - left + 6, height); g.clip();
      // The first ones, which matter most, lie on top.
      for (const s of spec.series.toReversed()) {
        g.strokeStyle = g.fillStyle = color(`--c${s.color}`);
        g.lineWidth = 1.5; g.setLineDash(s.dash ? [5, 3] : []);
        const line = (xs, ys) => {
          g.beginPath();
          xs.forEach((v, i) => i ? g.lineTo(px(v), py(ys[i])) : g.moveTo(px(v), py(ys[i])));
          g.stroke();
        };
        if (s.mx.length) {
          g.globalAlpha = 0.25; line(s.x, s.y); g.globalAlpha = 1;
          line(s.mx, s.my);
        } else line(s.x, s.y);
        if (s.x.length <= 40) s.x.forEach((v, i) => { g.beginPath(); g.arc(px(v), py(s.y[i]), 2.2, 0, 7); g.fill(); });
      }
      g.setLineDash([]);
      if (hover !== null) {
        g.strokeStyle = color("--dim"); g.beginPath(); g.moveTo(px(hover), top); g.lineTo(px(hover), bottom); g.stroke();
      }
      if (drag) { g.globalAlpha = 0.15; g.fillStyle = color("--c0"); g.fillRect(px(drag[0]), top, px(drag[1]) - px(drag[0]), bottom - top); }
      g.restore();
      spec.series.forEach((s, n) => {
        const i = hover === null ? s.x.length - 1 : nearest(s.x, hover);
        values[n].textContent = short(s.y[i]) + (hover === null ? "" : ` @ ${short(s.x[i])}`);
      });
    };
    const at = (event) => scale(event.clientX - canvas.getBoundingClientRect().left);
    canvas.addEventListener("pointermove", (e) => { hover = at(e); if (drag) drag[1] = hover; draw(); });
    canvas.addEventListener("pointerleave", () => { hover = null; drag = null; draw(); });
    canvas.addEventListener("pointerdown", (e) => { if (e.pointerType === "mouse") drag = [at(e), at(e)]; });
    canvas.addEventListener("pointerup", () => {
      if (drag) {
        const next = [Math.min(...drag), Math.max(...drag)];
        if (next[1] - next[0] > (range[1] - range[0]) / 50) range = next;
      }
      drag = null; draw();
    });
    canvas.addEventListener("dblclick", () => { range = whole; draw(); });
    log.addEventListener("change", draw);
    new ResizeObserver(draw).observe(canvas);
    drawn.push(draw);
  };
  data.charts.forEach(chart);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((draw) => draw()));
})();
