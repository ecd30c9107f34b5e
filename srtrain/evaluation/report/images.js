// All values of a metric, image by image: sorted, filtered, and a way to the pictures.
(() => {
  const strip = $("strip"), pictures = data.pictures;
  const at = (of) => pictures.findIndex((picture) => picture.data === of.data && picture.name === of.name);
  if (viewer) {
    pictures.forEach((picture, index) => {
      const button = element("button", "", { type: "button", "aria-pressed": "false", title: `${picture.name} · ${picture.why}` });
      button.append(element("img", "", { src: picture.hr[0], alt: "", loading: "lazy" }), element("small", picture.name), element("small", picture.why));
      button.addEventListener("click", () => viewer.show(index));
      strip.append(button);
    });
    const mark = (index) => [...strip.children].forEach((button, of) => {
      button.setAttribute("aria-pressed", String(of === index));
      button.tabIndex = of === index ? 0 : -1; // one stop for Tab, arrows within
    });
    strip.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      viewer.show(viewer.state.index + by);
      strip.children[viewer.state.index].focus();
      strip.children[viewer.state.index].scrollIntoView({ block: "nearest", inline: "nearest" });
    });
    viewer.changed.push(mark);
    mark(viewer.state.index);
    strip.hidden = pictures.length < 2;
  }

  const table = $("values");
  if (table && data.metrics.length) {
    const head = table.tHead.rows[0], body = table.tBodies[0];
    const sets = [...new Set(data.images.map((of) => of.data))];
    const models = data.models.filter((name) => data.images.some((of) => name in of.values));
    const sort = { by: "", down: false };
    const metric = () => data.metrics.find((of) => of.key === $("metric").value);
    const value = (of, name) => of.values[name]?.[metric().key];
    const pair = () => { // whose difference is shown: what the viewer compares, else last − first
      const seen = viewer ? [viewer.chosen.left, viewer.chosen.right].map((key) => key.replace(/^sr /, "")) : [];
      return seen.every((name) => models.includes(name)) && new Set(seen).size === 2 ? seen : [models[0], models.at(-1)];
    };
    const apart = (of) => {
      const [left, right] = pair().map((name) => value(of, name));
      return typeof left === "number" && typeof right === "number" ? right - left : NaN;
    };
    const key = (of) => {
      if (sort.by === "image") return of.name;
      const found = sort.by === "difference" ? apart(of) : value(of, sort.by.slice(2));
      return found === "∞" ? Infinity : typeof found === "number" ? found : NaN;
    };
    const order = (one, other) => {
      const [a, b] = [key(one), key(other)];
      if (typeof a === "string") return a.localeCompare(b, undefined, { numeric: true });
      return Number.isNaN(a) ? 1 : Number.isNaN(b) ? -1 : a - b;
    };
    const column = (by, words, about = "") => {
      const cell = element("th", "", { scope: "col", "aria-sort": sort.by !== by ? "none" : sort.down ? "descending" : "ascending" });
      const button = element("button", words + (sort.by === by ? (sort.down ? " ↓" : " ↑") : ""), { type: "button", title: `Sort by ${about || words}` });
      button.addEventListener("click", () => {
        sort.down = sort.by === by ? !sort.down : false;
        sort.by = by;
        fill();
        head.querySelectorAll("button")[[...head.cells].findIndex((of) => of.ariaSort !== "none")]?.focus();
      });
      cell.append(button);
      return cell;
    };
    const row = (of, several) => {
      const line = element("tr"), first = element("th", "", { scope: "row" }), index = at(of);
      const words = several ? `${of.data} / ${of.name}` : of.name;
      if (index >= 0) {
        const button = folded("button", words, { type: "button", title: "Show this picture" });
        button.addEventListener("click", () => {
          viewer.show(index);
          $("pictures").scrollIntoView();
          $("handle").focus({ preventScroll: true });
        });
        first.append(button);
        if (index === viewer.state.index) line.setAttribute("aria-current", "true");
      } else first.textContent = words;
      first.title = words;
      const found = models.map((name) => value(of, name)), best = bestOf(metric(), found);
      line.append(first, ...found.map((one, place) => {
        const cell = element("td");
        cell.append(element(best[place] ? "b" : "span", written(metric(), one)));
        return cell;
      }));
      if (models.length > 1) line.append(element("td", written({ ...metric(), signed: true }, apart(of) || (apart(of) === 0 ? 0 : null))));
      return line;
    };
    function fill() {
      const words = $("filter").value.trim().toLowerCase(), set = $("set").value;
      const found = data.images.filter((of) => (!set || of.data === set) && of.name.toLowerCase().includes(words));
      if (sort.by) found.sort((one, other) => {
        const order_ = order(one, other);
        const missing = [one, other].some((of) => Number.isNaN(key(of)));
        return sort.down && !missing ? -order_ : order_;
      });
      const [left, right] = pair();
      head.replaceChildren(column("image", "image"), ...models.map((name) => column("m " + name, name)));
      if (models.length > 1) head.append(column("difference", "difference", `${right} − ${left}`));
      body.replaceChildren(...found.map((of) => row(of, sets.length > 1 && !set)));
      $("count").textContent = found.length === data.images.length ? `${found.length} images` : `${found.length} of ${data.images.length} images`;
    }
    $("metric").append(...data.metrics.map((of) => element("option", of.name, { value: of.key })));
    $("set").append(element("option", "all", { value: "" }), ...sets.map((name) => element("option", name, { value: name })));
    $("sets").hidden = sets.length < 2;
    for (const id of ["metric", "set"]) $(id).addEventListener("change", fill);
    $("filter").addEventListener("input", fill);
    $("filter").addEventListener("keydown", (event) => {
      if (event.key === "Escape") { $("filter").value = ""; fill(); }
    });
    if (viewer) viewer.changed.push(fill);
    fill();
  }

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) {
      for (const [id, link] of links) link.toggleAttribute("aria-current", id === target.id);
      const link = links.get(target.id);
      link.parentElement.scrollTo({ left: link.offsetLeft - 60 });
    }
  }, { rootMargin: "-15% 0% -75% 0%" });
  for (const id of links.keys()) seen.observe($(id));
  if (links.size) [...links.values()][0].toggleAttribute("aria-current", true);
})();
