// The case explorer: sorts, filters and shows the cases of #explorer-data, with no library.
// Text from data is only ever set as text.
(() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const SVG_TAGS = new Set(["svg", "image", "path", "clipPath"]);
  const PAGE = 24; // cases that the list grows by
  const KEYS = ["dice", "lesion", "disagreement"];

  const part = (name) => document.getElementById(`explorer-${name}`);
  const data = JSON.parse(part("data").textContent);
  const form = part("form");
  const view = part("view");
  const several = data.variants.length > 1;
  const ALL = data.seeds.length; // the place of their mean
  const unpacked = new Map(); // seed -> variant -> frame: a border
  const slider = part("slice"); // through a case's frames; of pictures, which have one, none
  const largest = (index) => data.frames[index][1]; // the frame that shows a case at first
  const current = data.ids.map((_, index) => largest(index)); // case -> the frame that is shown

  let found = []; // indices of the cases that pass the filters, in order
  let listed = PAGE; // how many of them the list shows
  let chosen = null; // the index of the case that is shown

  function make(tag, attributes = {}, ...children) {
    const element = SVG_TAGS.has(tag)
      ? document.createElementNS(SVG, tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const decimals = (value) => (value === null ? "none" : value.toFixed(3));
  const percent = (value) => `${value >= 0.1 ? value.toFixed(1) : value} %`;
  const signed = (value) =>
    value === null ? "none" : `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(3)}`;
  const numbers = (noun, values) => `${noun}${values.length === 1 ? "" : "s"} ${values.join(", ")}`;

  // A name that may break after its underscores.
  const broken = (name) =>
    name.split(/(?<=_)/).flatMap((text, at) => (at === 0 ? [text] : [make("wbr"), text]));

  // ---- what is chosen

  const place = () => Number(part("seed").value); // of the seed; ALL: of their mean
  const oneSeed = () => (place() === ALL ? null : data.seeds[place()]);
  const pair = () => [Number(part("first").value), Number(part("second").value)];
  const comparing = () => part("compare").getAttribute("aria-pressed") === "true";
  const dice = (variant, index, at = place()) => data.dice[variant][at]?.[index] ?? null;

  function difference(index) {
    const [first, second] = pair().map((variant) => dice(variant, index));
    // Of figures with three decimals: so has their difference.
    return first === null || second === null ? null : Math.round(1000 * (first - second)) / 1000;
  }

  // ---- sorting and filtering

  function valueOf(index, key) {
    if (key === "lesion") return data.lesion[index];
    if (key === "disagreement") return data.disagreement[index];
    if (key === "difference") return difference(index);
    return dice(Number(part("variant").value), index);
  }

  // The bounds that are set; a case without a value lies within none.
  function bounds(key) {
    const number = (end) => {
      const input = part(`${key}-${end}`);
      return !input || input.value === "" ? null : input.valueAsNumber;
    };
    return { low: number("low"), high: number("high") };
  }

  function within(value, { low, high }) {
    if (low === null && high === null) return true;
    return value !== null && (low === null || value >= low) && (high === null || value <= high);
  }

  function passing() {
    const text = part("text").value.trim().toLowerCase();
    const ranges = KEYS.map((key) => [key, bounds(key)]);
    return data.ids
      .map((_, index) => index)
      .filter(
        (index) =>
          data.ids[index].toLowerCase().includes(text) &&
          ranges.every(([key, range]) => within(valueOf(index, key), range)),
      );
  }

  function sorted(indices) {
    const key = part("sort").value;
    const order = Number(part("order").value);
    const byId = (a, b) => (data.ids[a] < data.ids[b] ? -1 : 1);
    if (key === "id") return indices.sort((a, b) => order * byId(a, b));
    return indices.sort((a, b) => {
      const [first, second] = [valueOf(a, key), valueOf(b, key)];
      if (first === null || second === null) {
        return (first === null) - (second === null) || byId(a, b); // without a value: last
      }
      return order * (first - second) || byId(a, b);
    });
  }

  function sortBy(key, order) {
    part("sort").value = key;
    part("order").value = order;
    update();
  }

  function update() {
    for (const button of form.querySelectorAll("[data-sort]")) {
      const { sort, order } = button.dataset;
      const pressed = sort === part("sort").value && order === part("order").value;
      button.setAttribute("aria-pressed", pressed);
    }
    found = sorted(passing());
    listed = PAGE;
    list();
    showPlace();
    showControls();
  }

  // Of what is chosen the parts that bear on what is shown.
  function showControls() {
    if (!several) return;
    const open = chosen !== null;
    part("pair").hidden = !(open && comparing()) && part("sort").value !== "difference";
    part("variants").hidden = !open || comparing();
  }

  // ---- the list

  function list() {
    const shown = found.slice(0, listed);
    part("cases").replaceChildren(...shown.map(item));
    const all = data.ids.length;
    part("count").textContent =
      `${found.length} of ${all} case${all === 1 ? "" : "s"}` +
      (shown.length < found.length ? `, the first ${shown.length} listed` : "");
    part("more").hidden = shown.length === found.length;
  }

  function item(index) {
    const sort = part("sort").value;
    const line =
      sort === "disagreement"
        ? `disagreement ${decimals(data.disagreement[index])}`
        : sort === "difference"
          ? `difference ${signed(difference(index))}`
          : `area ${percent(data.lesion[index])}`;
    const button = make(
      "button",
      { type: "button", "data-index": index, "aria-current": index === chosen },
      picture(index, largest(index), truth(largest(index))),
      make("strong", {}, `Dice ${decimals(valueOf(index, "dice"))}`),
      make("span", { class: "id" }, data.ids[index]),
      make("span", { class: "quiet" }, line),
    );
    button.addEventListener("click", () => open(index));
    return make("li", {}, button);
  }

  // ---- pictures

  const border = (kind, d) => make("path", { class: kind, d });
  const truth = (frame) => ["rim", "truth"].map((kind) => border(kind, data.truth[frame]));

  // A case's frame with what is drawn over it, the later above the earlier.
  function picture(index, frame, drawn, kind = "") {
    // A unit's centre is at whole numbers: the picture begins half a unit before 0.
    const box = { x: -0.5, y: -0.5, width: data.width, height: data.height };
    const image = make("image", {
      ...box,
      preserveAspectRatio: "none",
      href: `data:image/webp;base64,${data.images[frame]}`,
    });
    const svg = make(
      "svg",
      {
        class: `picture ${kind}`,
        viewBox: Object.values(box).join(" "),
        preserveAspectRatio: "none",
        "aria-hidden": "true",
      },
      image,
      ...drawn,
    );
    svg.style.aspectRatio = data.proportions[index];
    return svg;
  }

  function marker(variant) {
    const { colour, marker: d } = data.variants[variant];
    const attributes = { class: "marker", viewBox: "-7.5 -7.5 15 15", "aria-hidden": "true" };
    return make("svg", attributes, make("path", { d, fill: colour }));
  }

  function panel(svg, title, ...text) {
    return make("figure", {}, svg, make("figcaption", {}, make("strong", {}, ...title), ...text));
  }

  // ---- borders

  // The seeds that are drawn: those chosen that the page has the borders of.
  const drawnSeeds = () =>
    (oneSeed() === null ? data.seeds : [oneSeed()]).filter((seed) => seed in data.borders);

  // A variant's borders on a frame, one of each drawn seed with a run of it that is unpacked.
  const predicted = (variant, frame) =>
    drawnSeeds()
      .map((seed) => unpacked.get(seed)?.[variant]?.[frame])
      .filter((d) => d !== undefined);

  async function unpack(seed) {
    const bytes = Uint8Array.from(atob(data.borders[seed]), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    unpacked.set(seed, await new Response(stream).json());
  }

  // ---- a case

  // Draws the case that is shown, and once more when the borders it lacks are unpacked.
  function draw() {
    if (chosen === null) return;
    const missing = drawnSeeds().filter((seed) => !unpacked.has(seed));
    part("case").setAttribute("aria-busy", missing.length > 0);
    showSlice();
    const panels = comparing() ? compared(chosen) : each(chosen);
    part("panels").classList.toggle("compared", comparing());
    part("panels").replaceChildren(...panels);
    part("key").textContent = key();
    if (missing.length === 0) return;
    Promise.all(missing.map(unpack)).then(draw, () => {
      part("case").setAttribute("aria-busy", false);
      part("key").textContent = "The predicted borders need a newer browser.";
    });
  }

  // Which of a volume's slices is shown; of one slice alone there is nothing to choose.
  function showSlice() {
    if (!slider) return;
    const [first, , last] = data.frames[chosen];
    Object.assign(slider, { min: first, max: last, value: current[chosen], hidden: first === last });
    const place = `${data.slices[current[chosen]]} of ${data.depth}`;
    slider.setAttribute("aria-valuetext", place);
    part("slice-told").textContent = `Slice ${place}`;
  }

  const shownVariants = () =>
    several
      ? [...part("variants").querySelectorAll(":checked")].map((input) => Number(input.value))
      : [0];

  function each(index) {
    const frame = current[index];
    return [
      panel(picture(index, frame, []), ["Image"]),
      panel(picture(index, frame, truth(frame)), ["Truth"], data.truth[frame] ? "" : "no lesion"),
      ...shownVariants().map((variant) => prediction(index, variant)),
    ];
  }

  function prediction(index, variant) {
    const frame = current[index];
    const lines = predicted(variant, frame);
    const kind = lines.length > 1 ? "predicted many" : "predicted";
    const svg = picture(index, frame, [border(kind, lines.join("")), ...truth(frame)]);
    return panel(svg, [marker(variant), ...broken(data.variants[variant].name)], told(index, variant, lines));
  }

  // The Dice of a prediction, and what is to be known of it.
  function told(index, variant, lines) {
    const { failed } = data.variants[variant];
    const seed = oneSeed();
    const empty = lines.filter((d) => d === "").length;
    const nothing = slider ? "nothing predicted in this slice" : "nothing predicted";
    if (seed === null) {
      return (
        `mean Dice ${decimals(dice(variant, index))}` +
        (failed.length > 0 ? `, with the failed run of ${numbers("seed", failed)}` : "") +
        (empty > 0 ? `; ${nothing} by ${empty} of ${lines.length} runs` : "")
      );
    }
    if (!data.dice[variant][place()]) return `no run of seed ${seed}`;
    return (
      `Dice ${decimals(dice(variant, index))}` +
      (failed.includes(seed) ? " of a run that failed" : "") +
      (ALL > 1 ? `, mean over seeds ${decimals(dice(variant, index, ALL))}` : "") +
      (empty > 0 ? `; ${nothing}` : "")
    );
  }

  function compared(index) {
    const frame = current[index];
    const [first, second] = pair();
    const alone = pair().map((variant) =>
      make("span", {}, marker(variant), ...broken(data.variants[variant].name), " alone"),
    );
    return [
      prediction(index, first),
      prediction(index, second),
      panel(
        picture(index, frame, [...differing(frame, first, second), ...truth(frame)], "dim"),
        ["Where they differ"],
        `difference ${signed(difference(index))}; found by`,
        ...alone,
      ),
    ];
  }

  // The areas that one variant alone predicts, by seed one over the other. Both masks' paths
  // together fill, by evenodd, where just one of them is; clipped by a mask: where that one is.
  function differing(frame, first, second) {
    const seeds = drawnSeeds().filter((seed) =>
      [first, second].every((variant) => unpacked.get(seed)?.[variant]),
    );
    const opacity = 1 - 0.15 ** (1 / seeds.length); // all together: 0.85
    return seeds.flatMap((seed) => {
      const paths = [first, second].map((variant) => unpacked.get(seed)[variant][frame]);
      return [first, second].flatMap((variant, at) => {
        const id = `explorer-clip-${seed}-${at}`;
        const mask = make("path", { d: paths[at], "clip-rule": "evenodd" });
        const area = make("path", {
          class: "alone",
          d: paths.join(""),
          fill: data.variants[variant].colour,
          "fill-rule": "evenodd",
          "fill-opacity": opacity,
          "clip-path": `url(#${id})`,
        });
        return [make("clipPath", { id }, mask), area];
      });
    });
  }

  function key() {
    const absent = (oneSeed() === null ? data.seeds : [oneSeed()]).filter(
      (seed) => !(seed in data.borders),
    );
    return (
      "White: the true border; blue: the predicted border" +
      (drawnSeeds().length > 1 ? " of each seed" : "") +
      "; simplified." +
      (comparing() && drawnSeeds().length > 1
        ? " Colour: found by one variant alone, the stronger the more seeds."
        : "") +
      (absent.length > 0
        ? ` The borders of ${numbers("seed", absent)} are not drawn: with them the page would be` +
          " too large to mail. Their masks are in the runs\u2019 predictions.npy."
        : "")
    );
  }

  function show(index) {
    chosen = index;
    part("title").textContent = data.ids[index];
    part("case").hidden = false;
    draw();
    mark();
    showPlace();
    showControls();
    tellAddress();
  }

  function open(index) {
    show(index);
    part("title").focus({ preventScroll: true });
    view.scrollIntoView({ block: "start" });
  }

  function mark() {
    for (const button of part("cases").querySelectorAll("button")) {
      button.setAttribute("aria-current", Number(button.dataset.index) === chosen);
    }
  }

  // Where the case that is shown stands in the list, and which ways lead on from it.
  function showPlace() {
    if (chosen === null) return;
    const at = found.indexOf(chosen);
    part("previous").disabled = at <= 0;
    part("next").disabled = at < 0 || at === found.length - 1;
    part("facts").textContent =
      (at < 0 ? "not in the list" : `${at + 1} of ${found.length}`) +
      `; lesion area ${percent(data.lesion[chosen])}` +
      `, mean Dice ${decimals(dice(data.variants.length, chosen, data.dice[0].length - 1))}` +
      (several ? `, disagreement ${decimals(data.disagreement[chosen])}` : "");
  }

  function step(by) {
    const at = found.indexOf(chosen) + by;
    if (at >= listed) {
      listed += PAGE;
      list();
    }
    show(found[at]);
    // A button that leads no further loses the focus.
    if (document.activeElement === document.body) part("title").focus({ preventScroll: true });
  }

  function hide() {
    part("case").hidden = true;
    chosen = null;
    mark();
    showControls();
  }

  function close() {
    const button = part("cases").querySelector(`[data-index="${chosen}"]`);
    hide();
    tellAddress();
    (button ?? part("text")).focus();
  }

  // ---- the address: #case=ID&seed=3 and #run=VARIANT,3

  function tellAddress() {
    part("told").textContent = ""; // of the address before
    const parts = [];
    const seed = oneSeed();
    const variant = data.variants[Number(part("variant").value)]?.name;
    if (chosen !== null) parts.push(`case=${encodeURIComponent(data.ids[chosen])}`);
    if (seed !== null && ALL > 1) {
      parts.push(
        several && variant !== undefined
          ? `run=${encodeURIComponent(variant)},${seed}`
          : `seed=${seed}`,
      );
    }
    try {
      history.replaceState(null, "", `#${parts.join("&") || "explorer"}`);
    } catch {
      // A page shown inside another, as MLflow shows it, has no address of its own.
    }
  }

  function readAddress() {
    const pairs = location.hash
      .slice(1)
      .split("&")
      .map((each) => [each.split("=", 1)[0], each.slice(each.indexOf("=") + 1)])
      .filter(([name]) => ["case", "seed", "run"].includes(name));
    return Object.fromEntries(pairs.map(([name, text]) => [name, decodeURIComponent(text)]));
  }

  // Shows what the address asks for; what is not here is told.
  function follow() {
    let asked;
    try {
      asked = readAddress();
    } catch {
      part("told").textContent = "The address cannot be read: it is not URI-encoded.";
      return;
    }
    if (Object.keys(asked).length === 0) {
      if (chosen !== null) hide(); // the address names another part of the page
      return;
    }
    const absent = [];
    // The place in `names` of what is asked for.
    const look = (noun, names, name) => {
      const at = names.map(String).indexOf(name);
      if (name !== undefined && at < 0) absent.push(`There is no ${noun} \u201c${name}\u201d here.`);
      return at;
    };
    let named;
    if (asked.run !== undefined) {
      // A variant's name may have commas.
      [, named, asked.seed] = asked.run.match(/^(.*),(.*)$/s) ?? [null, asked.run, undefined];
      if (asked.seed === undefined) absent.push("The address names no seed.");
    }
    const variant = look("variant", data.variants.map((each) => each.name), named);
    const seed = look("seed", data.seeds, asked.seed);
    const index = look("case", data.ids, asked.case);
    if (asked.run !== undefined) {
      form.reset();
      if (variant >= 0) part("variant").value = variant;
    }
    part("seed").value = seed < 0 ? (ALL > 1 ? ALL : 0) : seed;
    update();
    if (index >= 0) {
      open(index);
    } else {
      hide();
      document.getElementById("explorer").scrollIntoView({ block: "start" });
    }
    part("told").textContent = absent.join(" ");
  }

  // ---- events

  form.addEventListener("input", () => {
    update();
    tellAddress();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update)); // after the fields are reset
  for (const button of form.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => sortBy(button.dataset.sort, button.dataset.order));
  }
  view.addEventListener("submit", (event) => event.preventDefault());
  view.addEventListener("input", () => {
    update();
    draw();
    tellAddress();
  });
  part("more").addEventListener("click", () => {
    const next = listed;
    listed += PAGE;
    list();
    part("cases").children[next].firstChild.focus();
  });
  part("previous").addEventListener("click", () => step(-1));
  part("next").addEventListener("click", () => step(1));
  part("close").addEventListener("click", close);
  part("compare").addEventListener("click", () => {
    part("compare").setAttribute("aria-pressed", !comparing());
    showControls();
    draw();
  });
  slider?.addEventListener("input", () => {
    current[chosen] = slider.valueAsNumber;
    draw();
  });
  // Keys that a field or another part of the page has a use for are left to it.
  document.addEventListener("keydown", (event) => {
    const { target, key: name } = event;
    const { top, bottom } = part("case").getBoundingClientRect();
    const seen = top < innerHeight && bottom > 0;
    const here = target.closest?.("#explorer") || (target === document.body && seen);
    if (chosen === null || !here || target.matches("select, input:not([type=checkbox])")) return;
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (name === "Escape") close();
    if (name === "ArrowLeft" && !part("previous").disabled) step(-1);
    if (name === "ArrowRight" && !part("next").disabled) step(1);
  });
  addEventListener("hashchange", follow);
  // A link to where the address already is changes nothing that hashchange would tell of.
  document.addEventListener("click", (event) => {
    const href = event.target.closest?.("a[href]")?.getAttribute("href");
    if (href && href === location.hash) follow();
  });
  if (document.readyState === "complete") follow();
  else addEventListener("load", follow); // when what stands above has its height
  if (several) part("variants").open = matchMedia("(min-width: 45rem)").matches;
  form.hidden = view.hidden = false;
  update();
})();
