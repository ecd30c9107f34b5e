"use strict";
// One stage for all pictures: two layers over each other, side by side, or their difference.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const element = (tag, words = "", attributes = {}) => {
  const made = document.createElement(tag);
  made.textContent = words; // never as HTML: names of files may be anything
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
const folded = (tag, words, attributes) => { // a long name is folded at _, as in the other tables
  const made = element(tag, "", attributes);
  for (const part of words.split(/(?<=_)/)) made.append(part, element("wbr"));
  return made;
};
const written = (metric, value) => {
  if (typeof value !== "number") return value || "–";
  const words = metric.digits === null ? String(+value.toPrecision(4)) : value.toFixed(metric.digits);
  return (metric.signed && value >= 0 ? "+" : "") + words.replace("-", "−");
};
const comparable = (metric, value) => { // the larger the better
  if (value === "∞") value = Infinity;
  if (value === "−∞") value = -Infinity;
  if (typeof value !== "number") return NaN;
  const goal = { "near 0": 0, "near 1": 1 }[metric.better];
  if (goal !== undefined) return -Math.abs(value - goal);
  return metric.better === "lower" ? -value : metric.better ? value : NaN;
};
const bestOf = (metric, values) => {
  const ranks = values.map((value) => comparable(metric, value));
  const top = Math.max(...ranks.filter((rank) => !Number.isNaN(rank)));
  const known = ranks.filter((rank) => !Number.isNaN(rank)).length;
  return ranks.map((rank) => known > 1 && rank === top);
};
const valuesOf = (picture) =>
  data.images.find((of) => of.data === picture.data && of.name === picture.name)?.values ?? {};

const viewer = data.pictures.length ? (() => {
  const stage = $("stage"), handle = $("handle");
  const sides = { left: $("image-left"), right: $("image-right") };
  const canvas = $("difference");
  const FACTORS = [1, 2, 4, 8, 16, 32];
  const STEPS = [0.125, 0.25, 0.5, 0.75, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
  const state = { index: 0, mode: "slider", at: 0.5, zoom: 1, x: 0, y: 0 };
  const chosen = { left: "", right: "", factor: "auto" };
  const changed = []; // who wants to know of another picture or another choice

  const picture = () => data.pictures[state.index];
  const layers = () => {
    const { lr, sr, hr, extra } = picture();
    const made = new Map();
    if (lr.length) made.set("lr", { label: "LR (nearest)", uri: lr[0] });
    for (const name of data.models) if (name in sr) made.set("sr " + name, { label: name, uri: sr[name], model: name });
    for (const [name, uri] of Object.entries(extra)) made.set("extra " + name, { label: name, uri, model: name });
    made.set("hr", { label: "HR", uri: hr[0] });
    return made;
  };
  const pane = () => {
    const { width, height } = stage.getBoundingClientRect();
    return state.mode === "beside" ? [width / 2 - 1, height] : [width, height];
  };
  const whole = (zoom) => zoom >= 1 ? Math.min(8, Math.floor(zoom)) : zoom; // all pixels of one size
  const fitting = () => {
    const [width, height] = pane(), [w, h] = picture().size;
    const zoom = Math.min(width / w, height / h);
    return whole(zoom);
  };
  const extent = () => { // the part of the stage that shows the picture, from left to right
    const [width] = pane(), [w] = picture().size;
    return [Math.max(0, state.x), Math.min(width, state.x + w * state.zoom)];
  };
  const enlarged = () => {
    const [width, height] = pane(), [w, h] = picture().size;
    return w * state.zoom > width + 1 || h * state.zoom > height + 1;
  };

  function place() {
    const [width, height] = pane(), [w, h] = picture().size, { zoom } = state;
    const within = (at, room, size) => size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, at));
    state.x = Math.round(within(state.x, width, w * zoom));
    state.y = Math.round(within(state.y, height, h * zoom));
    for (const shown of [sides.left, sides.right, canvas]) {
      shown.style.width = `${w * zoom}px`;
      shown.style.height = `${h * zoom}px`;
      shown.style.transform = `translate(${state.x}px, ${state.y}px)`;
      const own = shown === canvas ? w : shown.naturalWidth;
      shown.classList.toggle("sharp", w * zoom * devicePixelRatio >= own);
    }
    const [from, to] = extent(), at = from + state.at * (to - from);
    const slides = state.mode === "slider";
    $("pane-right").style.clipPath = slides ? `inset(0 0 0 ${at}px)` : "";
    handle.style.transform = `translateX(${at}px)`;
    handle.hidden = !slides;
    const percent = Math.round(100 * state.at);
    handle.setAttribute("aria-valuenow", percent);
    handle.setAttribute("aria-valuetext", `${percent} % ${$("tag-left").textContent}, ${100 - percent} % ${$("tag-right").textContent}`);
    $("percent").textContent = `${Math.round(100 * zoom)} %`;
    stage.classList.toggle("large", enlarged());
    for (const mode of ["beside", "difference"]) stage.classList.toggle(mode, state.mode === mode);
    $("pane-difference").hidden = $("apart").hidden = state.mode !== "difference";
    $("pane-right").hidden = state.mode === "difference";
  }
  function fit() {
    const [w, h] = picture().size;
    if (document.fullscreenElement) stage.style.height = "";
    else {
      const width = stage.clientWidth / (state.mode === "beside" ? 2 : 1);
      const room = Math.max(240, 0.72 * innerHeight);
      const zoom = Math.min(width / w, room / h);
      stage.style.height = `${Math.max(160, Math.min(room, Math.ceil(h * whole(zoom))))}px`;
    }
    state.zoom = fitting();
    place();
  }
  function zoomTo(zoom, centre) {
    const [width, height] = pane();
    const [cx, cy] = centre ?? [width / 2, height / 2];
    const to = Math.min(32, Math.max(Math.min(fitting(), 0.125), zoom));
    state.x = cx - (cx - state.x) * to / state.zoom;
    state.y = cy - (cy - state.y) * to / state.zoom;
    state.zoom = to;
    place();
  }
  const step = (up, centre) => {
    const all = [...new Set([...STEPS, fitting()])].sort((a, b) => a - b);
    const to = up ? all.find((zoom) => zoom > state.zoom * 1.001) : all.findLast((zoom) => zoom < state.zoom * 0.999);
    if (to && (up || to >= Math.min(fitting(), 1))) zoomTo(to, centre);
  };
  const slide = (to) => { state.at = Math.min(1, Math.max(0, to)); place(); };
  const pan = (dx, dy) => { state.x += dx; state.y += dy; place(); };

  async function compare() { // |left − right| of the pixels themselves, amplified
    const [w, h] = picture().size, here = state.index;
    await Promise.all([sides.left.decode(), sides.right.decode()]).catch(() => {});
    if (here !== state.index || state.mode !== "difference") return; // another is looked at now
    const pixels = (image) => {
      const made = new OffscreenCanvas(w, h).getContext("2d", { willReadFrequently: true });
      made.imageSmoothingEnabled = false;
      made.drawImage(image, 0, 0, w, h);
      return made.getImageData(0, 0, w, h).data;
    };
    const one = pixels(sides.left), other = pixels(sides.right), counts = new Uint32Array(256);
    let sum = 0, largest = 0;
    for (let i = 0; i < one.length; i += 1) {
      if (i % 4 === 3) continue;
      const apart = Math.abs(one[i] - other[i]);
      counts[apart] += 1; sum += apart; if (apart > largest) largest = apart;
    }
    let most = 255, above = 0; // what all but 1 % stay below
    while (most > 0 && (above += counts[most]) < w * h * 0.03) most -= 1;
    const fair = FACTORS.findLast((factor) => factor * most <= 255) ?? 1;
    const factor = chosen.factor === "auto" ? fair : Number(chosen.factor);
    const result = new ImageData(w, h);
    for (let i = 0; i < one.length; i += 4) {
      for (let c = i; c < i + 3; c += 1) result.data[c] = factor * Math.abs(one[c] - other[c]);
      result.data[i + 3] = 255;
    }
    canvas.width = w; canvas.height = h;
    canvas.getContext("2d").putImageData(result, 0, 0);
    canvas.setAttribute("aria-label", `difference × ${factor}`);
    $("tag-left").textContent = `|${sides.left.alt} − ${sides.right.alt}| × ${factor}`;
    $("tag-right").hidden = true;
    $("apart-text").textContent = `× ${factor}: mean ${(sum / (3 * w * h)).toFixed(2)}, largest ${largest} of 255`;
    place();
  }

  function table() { // the values of what is being looked at
    const values = valuesOf(picture()), shown = layers();
    const models = ["left", "right"].map((side) => shown.get(chosen[side]).model).filter((name, at, all) => name && name in values && all.indexOf(name) === at);
    const metrics = data.metrics.filter((metric) => models.some((name) => metric.key in values[name]));
    $("here").replaceChildren();
    if (!models.length || !metrics.length) return;
    const made = element("table"), head = made.createTHead().insertRow(), body = made.createTBody();
    head.append(element("th", "this picture", { scope: "col" }), ...metrics.map((metric) => element("th", metric.name, { scope: "col", title: metric.about })));
    const best = metrics.map((metric) => bestOf(metric, models.map((name) => values[name][metric.key])));
    models.forEach((name, row) => {
      const line = body.insertRow();
      line.append(folded("th", name, { scope: "row" }));
      metrics.forEach((metric, column) => line.insertCell().append(element(best[column][row] ? "b" : "span", written(metric, values[name][metric.key]))));
    });
    const scroll = element("div", "", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values of this picture" });
    scroll.append(made);
    $("here").append(scroll);
  }

  function draw() {
    const shown = layers();
    for (const side of ["left", "right"]) {
      const { label, uri } = shown.get(chosen[side]);
      if (sides[side].src !== uri) sides[side].src = uri;
      sides[side].alt = label;
      $("tag-" + side).textContent = label;
      $("tag-" + side).hidden = false;
      $(side).value = chosen[side];
    }
    const { data: set, name, why, note } = picture();
    $("caption").replaceChildren(element("b", name), ` ${[set, why, note].filter(Boolean).join(" · ")}`);
    stage.setAttribute("aria-label", `${name}: ${sides.left.alt} and ${sides.right.alt}`);
    table();
    place();
    if (state.mode === "difference") compare();
    for (const tell of changed) tell(state.index);
  }
  function show(index) {
    state.index = (index + data.pictures.length) % data.pictures.length;
    const shown = layers();
    const first = { left: "sr " + data.first[0], right: data.first[1] ? "sr " + data.first[1] : "hr" };
    for (const side of ["left", "right"]) {
      if (!shown.has(chosen[side])) chosen[side] = shown.has(first[side]) ? first[side] : "hr";
      $(side).replaceChildren(...[...shown].map(([key, { label }]) => element("option", label, { value: key })));
    }
    draw();
    fit();
  }
  function choose(mode) {
    state.mode = mode;
    document.querySelector(`input[name=mode][value=${mode}]`).checked = true;
    draw();
    fit();
  }
  function swap() {
    [chosen.left, chosen.right] = [chosen.right, chosen.left];
    draw();
  }
  function turn(by) { // flipping through: what differs moves, what does not stands still
    const keys = [...layers().keys()];
    chosen.right = keys[(keys.indexOf(chosen.right) + by + keys.length) % keys.length];
    draw();
  }
  function look(key, [left, top, width, height]) { // at this part of a layer, on the right
    chosen.right = key;
    draw();
    const [w, h] = pane(), room = Math.min(w / width, h / height) / 1.2;
    state.zoom = Math.min(32, Math.max(fitting(), whole(room)));
    state.x = w / 2 - (left + width / 2) * state.zoom;
    state.y = h / 2 - (top + height / 2) * state.zoom;
    place();
  }
  function full() {
    if (document.fullscreenElement) document.exitFullscreen();
    else $("viewer").requestFullscreen?.();
  }

  // Pointers: the divider, an enlarged picture, two fingers.
  const fingers = new Map();
  let drag = "", apart = 0;
  const local = (event) => {
    const { left, top } = stage.getBoundingClientRect(), [width] = pane();
    const x = event.clientX - left;
    return [state.mode === "beside" && x > width ? x - width - 2 : x, event.clientY - top];
  };
  const slideTo = (event) => {
    const [from, to] = extent();
    slide((local(event)[0] - from) / Math.max(1, to - from));
  };
  const pinch = () => {
    const [a, b] = [...fingers.values()];
    return [Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY), { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 }];
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    fingers.set(event.pointerId, event);
    stage.setPointerCapture(event.pointerId);
    if (fingers.size === 2) { drag = "pinch"; [apart] = pinch(); return; }
    drag = state.mode === "slider" && (handle.contains(event.target) || !enlarged()) ? "slide" : "pan";
    if (drag === "slide") slideTo(event);
    else stage.classList.add("dragged");
    (drag === "slide" ? handle : stage).focus({ preventScroll: true });
  });
  stage.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    fingers.set(event.pointerId, event);
    if (drag === "slide") slideTo(event);
    else if (drag === "pan") pan(event.clientX - before.clientX, event.clientY - before.clientY);
    else if (drag === "pinch" && fingers.size === 2) {
      const [now, middle] = pinch();
      zoomTo(state.zoom * now / apart, local(middle));
      apart = now;
    }
  });
  for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, (event) => {
    fingers.delete(event.pointerId);
    stage.classList.remove("dragged");
    drag = "";
  });
  stage.addEventListener("dblclick", (event) => enlarged() ? fit() : zoomTo(Math.max(2, 2 * fitting()), local(event)));
  stage.addEventListener("wheel", (event) => { // else the wheel scrolls the page
    if (!event.ctrlKey && !stage.contains(document.activeElement)) return;
    event.preventDefault();
    step(event.deltaY < 0, local(event));
  }, { passive: false });

  const KEYS = {
    "+": () => step(true), "=": () => step(true), "-": () => step(false), "−": () => step(false),
    0: fit, 1: () => zoomTo(1), n: () => show(state.index + 1), p: () => show(state.index - 1),
    x: swap, ".": () => turn(1), ",": () => turn(-1), s: () => choose("slider"), b: () => choose("beside"), d: () => choose("difference"), f: full,
    Escape: () => { state.at = 0.5; fit(); },
    Home: () => slide(0), End: () => slide(1),
    PageUp: () => slide(state.at + 0.1), PageDown: () => slide(state.at - 0.1),
  };
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 5 : 1;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const onHandle = event.target === handle;
    if (arrow && (onHandle || (!enlarged() && arrow[0] && state.mode === "slider"))) slide(state.at + 0.02 * far * (arrow[0] - arrow[1]));
    else if (arrow && enlarged()) pan(-40 * far * arrow[0], -40 * far * arrow[1]);
    else if (!arrow && event.key in KEYS && (onHandle || !/^(Home|End|Page)/.test(event.key))) KEYS[event.key]();
    else return;
    event.preventDefault();
  });

  for (const side of ["left", "right"]) {
    $(side).addEventListener("change", () => { chosen[side] = $(side).value; draw(); });
    sides[side].addEventListener("load", place);
  }
  $("factor").append(...["auto", ...FACTORS].map((factor) => element("option", factor === "auto" ? "automatically" : `× ${factor}`, { value: factor })));
  $("factor").addEventListener("change", () => { chosen.factor = $("factor").value; compare(); });
  for (const radio of document.querySelectorAll("input[name=mode]")) radio.addEventListener("change", () => choose(radio.value));
  $("swap").addEventListener("click", swap);
  $("in").addEventListener("click", () => step(true));
  $("out").addEventListener("click", () => step(false));
  $("fit").addEventListener("click", fit);
  $("full").addEventListener("click", full);
  if (!document.fullscreenEnabled) $("full").hidden = true;
  addEventListener("resize", fit);
  document.addEventListener("fullscreenchange", () => requestAnimationFrame(fit));
  show(0);
  return { show, look, layers, picture, changed, state, chosen };
})() : null;
