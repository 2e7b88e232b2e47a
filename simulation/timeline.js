"use strict";
const byId = id => document.getElementById(id);
const run = JSON.parse(byId("run").textContent), moments = run.moments;
const [NOW, WHO, KIND, WHAT, TO, UNTIL] = [0, 1, 2, 3, 4, 5];
const ARROWS_MAX = 3000, LINES_MAX = 300, ROWS_MAX = 6, COLOURS = 12;
const AXIS = 24, GUTTER = 90, ROW = 16, BAND = 20;
const canvas = byId("chart"), pen = canvas.getContext("2d");
const end = Math.max(run.end, run.begin + 1e-3), margin = (end - run.begin) * 0.02;
let left, right, width = 0, height = AXIS + 4, chosen = null, colours = {};
let kept = [], keptMessages = [];  // indexes of the moments that the filters let through
let drawn = [], texts = [];  // of one picture: what can be pointed at, what is written last

// --- lanes: the world, the nodes, the clients; bars that overlap lie in rows of their own ---

const lanes = new Map();
const laneOf = who => lanes.get(who) || lanes.get("");
for (const name of ["", ...run.nodes, ...run.clients]) {
  const kind = name === "" ? "world" : run.nodes.includes(name) ? "node" : "client";
  lanes.set(name, { name, kind, bars: [], bands: [], ends: [] });
}
const covered = new Set();  // moments that need no marker of their own
const keyOf = (lane, time, who, what) => [time, who, lane.kind === "client" || what].join();
for (const [who, style, begin, end, what] of [...run.spans].sort((a, b) => a[2] - b[2])) {
  const lane = laneOf(who), ends = lane.ends, span = { who, style, begin, end, what };
  if (style !== "leads") covered.add(keyOf(lane, begin, who, what));
  if (lane.kind === "client") covered.add(keyOf(lane, end, who, what));
  if (style === "dead" || style === "leads") { lane.bands.push(span); continue; }
  const free = ends.findIndex(end => end <= begin);
  span.row = free < 0 ? Math.min(ends.length, ROWS_MAX - 1) : free;
  ends[span.row] = Math.max(ends[span.row] || 0, end);
  lane.bars.push(span);
}
for (const lane of lanes.values()) {
  const rows = Math.max(lane.ends.length, lane.kind === "client" ? 1 : 0);
  lane.top = height;
  lane.middle = height + rows * ROW + { world: 8, node: 4 + BAND / 2, client: -ROW / 2 }[lane.kind];
  height = lane.middle + { world: 16, node: BAND / 2 + ROW + 10, client: ROW / 2 + 4 }[lane.kind];
  lane.bottom = height;
}

// --- what is shown ---

const shown = {}, types = new Map();  // the first word of a message -> {count, colour, shown}
const typeOf = moment => types.get(moment[WHAT].split(" ", 1)[0]);
for (const moment of moments.filter(moment => moment[KIND] === "message")) {
  const name = moment[WHAT].split(" ", 1)[0];
  if (!types.has(name)) types.set(name, { count: 0, shown: true });
  types.get(name).count += 1;
}
byId("types").hidden = types.size === 0;
[...types].sort((a, b) => b[1].count - a[1].count).forEach(([name, type], number) => {
  const label = document.createElement("label"), box = document.createElement("input");
  const swatch = document.createElement("i"), count = document.createElement("small");
  type.colour = "m" + number % COLOURS;
  [box.type, box.checked, count.textContent] = ["checkbox", true, type.count];
  [swatch.textContent, swatch.style.color] = ["→", `var(--${type.colour})`];
  label.append(box, swatch, name + " ", count);
  box.addEventListener("change", () => { type.shown = box.checked; filter(); });
  byId("types").append(label);
});
for (const box of document.querySelectorAll("input[data-kind]")) {
  const kind = box.dataset.kind, count = moments.filter(moment => moment[KIND] === kind).length;
  box.parentNode.querySelector("small").textContent = count;
  box.disabled = count === 0;
  shown[kind] = true;
  box.addEventListener("change", () => { shown[kind] = box.checked; filter(); });
}
byId("text").addEventListener("input", filter);

const wanted = text => text.toLowerCase().includes(byId("text").value.toLowerCase());
function filter() {
  [kept, keptMessages] = [[], []];
  moments.forEach((moment, index) => {
    const isMessage = moment[KIND] === "message";
    if (!shown[moment[KIND]] || isMessage && !typeOf(moment).shown) return;
    if (!wanted(`${moment[WHO]} ${moment[WHAT]} ${moment[TO] || ""}`)) return;
    (isMessage ? keptMessages : kept).push(index);
  });
  refresh();
}

// --- drawing ---

const xOf = time => GUTTER + (time - left) / (right - left) * (width - GUTTER);
const timeOf = x => left + (x - GUTTER) / (width - GUTTER) * (right - left);
const isInView = (from, to) => to >= left && from <= right;
let isWaiting = false, listing = 0;

function refresh() {
  if (!isWaiting) requestAnimationFrame(() => { isWaiting = false; draw(); });
  isWaiting = true;
  clearTimeout(listing);
  listing = setTimeout(list, 120);
}

function draw() {
  const scale = window.devicePixelRatio || 1;
  width = canvas.clientWidth;
  canvas.style.height = height + 4 + "px";
  [canvas.width, canvas.height] = [width * scale, (height + 4) * scale];
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  [drawn, texts] = [[], []];
  for (const lane of lanes.values()) {
    box("line", 0, lane.bottom - 1, width, 1);
    write(lane.kind === "node" ? "ink" : "dim", lane.name || "world", 8, lane.middle, GUTTER - 12);
  }
  pen.save();
  pen.beginPath();
  pen.rect(GUTTER, 0, width - GUTTER, height);
  pen.clip();
  drawAxis();
  drawSpans();
  drawMessages();
  texts.forEach(text => write(...text));
  drawMarkers();
  drawEnd();
  pen.restore();
}

function box(colour, x, y, wide, tall) {
  pen.fillStyle = colours[colour];
  pen.fillRect(x, y, wide, tall);
}

// As much of a text as there is room for, and nothing where that would say nothing.
function write(colour, text, x, y, room) {
  if (room < 20) return;
  pen.save();
  pen.beginPath();
  pen.rect(x, y - 8, room, 17);
  pen.clip();
  pen.fillStyle = colours[colour];
  pen.fillText(text, x, y + 0.5);
  pen.restore();
}

function rule(x, colour) {
  for (let y = AXIS; y < height; y += 8) box(colour, x, y, 1, 4);
}

function drawAxis() {
  const rough = (right - left) * 110 / (width - GUTTER);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  for (let count = Math.ceil(left / step); count * step <= right; count += 1) {
    const x = xOf(count * step);
    box("line", x, AXIS - 6, 1, height);
    write("dim", (count * step).toFixed(digits) + " s", x + 4, AXIS / 2, 100);
  }
}

function drawSpans() {
  for (const lane of lanes.values()) {
    const top = lane.middle - BAND / 2, from = xOf(run.begin);
    if (lane.kind === "node") box("lane", from, top, xOf(end) - from, BAND);
    for (const span of lane.bands) {
      if (span.style === "dead" || shown.election) drawSpan(span, top, BAND);
    }
    for (const span of lane.bars) {
      const isShown = shown[span.style === "fault" ? "fault" : "client"];
      if (isShown && wanted(span.who + " " + span.what)) {
        drawSpan(span, lane.top + 2 + span.row * ROW, ROW - 2);
      }
    }
  }
}

function drawSpan(span, top, tall) {
  if (!isInView(span.begin, span.end)) return;
  const from = Math.max(xOf(span.begin), GUTTER);
  const to = Math.min(Math.max(xOf(span.end), xOf(span.begin) + 2), width);
  box(span.style, from, top, to - from, tall);
  drawn.push({ box: [from, top, to, top + tall], span });
  texts.push(["on", span.what, from + 4, top + tall / 2, to - from - 6]);
}

function drawMessages() {
  const visible = keptMessages.filter(index =>
    isInView(moments[index][NOW], moments[index][UNTIL] ?? moments[index][NOW]));
  let stride = 1;
  while (visible.length / stride > ARROWS_MAX) stride *= 2;
  // By the message's own number: the same ones stay when the picture moves.
  const arrows = visible.filter(index => index % stride === 0), paths = {};
  const count = visible.length.toLocaleString("en") + " messages in view";
  byId("note").textContent = types.size === 0 ? "" : stride === 1 ? count + "." :
    `${count}; one in ${stride} is drawn. Zoom in, or show fewer types, to see all.`;
  for (const index of arrows) {
    const path = paths[typeOf(moments[index]).colour] ||= new Path2D();
    drawn.push({ line: arrow(moments[index], path, arrows.length < 600), index });
  }
  pen.globalAlpha = arrows.length > 1000 ? 0.35 : arrows.length > 200 ? 0.6 : 0.9;
  for (const [colour, path] of Object.entries(paths)) stroke(path, colour, 1.2);
  pen.globalAlpha = 1;
}

function stroke(path, colour, wide) {
  [pen.strokeStyle, pen.lineWidth] = [colours[colour], wide];
  pen.stroke(path);
}

// What never arrives ends half way, in a cross.
function arrow(moment, path, hasHead) {
  const from = laneOf(moment[WHO]).middle, target = laneOf(moment[TO]).middle;
  const isLost = moment[UNTIL] === null, x1 = xOf(moment[NOW]);
  const x2 = isLost ? x1 + 8 : xOf(moment[UNTIL]), to = isLost ? (from + target) / 2 : target;
  const angle = isLost ? 0 : Math.atan2(to - from, x2 - x1);
  path.moveTo(x1, from);
  path.lineTo(x2, to);
  for (const turn of isLost ? [0.8, 2.4, -0.8, -2.4] : hasHead ? [2.7, -2.7] : []) {
    path.moveTo(x2, to);
    path.lineTo(x2 + 7 * Math.cos(angle + turn), to + 7 * Math.sin(angle + turn));
  }
  return [x1, from, x2, to];
}

function drawMarkers() {
  const last = new Map(), labels = new Map();  // where a kind was drawn last; the label before
  const settle = ({ x, y, text }, next) => {
    const room = next - x - 10;
    if (room >= Math.min(pen.measureText(text).width, 90)) write("ink", text, x, y, room);
  };
  for (const index of kept) {
    const [time, who, kind, what] = moments[index], lane = laneOf(who), x = xOf(time);
    if (!isInView(time, time) || what.startsWith("healed: ")) continue;
    if (covered.has(keyOf(lane, time, who, what))) continue;
    const y = lane.kind === "node" ? lane.middle + BAND / 2 + 9 : lane.middle;
    const place = lane.name + "/" + kind;
    drawn.push({ point: [x, y], index });
    if (x - (last.get(place) ?? -9) < 1.5) continue;  // another would not be seen
    last.set(place, x);
    if (kind === "world") rule(x, "world");
    pen.fillStyle = colours[kind];
    pen.textAlign = "center";
    pen.fillText(run.marks[kind], x, y);
    pen.textAlign = "left";
    if (labels.has(lane)) settle(labels.get(lane), x);
    const isWhose = lane.kind === "world" && kind !== "world";
    labels.set(lane, { x: x + 8, y, text: isWhose ? who + ": " + what : what });
  }
  for (const label of labels.values()) settle(label, width);
}

function drawEnd() {
  const path = new Path2D(), x = xOf(end);
  if (chosen !== null) {
    rule(xOf(moments[chosen][NOW]), "ink");
    if (moments[chosen][KIND] === "message") arrow(moments[chosen], path, true);
    stroke(path, "ink", 2.5);
  }
  if (run.failure === null || x < GUTTER || x > width + 2) return;
  const text = run.failure.split("\n", 1)[0];
  const wide = Math.min(pen.measureText(text).width + 12, 900);
  const from = Math.max(GUTTER, x + wide < width ? x : x - wide);
  drawn.push({ box: [x - 3, 0, x + 3, height], text: clock(run.end) + "\n" + run.failure });
  box("fail", x - 1, 0, 2, height);
  box("fail", from, 2, wide, 18);
  write("on", text, from + 6, 11, wide - 8);
}

// --- words: the list, the tip, the one that was chosen ---

const clock = time => time.toFixed(6) + " s";
const told = ([, , kind, what, to, until]) => (to === null ? "" : "→ " + to + "  ") + what +
  (until !== null ? `  (until ${clock(until)})` : kind === "message" ? "  (never arrives)" : "");
const tell = ({ text, span, index }) => text ??
  (span ? `${clock(span.begin)} to ${clock(span.end)}\n${span.who}  ${span.what}` :
    `${clock(moments[index][NOW])}\n${moments[index][WHO]}  ${told(moments[index])}`);

const inRange = () => [...kept, ...keptMessages]
  .filter(index => isInView(moments[index][NOW], moments[index][NOW])).sort((a, b) => a - b);

function list() {
  const all = inRange(), at = all.indexOf(chosen), most = all.length - LINES_MAX;
  const from = Math.max(0, at < 0 ? most : Math.min(at - LINES_MAX / 2, most));
  const rows = all.slice(from, from + LINES_MAX).map(index => {
    const row = document.createElement("tr"), moment = moments[index];
    for (const text of [moment[NOW].toFixed(6), moment[WHO], moment[KIND], told(moment)]) {
      row.insertCell().textContent = text;
    }
    row.classList.toggle("chosen", index === chosen);
    row.addEventListener("click", () => choose(index));
    return row;
  });
  byId("listed").textContent = most <= 0 ? `${all.length} moments in view.` :
    `${all.length.toLocaleString("en")} moments in view; the ${LINES_MAX} ` +
    `${at < 0 ? "last" : "around the chosen one"} are listed. Zoom in or show fewer to see all.`;
  document.querySelector("tbody").replaceChildren(...rows);
  const row = document.querySelector("tr.chosen"), box = byId("list");
  if (row) box.scrollTop = row.offsetTop - box.clientHeight / 2;
}

function choose(index) {
  chosen = index;
  byId("chosen").textContent = index === null ? "" : tell({ index }).replace("\n", "  ");
  refresh();
}

function stepBy(count) {
  const all = inRange(), at = all.indexOf(chosen), last = all.length - 1;
  const next = at < 0 ? (count > 0 ? 0 : last) : Math.max(0, Math.min(at + count, last));
  if (last >= 0) choose(all[next]);
}

// --- moving ---

function show(from, to) {
  const wide = Math.max(1e-5, Math.min(to - from, end - run.begin + 2 * margin));
  const earliest = run.begin - margin, latest = end + margin - wide;
  left = Math.max(earliest, Math.min((from + to - wide) / 2, latest));
  right = left + wide;
  refresh();
}

const zoom = (factor, at) => show(at - (at - left) * factor, at + (right - at) * factor);
const slide = part => show(left + (right - left) * part, right + (right - left) * part);
const focus = () => chosen === null ? (left + right) / 2 : moments[chosen][NOW];
const keys = {
  ArrowLeft: () => slide(-1 / 8), ArrowRight: () => slide(1 / 8),
  ArrowUp: () => stepBy(-1), ArrowDown: () => stepBy(1),
  "+": () => zoom(0.6, focus()), "=": () => zoom(0.6, focus()), "-": () => zoom(1 / 0.6, focus()),
  Home: () => show(run.begin - margin, end + margin),
  End: () => show(end - run.view, end + run.view * 0.04),
  Escape: () => choose(null),
};
canvas.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
  event.preventDefault();
  byId("tip").hidden = true;
  keys[event.key]();
});
for (const button of document.querySelectorAll("button")) {
  button.addEventListener("click", () => keys[button.dataset.key]());
}
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  const [x, y] = event.shiftKey ? [event.deltaY, 0] : [event.deltaX, event.deltaY];
  if (Math.abs(x) > Math.abs(y)) slide(x / width);
  else zoom(Math.exp(Math.max(-200, Math.min(y, 200)) * 0.002), timeOf(event.offsetX));
}, { passive: false });

let grip = null;  // where a drag began, and what was in view then
canvas.addEventListener("pointerdown", event => {
  grip = { x: event.offsetX, left, right, hasMoved: false };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", event => {
  if (grip === null) { hover(event); return; }
  const by = (event.offsetX - grip.x) / (width - GUTTER) * (grip.right - grip.left);
  grip.hasMoved ||= Math.abs(event.offsetX - grip.x) > 3;
  if (grip.hasMoved) show(grip.left - by, grip.right - by);
});
canvas.addEventListener("pointerup", event => {
  const item = grip && !grip.hasMoved ? nearest(event.offsetX, event.offsetY) : undefined;
  grip = null;
  if (item === undefined) return;
  choose(item?.index ?? null);
  if (item) byId("chosen").textContent = tell(item).replace("\n", "  ");
});
canvas.addEventListener("pointercancel", () => { grip = null; });
canvas.addEventListener("pointerleave", () => { byId("tip").hidden = true; });

// Markers first, then arrows, then the bars behind them.
function nearest(x, y) {
  let best = null, least = 7;
  for (const item of drawn) {
    const far = item.point ? Math.hypot(x - item.point[0], y - item.point[1]) - 3 :
      item.line ? distance(x, y, item.line) + 1 :
      x > item.box[0] - 2 && x < item.box[2] + 2 && y >= item.box[1] && y <= item.box[3] ? 5 : 9;
    if (far < least) [best, least] = [item, far];
  }
  return best;
}

function distance(x, y, [x1, y1, x2, y2]) {
  const across = x2 - x1, down = y2 - y1;
  const along = ((x - x1) * across + (y - y1) * down) / (across ** 2 + down ** 2 || 1);
  const part = Math.max(0, Math.min(along, 1));
  return Math.hypot(x - x1 - part * across, y - y1 - part * down);
}

function hover(event) {
  const tip = byId("tip"), item = nearest(event.offsetX, event.offsetY);
  tip.hidden = item === null;
  if (item === null) return;
  tip.textContent = tell(item);
  const x = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
  const y = Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8);
  [tip.style.left, tip.style.top] = [x + "px", y + "px"];
}

function paint() {
  const style = getComputedStyle(document.documentElement);
  for (const name of run.colours) colours[name] = style.getPropertyValue("--" + name).trim();
  refresh();
}
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
new ResizeObserver(refresh).observe(canvas);
keys[run.failure === null ? "Home" : "End"]();
filter();
paint();
