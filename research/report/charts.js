/* Charts of a report page that react: hover, zoom, axes, smoothing, and curves switched on and off.

A <figure class=living> has a picture, for print and for readers without scripts, and its data as JSON. The figures of
one <div class=charts> share a Group: its tool bar, legend and filter. uPlot draws axes and grid, and reports the
cursor and what was selected; the curves are drawn here, because each has its own x. */
"use strict";

(() => {
  const DASHES = [[], [7, 3], [2, 3], [7, 3, 2, 3]];
  const FEW = 4; // curves that show their unsmoothed line too
  const SOME = 30; // points of a curve that has dots, and curves that have them
  const UNITS = [["s", 1, 600], ["min", 60, 36000], ["h", 3600, 864000], ["days", 86400, Infinity]]; // up to so many s
  const LABELS = { step: "step", tokens: "tokens, with padding", FLOPs: "FLOPs", time: "wall time" };

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (typeof value === "boolean") element.toggleAttribute(name, value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  function checkbox(text, checked, change) {
    const input = make("input", { type: "checkbox", change: () => change(input.checked) });
    input.checked = checked;
    return make("label", {}, input, ` ${text}`);
  }

  function floats(text) {
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Float32Array(bytes.buffer);
  }

  function number(value) {
    const size = Math.abs(value);
    if (size !== 0 && (size >= 1e7 || size < 1e-3)) return Number(value.toPrecision(4)).toExponential().replace("e+", "e");
    return value.toLocaleString("en", { maximumSignificantDigits: Math.max(5, Math.ceil(Math.log10(size + 1))) });
  }

  /* The index of the first value that is not less than `wanted`, in ascending values. */
  function firstAt(values, wanted) {
    let low = 0, high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  function interpolated(xs, ys, x) {
    const i = Math.min(Math.max(firstAt(xs, x), 1), xs.length - 1);
    if (xs.length < 2 || x >= xs[xs.length - 1] || x <= xs[0]) return x <= xs[0] ? ys[0] : ys[ys.length - 1];
    return ys[i - 1] + ((x - xs[i - 1]) / (xs[i] - xs[i - 1])) * (ys[i] - ys[i - 1]);
  }

  function runningMean(values, share) {
    const window = Math.max(1, Math.round(share * values.length));
    const means = new Float64Array(values.length);
    for (let i = 0, sum = 0; i < values.length; i++) {
      sum += values[i] - (i >= window ? values[i - window] : 0);
      means[i] = sum / Math.min(window, i + 1);
    }
    return means;
  }

  function padded([low, high], log) {
    if (log) return [low / Math.max(1.02, (high / low) ** 0.05), high * Math.max(1.02, (high / low) ** 0.05)];
    const margin = 0.05 * (high - low) || Math.abs(high) * 0.05 || 1;
    return [low - margin, high + margin];
  }

  /* Round positions for a logarithmic axis: powers of ten, with their multiples by 2 and 5 if there is room for `most`. */
  function logTicks(low, high, most) {
    const ticks = [], decades = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const each of [1, 2, 5]) ticks.push(Number((each * 10 ** power).toPrecision(12)));
      decades.push(10 ** power);
    }
    const inside = (values) => values.filter((value) => value >= low && value <= high);
    const some = inside(ticks), powers = inside(decades), every = Math.ceil(powers.length / most);
    if (some.length < 3) return roundTicks(low, high);
    return some.length <= most ? some : powers.length > 1 ? powers.filter((_, i) => i % every === 0) : some;
  }

  /* Equally distant round positions, for less than half a decade. */
  function roundTicks(low, high) {
    const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((each) => each * power >= rough);
    const ticks = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) ticks.push(Number((i * step).toPrecision(12)));
    return ticks;
  }

  /* Turn a filter such as "width=256 seed>1 small" into a function of a curve. Throws a sentence about unknown fields. */
  function parseFilter(text, known) {
    const tests = (text.match(/[^\s,]+/g) || []).map((word) => {
      const [, field, sign, wanted] = word.match(/^([^=<>!]+)(!=|<=|>=|=|<|>)(.*)$/) || [];
      if (field === undefined) return (curve) => `${curve.group} ${curve.name}`.toLowerCase().includes(word.toLowerCase());
      const name = known.find((each) => each.toLowerCase() === field.toLowerCase());
      if (name === undefined) throw new Error(`There is no field ${field}: ${known.join(", ")}.`);
      return (curve) => {
        const value = String(curve.fields[name]), order = Number(value) - Number(wanted);
        const equal = value.toLowerCase() === wanted.toLowerCase() || order === 0;
        if (sign === "=" || sign === "!=") return equal === (sign === "=");
        return (sign[0] === "<" ? order < 0 : order > 0) || (sign.length > 1 && equal);
      };
    });
    return (curve) => tests.every((test) => test(curve));
  }

  class Chart {
    constructor(group, figure) {
      this.group = group;
      this.figure = figure;
      this.zoom = null; // {x: [low, high], y: [low, high] or null}
      this.at = null; // {curve, index} under the cursor
      this.read();
      [this.logX, this.logY] = this.data.log;
      const button = (text, label, click) => make("button", { type: "button", "aria-label": label, click }, text);
      this.reset = button("Reset", `Reset the zoom of ${this.data.title}`, () => this.zoomTo(null));
      this.plot = make("div", {
        class: "plot", tabindex: "0", role: "application", "aria-roledescription": "chart",
        "aria-label": `${this.figure.dataset.alternative} Left and right move along a curve, up and down to another, plus`
          + " and minus zoom, Escape shows all.",
        keydown: (event) => this.key(event),
      });
      this.readout = make("p", { class: "readout", role: "status" });
      this.tip = make("div", { class: "tip", "aria-hidden": "true", hidden: true });
      this.dot = make("div", { class: "dot", hidden: true });
      this.trace = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      this.trace.classList.add("trace");
      this.trace.setAttribute("aria-hidden", "true");
      this.view = make("div", { class: "chart" },
        make("div", { class: "tools" }, make("strong", {}, this.data.title),
          checkbox("log x", this.logX, (checked) => { this.logX = checked; this.rebuild(); }),
          checkbox("log y", this.logY, (checked) => { this.logY = checked; this.rebuild(); }),
          button("−", `Zoom out of ${this.data.title}`, () => this.zoomBy(2)),
          button("+", `Zoom into ${this.data.title}`, () => this.zoomBy(0.5)), this.reset),
        this.plot, this.readout);
      figure.querySelector(".picture").after(this.view);
      figure.classList.add("drawn");
    }

    read() {
      this.data = JSON.parse(this.figure.querySelector("script").textContent);
      this.data.curves.forEach((curve, number) => { curve.number = number; });
      this.arrays = [];
      this.lines = new Map();
    }

    array(index) {
      this.arrays[index] ??= floats(this.data.arrays[index]);
      return this.arrays[index];
    }

    /* The x and y of a curve as the group's axis and smoothing have them; `plain` is not smoothed. */
    line(curve, plain = false) {
      const { axis, smoothing } = this.group, smooth = !plain && curve.smooth && smoothing > 0;
      const key = `${curve.number} ${axis} ${smooth && smoothing}`;
      if (!this.lines.has(key)) {
        const [xs, ys] = (smooth && curve.means || curve.points).map((index) => this.array(index));
        this.lines.set(key, { x: this.placed(curve, xs, axis), y: smooth ? runningMean(ys, smoothing) : ys });
      }
      return this.lines.get(key);
    }

    placed(curve, steps, axis) {
      const scale = { tokens: curve.scales?.[0], FLOPs: curve.scales?.[1] }[axis];
      if (scale) return Float64Array.from(steps, (step) => step * scale);
      if (axis !== "time" || !curve.clock) return steps;
      const [knots, seconds] = curve.clock.map((index) => this.array(index));
      return Float64Array.from(steps, (step) => interpolated(knots, seconds, step));
    }

    shown() {
      return this.data.curves.filter((curve) => this.group.shows(curve));
    }

    /* The ranges of both axes: what was zoomed to, or what the visible curves cover. */
    ranges() {
      const { logX, logY } = this, fits = (value, log) => !log || value > 0;
      const few = this.shown().length <= FEW;
      const lines = this.shown().flatMap((curve) => few ? [this.line(curve), this.line(curve, true)] : [this.line(curve)]);
      for (const curve of this.shown().filter((each) => each.spread !== undefined)) {
        const { x, y } = this.line(curve), spread = this.array(curve.spread);
        lines.push({ x, y: y.map((value, i) => value - spread[i]) }, { x, y: y.map((value, i) => value + spread[i]) });
      }
      let x = [Infinity, -Infinity], y = [Infinity, -Infinity];
      const grow = (range, value) => { range[0] = Math.min(range[0], value); range[1] = Math.max(range[1], value); };
      for (const { x: xs } of lines) for (const value of xs) if (fits(value, logX)) grow(x, value);
      x = this.zoom?.x ?? (x[0] < x[1] && !this.data.x ? x : padded(x[0] <= x[1] ? x : [1, 10], logX));
      if (this.zoom?.y) return { x, y: this.zoom.y };
      for (const line of lines) {
        const late = this.data.settled && !this.zoom ? 0.1 * line.x[line.x.length - 1] : -Infinity;
        for (let i = 0; i < line.x.length; i++)
          if (line.x[i] >= Math.max(x[0], late) && line.x[i] <= x[1] && fits(line.y[i], logY)) grow(y, line.y[i]);
      }
      return { x, y: padded(y[0] <= y[1] ? y : [1, 10], logY) };
    }

    /* --- Drawing --- */

    build() {
      const log = { x: this.logX, y: this.logY };
      const unit = this.group.axis === "time" && UNITS.find(([, , most]) => this.ranges().x[1] < most);
      const values = (size) => (_, ticks) => ticks.map((tick) => (tick === null ? "" : number(tick / size)));
      const axis = (scale, label, size) => ({
        scale, label, labelSize: 20, font: "12px system-ui", labelFont: "12px system-ui", stroke: "#444",
        grid: { stroke: "#0002", width: 1 }, ticks: { stroke: "#0004", width: 1 }, values: values(size),
        ...(log[scale] ? {
          splits: (u, _, low, high) => logTicks(low, high, scale === "x" ? u.width / 80 : u.height / 40),
          filter: (_, ticks) => ticks,
        } : {}),
      });
      const label = this.data.x || LABELS[this.group.axis] + (unit ? ` (${unit[0]})` : "");
      this.uplot?.destroy();
      this.uplot = new uPlot({
        ...this.size(), legend: { show: false }, padding: [8, 26, 0, 0],
        scales: {
          x: { time: false, distr: log.x ? 3 : 1, range: (_, low, high) => [low, high] }, // not whole decades
          y: { distr: log.y ? 3 : 1, range: (_, low, high) => [low, high] },
        },
        series: [{}, { paths: () => null, points: { show: false } }],
        axes: [axis("x", label, unit ? unit[1] : 1), { ...axis("y", this.data.y, 1), size: 62 }],
        cursor: {
          points: { show: false }, drag: { x: true, y: true, uni: 24, setScale: false },
          bind: { dblclick: () => () => { this.zoomTo(null); return null; } },
        },
        hooks: {
          drawClear: [], draw: [(u) => this.draw(u)], setCursor: [(u) => this.hover(u)],
          setSelect: [(u) => this.select(u)],
        },
      }, [[1, 2], [1, 2]], this.plot);
      this.uplot.over.append(this.trace, this.dot, this.tip);
      this.update();
      this.figure.dataset.drawn = "yes";
    }

    size() {
      const width = Math.max(240, this.plot.clientWidth);
      return { width, height: Math.round(Math.min(380, Math.max(260, 0.6 * width))) };
    }

    update() {
      this.reset.disabled = this.zoom === null;
      if (!this.uplot) return;
      const { x, y } = this.ranges();
      this.uplot.batch(() => {
        this.uplot.setScale("x", { min: x[0], max: x[1] });
        this.uplot.setScale("y", { min: y[0], max: y[1] });
        this.uplot.redraw(false, true);
      });
      this.clearCursor();
    }

    rebuild() {
      this.zoom = null;
      if (this.uplot) this.build();
    }

    /* A function from values of a scale to pixels of the canvas. */
    position(u, name) {
      const { min, max, distr } = u.scales[name], { left, top, width, height } = u.bbox;
      const at = distr === 3 ? Math.log10 : (value) => value, low = at(min), size = at(max) - low;
      return name === "x" ? (value) => left + ((at(value) - low) / size) * width
        : (value) => top + height - ((at(value) - low) / size) * height;
    }

    draw(u) {
      const shown = this.shown(), context = u.ctx, { left, top, width, height } = u.bbox, ratio = devicePixelRatio;
      context.save();
      context.beginPath();
      context.rect(left, top, width, height);
      context.clip();
      context.lineJoin = "round";
      const places = [this.position(u, "x"), this.position(u, "y")];
      for (const curve of shown) {
        const style = this.group.style(curve), smoothed = curve.smooth && this.group.smoothing > 0;
        context.strokeStyle = context.fillStyle = style.colour;
        context.setLineDash(style.dash.map((length) => length * ratio));
        context.lineWidth = (shown.length > SOME ? 0.8 : 1.5) * ratio;
        if (smoothed && shown.length <= FEW) {
          context.globalAlpha = 0.3;
          this.stroke(u, this.line(curve, true), places);
          context.globalAlpha = 1;
        }
        this.stroke(u, this.line(curve), places);
        context.setLineDash([]);
        this.dots(context, curve, places, ratio, shown.length);
      }
      context.restore();
    }

    stroke(u, { x, y }, [across, down]) {
      const { min, max } = u.scales.x, context = u.ctx;
      const end = Math.min(x.length, firstAt(x, max) + 1);
      context.beginPath();
      for (let i = Math.max(0, firstAt(x, min) - 1); i < end; i++) context.lineTo(across(x[i]), down(y[i]));
      context.stroke(); // logarithms of what is not positive are not finite: such points are left out
    }

    dots(context, curve, [across, down], ratio, count) {
      const { x, y } = this.line(curve), spread = curve.spread === undefined ? null : this.array(curve.spread);
      if (x.length > 1 && (x.length > SOME || count > SOME)) return;
      for (let i = 0; i < x.length; i++) {
        context.beginPath();
        context.arc(across(x[i]), down(y[i]), 2.5 * ratio, 0, 7);
        context.fill();
        if (!spread) continue;
        context.beginPath();
        context.moveTo(across(x[i]), down(y[i] - spread[i]));
        context.lineTo(across(x[i]), down(y[i] + spread[i]));
        context.stroke();
      }
    }

    /* --- Cursor and zoom --- */

    hover(u) {
      if (u.cursor.left < 0) return this.keyboard || this.clearCursor();
      this.keyboard = false;
      const x = u.posToVal(u.cursor.left, "x");
      let least = Infinity, found = null;
      for (const curve of this.shown()) {
        const line = this.line(curve), first = u.valToPos(line.x[0], "x"), last = u.valToPos(line.x[line.x.length - 1], "x");
        const aside = Math.max(0, first - u.cursor.left, u.cursor.left - last);
        const distance = Math.hypot(aside, u.valToPos(interpolated(line.x, line.y, x), "y") - u.cursor.top);
        if (distance < least) [least, found] = [distance, curve];
      }
      if (found) this.show(found, this.closest(this.line(found).x, x));
    }

    closest(xs, x) {
      const after = Math.min(firstAt(xs, x), xs.length - 1), before = Math.max(0, after - 1);
      return x - xs[before] < xs[after] - x ? before : after;
    }

    show(curve, index) {
      const u = this.uplot, { x, y } = this.line(curve), style = this.group.style(curve);
      const left = u.valToPos(x[index], "x"), top = u.valToPos(y[index], "y");
      const { clientWidth: width, clientHeight: height } = u.over;
      this.at = { curve, index };
      this.dot.hidden = this.tip.hidden = false;
      this.dot.style.transform = `translate(${left}px, ${top}px)`;
      this.dot.style.background = style.colour;
      const lines = [curve.name, this.placeText(x[index]), `${this.data.y}: ${number(y[index])}`];
      if (curve.spread !== undefined) lines[2] += ` ± ${number(this.array(curve.spread)[index])}`;
      if (this.tip.textContent !== lines.join("\n")) this.tip.textContent = lines.join("\n");
      this.tip.style.left = left < width / 2 ? `${left + 12}px` : "";
      this.tip.style.right = left < width / 2 ? "" : `${width - left + 12}px`;
      this.tip.style.top = `${Math.max(0, Math.min(height - this.tip.offsetHeight, top - this.tip.offsetHeight / 2))}px`;
      this.highlight(u, curve, style);
      clearTimeout(this.timer);
      this.timer = setTimeout(() => { this.readout.textContent = lines.join(", "); }, 120);
    }

    placeText(x) {
      if (this.data.x) return `${this.data.x}: ${number(x)}`;
      if (this.group.axis !== "time") return `${this.group.axis} ${number(x)}`;
      const parts = [Math.floor(x / 3600), Math.floor(x / 60) % 60, Math.floor(x) % 60];
      return `wall time ${parts.map((part) => String(part).padStart(2, "0")).join(":")}`;
    }

    highlight(u, curve, style) {
      if (this.trace.dataset.curve === String(curve.number)) return;
      const { x, y } = this.line(curve), points = [];
      const end = Math.min(x.length, firstAt(x, u.scales.x.max) + 1);
      for (let i = Math.max(0, firstAt(x, u.scales.x.min) - 1); i < end; i++) {
        const place = [u.valToPos(x[i], "x"), u.valToPos(y[i], "y")];
        if (place.every(Number.isFinite)) points.push(place.map((each) => each.toFixed(1)).join(","));
      }
      const stroke = document.createElementNS(this.trace.namespaceURI, "polyline");
      stroke.setAttribute("points", points.join(" "));
      stroke.style.stroke = style.colour;
      this.trace.dataset.curve = curve.number;
      this.trace.replaceChildren(stroke);
    }

    clearCursor() {
      this.at = null;
      this.keyboard = false;
      this.dot.hidden = this.tip.hidden = true;
      this.trace.replaceChildren();
      clearTimeout(this.timer);
      this.readout.textContent = "";
      delete this.trace.dataset.curve;
    }

    select(u) {
      const { left, top, width, height } = u.select;
      if (width < 4 && height < 4) return;
      const y = height < u.over.clientHeight - 1 ? [u.posToVal(top + height, "y"), u.posToVal(top, "y")] : null;
      const x = width < u.over.clientWidth - 1 ? [u.posToVal(left, "x"), u.posToVal(left + width, "x")] : this.ranges().x;
      u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      this.zoomTo({ x, y });
    }

    zoomTo(zoom) {
      this.zoom = zoom;
      this.update();
    }

    zoomBy(factor) {
      if (!this.uplot) return;
      const around = ({ min, max }, log, centre) => {
        const to = log ? Math.log10 : (value) => value, from = log ? (value) => 10 ** value : (value) => value;
        const middle = centre === undefined ? (to(min) + to(max)) / 2 : to(centre);
        return [from(middle - (middle - to(min)) * factor), from(middle + (to(max) - middle) * factor)];
      };
      const { curve, index } = this.at || {}, line = curve && this.line(curve), { x, y } = this.uplot.scales;
      this.zoomTo({ x: around(x, this.logX, line?.x[index]), y: around(y, this.logY, line?.y[index]) });
      if (curve) this.show(curve, index);
    }

    key(event) {
      if (!this.uplot || event.ctrlKey || event.metaKey || event.altKey) return;
      const sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key], upwards = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      const shown = this.shown();
      if (event.key === "Escape") this.zoomTo(null);
      else if (event.key === "+" || event.key === "=") this.zoomBy(0.5);
      else if (event.key === "-") this.zoomBy(2);
      else if ((sideways || upwards || ["Home", "End"].includes(event.key)) && shown.length) this.move(event, sideways, upwards);
      else return;
      event.preventDefault();
    }

    move(event, sideways, upwards) {
      const shown = this.shown(), { min, max } = this.uplot.scales.x;
      let curve = this.at?.curve ?? shown[0], { x } = this.line(curve);
      const place = this.at ? x[this.at.index] : x[0];
      if (upwards) curve = shown[(shown.indexOf(curve) + upwards + shown.length) % shown.length];
      x = this.line(curve).x;
      const first = Math.min(firstAt(x, min), x.length - 1), last = Math.max(first, firstAt(x, max * (1 + 1e-9)) - 1);
      let index = this.closest(x, place) + (this.at ? (sideways || 0) * (event.shiftKey ? 10 : 1) : 0);
      index = { Home: first, End: last }[event.key] ?? index;
      this.keyboard = true;
      this.show(curve, Math.min(last, Math.max(first, index)));
    }
  }

  class Group {
    constructor(container) {
      this.container = container;
      this.hidden = new Set(); // names in the legend
      this.each = false; // every seed in place of their mean
      this.matches = () => true;
      this.charts = [...container.querySelectorAll("figure.living")].map((figure) => new Chart(this, figure));
      const curves = this.curves();
      this.axis = this.charts[0].data.axes[0] || "";
      this.smoothing = Math.max(...this.charts.map((chart) => chart.data.smoothing));
      this.names = [...new Set(curves.map((curve) => curve.group))];
      this.status = make("p", { class: "readout", role: "status" });
      const controls = this.controls(curves);
      const bar = make("div", { class: "tools", role: "group", "aria-label": "Settings of the charts below" }, ...controls, this.status);
      if (controls.length) container.before(bar);
      const several = (chart) => new Set(chart.data.curves.map((curve) => curve.group)).size > 1;
      if (this.charts.some(several)) container.before(this.makeLegend());
      else this.names = null; // one curve a chart
      this.draw();
    }

    curves() {
      return this.charts.flatMap((chart) => chart.data.curves);
    }

    shows(curve) {
      const rightKind = curve.each === undefined || curve.each === this.each;
      return rightKind && !this.hidden.has(curve.group) && this.matches(curve);
    }

    style(curve) {
      const { colours } = this.charts[0].data, place = this.names?.indexOf(curve.group) ?? 0;
      return { colour: colours[place % colours.length], dash: DASHES[Math.floor(place / colours.length) % DASHES.length] };
    }

    /* Draw each chart when it comes near the screen. */
    draw() {
      const watch = new IntersectionObserver((entries) => {
        for (const entry of entries.filter((each) => each.isIntersecting)) {
          watch.unobserve(entry.target);
          this.charts.find((chart) => chart.plot === entry.target).build();
        }
      }, { rootMargin: "200px" });
      const resized = new ResizeObserver((entries) => {
        for (const { target } of entries) {
          const chart = this.charts.find((each) => each.plot === target);
          if (chart.uplot && chart.uplot.width !== chart.size().width) { chart.uplot.setSize(chart.size()); chart.clearCursor(); }
        }
      });
      for (const chart of this.charts) { watch.observe(chart.plot); resized.observe(chart.plot); }
    }

    controls(curves) {
      const { axes } = this.charts[0].data, controls = [];
      if (axes.length > 1) {
        const options = axes.map((axis) => make("option", { value: axis }, axis === "time" ? "wall time" : axis));
        const select = make("select", { change: () => { this.axis = select.value; this.rebuild(); } }, ...options);
        controls.push(make("label", {}, "x: ", select));
      }
      if (curves.some((curve) => curve.smooth)) {
        const text = () => `${Math.round(100 * this.smoothing)} %`, shown = make("span", {}, text());
        const slider = make("input", {
          type: "range", min: "0", max: "30", step: "1", value: String(Math.round(100 * this.smoothing)),
          input: () => { this.smoothing = slider.value / 100; shown.textContent = text(); this.changed(); },
        });
        controls.push(make("label", { title: "running mean over this share of a curve's points" }, "smoothing ", slider, " ", shown));
      }
      if (curves.some((curve) => curve.each)) controls.push(checkbox("every seed", false, (checked) => { this.each = checked; this.filter(); }));
      if (curves.some((curve) => Object.keys(curve.fields).length)) controls.push(...this.filterControl(curves));
      return controls;
    }

    filterControl(curves) {
      const choices = new Set(curves.flatMap((curve) => Object.entries(curve.fields).map(([name, value]) => `${name}=${value}`)));
      const list = make("datalist", { id: `filter-${document.querySelectorAll("datalist").length}` });
      list.append(...[...choices].slice(0, 200).map((value) => make("option", { value })));
      this.words = make("input", {
        type: "text", list: list.id, placeholder: [...choices][0], spellcheck: "false", input: () => this.filter(),
        title: "FIELD=VALUE, also with !=, <, <=, > and >=, or a part of a name; several with spaces between",
      });
      return [make("label", { class: "filter" }, "filter ", this.words), list];
    }

    filter() {
      const curves = this.curves().filter((curve) => curve.each === undefined || curve.each === this.each);
      const known = [...new Set(curves.flatMap((curve) => Object.keys(curve.fields)))];
      try {
        this.matches = parseFilter(this.words?.value || "", known);
      } catch (error) {
        this.status.textContent = error.message;
        return;
      }
      this.changed();
      const all = new Set(curves.map((curve) => curve.name)), shown = new Set(curves.filter((curve) => this.shows(curve)).map((curve) => curve.name));
      this.status.textContent = shown.size < all.size ? `${shown.size} of ${all.size} curves shown` : "";
    }

    makeLegend() {
      const entries = this.names.map((name) => {
        const { colour, dash } = this.style({ group: name }), swatch = make("span", { class: "swatch" });
        swatch.style.borderTop = `3px ${["solid", "dashed", "dotted", "double"][DASHES.indexOf(dash)]} ${colour}`;
        const entry = make("button", { type: "button", "aria-pressed": "true", click: () => this.toggle([name], !this.hidden.has(name)) });
        entry.append(swatch, name);
        return entry;
      });
      const both = [["all", false], ["none", true]].map(([text, hide]) =>
        make("button", { type: "button", "aria-label": `Show ${text} of the curves`, click: () => this.toggle(this.names, hide) }, text));
      this.entries = entries;
      return make("div", { class: "legend", role: "group", "aria-label": "Curves to show" }, ...(entries.length > 2 ? both : []), ...entries);
    }

    toggle(names, hide) {
      for (const name of names) this.hidden[hide ? "add" : "delete"](name);
      this.entries.forEach((entry, place) => entry.setAttribute("aria-pressed", String(!this.hidden.has(this.names[place]))));
      this.filter();
    }

    changed() {
      for (const chart of this.charts) chart.update();
    }

    rebuild() {
      for (const chart of this.charts) chart.rebuild();
    }
  }

  let groups = [], tag = null; // of the page that was taken over last
  const start = () => {
    groups = [...document.querySelectorAll(".charts")].filter((each) => each.querySelector("figure.living")).map((each) => new Group(each));
  };

  /* A served page asks for itself again, and takes over what changed: figures keep their zoom and settings. */
  async function refresh() {
    const answer = await fetch(location.href).catch(() => null);
    const state = document.querySelector(".state");
    if (!answer || !answer.ok) { state.dataset.stale = "not updated: the server does not answer"; return; }
    delete state.dataset.stale;
    if (answer.headers.get("ETag") === tag) return;
    tag = answer.headers.get("ETag");
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    const shape = (page) => [...page.querySelectorAll("figure.living, h2")].map((each) => each.dataset.title || each.textContent).join("\n");
    if (shape(next) !== shape(document)) { location.reload(); return; }
    const [olds, news] = [document, next].map((page) => [...page.querySelectorAll(".state, .scroll, figure.living > script")]);
    if (olds.length !== news.length) { location.reload(); return; }
    olds.forEach((old, place) => { if (old.textContent !== news[place].textContent) old.replaceChildren(...news[place].childNodes); });
    for (const group of groups) {
      for (const chart of group.charts) chart.read();
      if (group.curves().some((curve) => group.names && !group.names.includes(curve.group))) { location.reload(); return; }
      group.changed();
    }
  }

  start();
  const { every } = document.documentElement.dataset;
  if (every) setInterval(() => { if (!document.hidden) refresh(); }, 1000 * every);
})();
