// The same part of many layers in rows: each answer, each sample; any of them goes into the viewer.
if (viewer && data.rows.length) (() => {
  const place = $("rows"), SIDE = 136; // of a tile; pictures.py cuts half of it
  const looks = data.metrics.find(({ key }) => /^(lpips_|dists)/.test(key));
  const figures = (row) => {
    const found = row && typeof row.psnr_y === "number" ? [`${row.psnr_y.toFixed(2)} dB`] : [];
    if (row && looks && looks.key in row) found.push(written({ ...looks, digits: 3 }, row[looks.key]));
    return found.join(" · ");
  };
  const tile = (label, key, layer, values) => {
    const { crop: [left, top, width, height], size: [w, h] } = viewer.picture();
    const zoom = SIDE / Math.max(width, height), figure = figures(values[layer.model]);
    const button = element("button", "", { type: "button", "data-key": key, title: "Show it on the right" });
    const cut = element("span", "", { class: "cut" }), image = element("img", "", { src: layer.uri, alt: layer.label, draggable: "false" });
    cut.style.width = `${width * zoom}px`;
    cut.style.height = `${height * zoom}px`;
    image.style.width = `${w * zoom}px`;
    image.style.height = `${h * zoom}px`;
    image.style.transform = `translate(${-left * zoom}px, ${-top * zoom}px)`;
    cut.append(image);
    button.append(cut, element("small", label), element("small", figure, { class: "figure" }));
    button.addEventListener("click", () => {
      viewer.look(key, viewer.picture().crop);
      $("viewer").scrollIntoView();
      $("handle").focus({ preventScroll: true });
    });
    return button;
  };
  const mark = () => {
    for (const button of place.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.key === viewer.chosen.right));
  };
  let filled = -1;
  const fill = (index) => {
    if (index !== filled) {
      filled = index;
      const shown = viewer.layers(), values = valuesOf(viewer.picture());
      place.replaceChildren(...data.rows.map(({ title, caption, hottest, tiles }) => {
        const row = element("div", "", { class: "row", role: "toolbar", "aria-label": title });
        row.append(...tiles.filter(([, key]) => shown.has(key)).map(([label, key]) => tile(label, key, shown.get(key), values)));
        [...row.children].forEach((button, at) => { button.tabIndex = at ? -1 : 0; }); // one stop for Tab, arrows within
        const whole = element("div");
        whole.append(element("h3", title), row);
        if (hottest) {
          const scale = element("p", "", { class: "scale note" });
          scale.append("maps: 0", element("span", "", { class: "heat", "aria-hidden": "true" }), `${hottest} or more`);
          whole.append(scale);
        }
        if (caption) whole.append(element("p", caption, { class: "note" }));
        whole.hidden = !row.children.length;
        return whole;
      }));
    }
    mark();
  };
  place.addEventListener("keydown", (event) => {
    const row = event.target.closest(".row"), all = [...(row?.children ?? [])], at = all.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined || !all[to]) return;
    event.preventDefault();
    all[at].tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus({ preventScroll: true });
    all[to].scrollIntoView({ block: "nearest", inline: "nearest" });
  });
  place.hidden = false;
  viewer.changed.push(fill);
  fill(viewer.state.index);
})();
