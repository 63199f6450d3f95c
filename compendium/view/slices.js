// Draws three linked planes of a scan on 2D canvases: no WebGL, no request, no kernel.
// Voxels (d, h, w) are int16 HU in LPS order: z to superior, y to posterior, x to the patient's left.

const AXES = { axial: [0, 1, 2], coronal: [1, 0, 2], sagittal: [2, 0, 1] };  // across the plane, down, to the right
const KEYS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };

function element(tag, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  parent.append(made);
  return made;
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const [depth, height, width] = get("shape");
  const shape = [depth, height, width], spacing = get("spacing"), stride = [height * width, width, 1];
  const buffer = (name) => { const view = get(name); return view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength); };
  const voxels = new Int16Array(buffer("voxels")), masks = new Uint8Array(buffer("masks"));
  const outlines = get("outlines"), shown = outlines.map(() => true), dice = get("dice");
  let active = "axial";

  const root = element("div", el, { className: "magunet-slices", tabIndex: 0 });
  root.dataset.lmSuppressShortcuts = "true";  // JupyterLab's own keys stay out
  const bar = element("div", root, { className: "bar" });
  element("span", bar, { className: "title", textContent: get("title") });
  const presets = Object.keys(get("windows")).map((name) => {
    const button = element("button", bar, { type: "button", textContent: name });
    button.onclick = () => put("window", name);
    return [name, button];
  });
  const boxes = outlines.map(([name, colour], i) => {
    const label = element("label", bar);
    const box = element("input", label, { type: "checkbox", checked: true });
    element("span", label, { className: "swatch" }).style.color = colour;
    label.append(name);
    box.onchange = () => { shown[i] = box.checked; draw(); };
    return box;
  });
  const views = element("div", root, { className: "views" });
  const status = element("div", root, { className: "status" });

  // Which voxel a place on the canvas shows: the first row of coronal and sagittal views is the top of the patient.
  const flipped = (axis) => axis === 0;
  const scale = Math.min(...spacing);
  const panels = Object.entries(AXES).map(([name, [across, down, right]]) => {
    const view = element("div", views, { className: "view" });
    view.style.flex = `${shape[right] * spacing[right]} 1 0`;
    const caption = element("div", view, { className: "caption" });
    const label = element("span", caption), number = element("span", caption);
    label.textContent = name;
    const canvas = element("canvas", view);
    const slider = element("input", view, { type: "range", min: 0, max: shape[across] - 1, step: 1 });
    slider.setAttribute("aria-label", `${name} slice`);
    const panel = { name, across, down, right, view, number, canvas, slider };
    slider.oninput = () => { active = name; go(across, Number(slider.value)); };
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const place = [[down, (event.clientY - box.top) / box.height], [right, (event.clientX - box.left) / box.width]];
      const next = [...get("position")];
      for (const [axis, share] of place) {
        const at = Math.min(shape[axis] - 1, Math.max(0, Math.floor(share * shape[axis])));
        next[axis] = flipped(axis) ? shape[axis] - 1 - at : at;
      }
      put("position", next);
    };
    canvas.onpointerdown = (event) => { active = name; root.focus({ preventScroll: true }); canvas.setPointerCapture(event.pointerId); point(event); };
    canvas.onpointermove = (event) => { if (event.buttons) point(event); };
    canvas.onpointerenter = () => { active = name; mark(); };
    canvas.onwheel = (event) => {
      if (!root.contains(document.activeElement)) return;  // the page scrolls until the viewer was clicked
      event.preventDefault();
      active = name;
      go(across, get("position")[across] + (event.deltaY < 0 ? 1 : -1));
    };
    return panel;
  });
  const strip = dice.length ? element("canvas", root, { className: "strip" }) : null;
  if (strip) {
    strip.title = "Dice of each axial slice";
    const point = (event) => { active = "axial"; const box = strip.getBoundingClientRect(); go(0, Math.floor((event.clientX - box.left) / box.width * depth)); };
    strip.onpointerdown = (event) => { root.focus({ preventScroll: true }); strip.setPointerCapture(event.pointerId); point(event); };
    strip.onpointermove = (event) => { if (event.buttons) point(event); };
  }

  root.onkeydown = (event) => {
    const panel = panels.find(({ name }) => name === active), at = get("position")[panel.across];
    const typed = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in KEYS) go(panel.across, at + KEYS[event.key]);
    else if (event.key === "Home") go(panel.across, 0);
    else if (event.key === "End") go(panel.across, shape[panel.across] - 1);
    else if (["a", "c", "s"].includes(typed)) { active = Object.keys(AXES).find((name) => name[0] === typed); mark(); }
    else if (typed === "w") put("window", presets[(presets.findIndex(([name]) => name === get("window")) + 1) % presets.length][0]);
    else if (boxes[typed - 1]) boxes[typed - 1].click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  function put(name, value) { model.set(name, value); model.save_changes(); }

  function go(axis, index) {
    const next = [...get("position")];
    next[axis] = Math.min(shape[axis] - 1, Math.max(0, index));
    put("position", next);
  }

  function mark() {
    for (const { name, view } of panels) view.classList.toggle("active", name === active);
  }

  function drawPanel(panel, position, low, high) {
    const { across, down, right, canvas } = panel, rows = shape[down], columns = shape[right];
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round((canvas.clientWidth || columns * spacing[right] / scale) * ratio));
    canvas.height = Math.max(1, Math.round(canvas.width * rows * spacing[down] / (columns * spacing[right])));
    const cell = [canvas.height / rows, canvas.width / columns];
    const start = position[across] * stride[across];
    const index = (row, column) => start + (flipped(down) ? rows - 1 - row : row) * stride[down] + column * stride[right];
    const small = new OffscreenCanvas(columns, rows), pixels = new ImageData(columns, rows);
    for (let row = 0, out = 0; row < rows; row++) for (let column = 0; column < columns; column++, out += 4) {
      const grey = 255 * (voxels[index(row, column)] - low) / (high - low);
      pixels.data[out] = pixels.data[out + 1] = pixels.data[out + 2] = grey;  // clamped to 0..255
      pixels.data[out + 3] = 255;
    }
    small.getContext("2d").putImageData(pixels, 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    outlines.forEach(([, colour], bit) => { if (shown[bit]) outline(context, rows, columns, cell, (r, c) => masks[index(r, c)] >> bit & 1, colour, ratio); });
    const place = [down, right].map((axis, i) => (flipped(axis) ? shape[axis] - 1 - position[axis] : position[axis]) * cell[i] + cell[i] / 2);
    context.strokeStyle = "rgba(255, 255, 255, 0.35)";
    context.lineWidth = ratio;
    context.beginPath();
    context.moveTo(0, place[0]); context.lineTo(canvas.width, place[0]);
    context.moveTo(place[1], 0); context.lineTo(place[1], canvas.height);
    context.stroke();
    letters(context, get("planes")[panel.name], ratio);
    scaleBar(context, cell[1] / spacing[right], ratio);
  }

  // Along the edges between voxels inside and outside: what is drawn is the mask itself.
  function outline(context, rows, columns, cell, inside, colour, ratio) {
    context.strokeStyle = colour;
    context.lineWidth = 1.6 * ratio;
    context.beginPath();
    for (let row = 0; row <= rows; row++) for (let column = 0; column <= columns; column++) {
      const here = row < rows && column < columns && inside(row, column);
      const above = row > 0 && column < columns && inside(row - 1, column), before = column > 0 && row < rows && inside(row, column - 1);
      if (column < columns && here !== above && (here || above)) { context.moveTo(column * cell[1], row * cell[0]); context.lineTo((column + 1) * cell[1], row * cell[0]); }
      if (row < rows && here !== before && (here || before)) { context.moveTo(column * cell[1], row * cell[0]); context.lineTo(column * cell[1], (row + 1) * cell[0]); }
    }
    context.stroke();
  }

  // White with a dark rim, to be read on bone and on air.
  function write(context, text, x, y, ratio) {
    context.lineWidth = 3 * ratio;
    context.lineJoin = "round";
    context.strokeStyle = "#111";
    context.strokeText(text, x, y);
    context.fillStyle = "white";
    context.fillText(text, x, y);
  }

  function letters(context, [left, right, top, bottom], ratio) {
    const { width: w, height: h } = context.canvas, inset = 10 * ratio;
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const [letter, x, y] of [[left, inset, h / 2], [right, w - inset, h / 2], [top, w / 2, inset], [bottom, w / 2, h - inset]]) write(context, letter, x, y, ratio);
  }

  function scaleBar(context, perMm, ratio) {
    const length = [100, 50, 20, 10, 5].find((mm) => mm * perMm < context.canvas.width / 3) ?? 1, y = context.canvas.height - 8 * ratio;
    context.fillStyle = "white";
    context.fillRect(8 * ratio, y, length * perMm, 2 * ratio);
    context.font = `${10 * ratio}px system-ui, sans-serif`;
    context.textAlign = "left";
    context.textBaseline = "bottom";
    write(context, `${length} mm`, 8 * ratio, y - 2 * ratio, ratio);
  }

  function drawStrip(position) {
    const ratio = window.devicePixelRatio || 1;
    strip.width = Math.max(1, Math.round((strip.clientWidth || 600) * ratio));
    strip.height = 44 * ratio;
    const context = strip.getContext("2d"), step = strip.width / depth;
    context.fillStyle = "#333";
    context.fillRect(0, 0, strip.width, 1);
    dice.forEach((value, z) => {
      if (value === null) return;
      const bar = Math.max(value * (strip.height - ratio), 2 * ratio);
      context.fillStyle = z === position[0] ? "#ffffff" : "#999999";
      context.fillRect(z * step, strip.height - bar, Math.max(1, step - ratio), bar);
    });
    context.fillStyle = "white";
    context.fillRect((position[0] + 0.5) * step - ratio / 2, 0, ratio, strip.height);
    context.font = `${10 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "top";
    write(context, "Dice of each axial slice, 0 to 1", 4 * ratio, 4 * ratio, ratio);
  }

  function draw() {
    const position = get("position"), [low, high] = get("windows")[get("window")];
    for (const panel of panels) {
      panel.slider.value = position[panel.across];
      panel.number.textContent = `${(position[panel.across] * (panel.across ? get("step") : 1)) + 1} of ${shape[panel.across] * (panel.across ? get("step") : 1)}`;
      drawPanel(panel, position, low, high);
    }
    for (const [name, button] of presets) button.setAttribute("aria-pressed", name === get("window"));
    if (strip) drawStrip(position);
    const value = voxels[position[0] * stride[0] + position[1] * stride[1] + position[2]], here = dice[position[0]];
    const score = dice.length ? `  ·  Dice of this axial slice ${here === null ? "none: no joint in it" : here.toFixed(2)}` : "";
    status.textContent = `${value} HU${score}  ·  window ${get("window")} (${low} to ${high} HU)  ·  click, then arrow keys, a c s planes, w window, ${boxes.map((_, i) => i + 1).join(" ")} outlines`;
    mark();
  }

  const redraw = () => requestAnimationFrame(draw);
  model.on("change:position", redraw);
  model.on("change:window", redraw);
  const observer = new ResizeObserver(redraw);
  observer.observe(root);
  draw();
  return () => { observer.disconnect(); model.off("change:position", redraw); model.off("change:window", redraw); };
}

export default { render };
