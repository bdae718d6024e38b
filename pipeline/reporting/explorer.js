// The case explorer: sorts, filters and shows the cases of #explorer-data, with no library.
// Text from data is only ever set as text.
(() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const SVG_TAGS = new Set(["svg", "image", "path"]);
  const PAGE = 24; // cases that the list grows by
  const DASH = "\u2013";
  const KEYS = ["dice", "lesion", "disagreement"];

  const part = (name) => document.getElementById(`explorer-${name}`);
  const data = JSON.parse(part("data").textContent);
  const form = part("form");
  const meanDice = data.ids.map((_, index) => mean(data.dice.map((dice) => dice[index])));

  let found = []; // indices of the cases that pass the filters, in order
  let listed = PAGE; // how many of them the list shows
  let chosen = null; // the index of the case that is shown

  function mean(values) {
    if (values.includes(null)) return null;
    return values.reduce((sum, value) => sum + value, 0) / values.length;
  }

  function make(tag, attributes = {}, ...children) {
    const element = SVG_TAGS.has(tag)
      ? document.createElementNS(SVG, tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const decimals = (value) => (value === null ? DASH : value.toFixed(3));
  const percent = (value) => `${(100 * value).toFixed(1)} %`;

  // ---- sorting and filtering

  function valueOf(index, key) {
    if (key === "lesion") return 100 * data.lesion[index];
    if (key === "disagreement") return data.disagreement[index];
    const variant = part("variant").value;
    return variant === "" ? meanDice[index] : data.dice[Number(variant)][index];
  }

  // The bounds that are set; a case without a value lies within none.
  function bounds(key) {
    const number = (end) => {
      const input = part(`${key}-${end}`);
      return input.value === "" ? null : input.valueAsNumber;
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

  function update() {
    found = sorted(passing());
    listed = PAGE;
    list();
    showPlace();
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
    const lines = [
      make("strong", {}, data.ids[index]),
      `Dice ${decimals(valueOf(index, "dice"))}`,
      `area ${percent(data.lesion[index])}`,
      `disagreement ${decimals(data.disagreement[index])}`,
    ];
    const button = make(
      "button",
      { type: "button", "data-index": index, "aria-current": index === chosen },
      picture(index, []),
      ...lines.map((line) => make("span", {}, line)),
    );
    button.addEventListener("click", () => show(index));
    return make("li", {}, button);
  }

  // ---- a case

  // The image with borders drawn over it: [class, path], the later above the earlier.
  function picture(index, borders) {
    const { width, height } = data;
    // A pixel's centre is at whole numbers: the picture begins half a pixel before 0.
    const frame = { x: -0.5, y: -0.5, width, height };
    const image = make("image", {
      ...frame,
      preserveAspectRatio: "none",
      href: `data:image/webp;base64,${data.images[index]}`,
    });
    const svg = make(
      "svg",
      {
        class: "picture",
        viewBox: Object.values(frame).join(" "),
        preserveAspectRatio: "none",
        "aria-hidden": "true",
      },
      image,
      ...borders.map(([kind, d]) => make("path", { class: kind, d })),
    );
    svg.style.aspectRatio = data.proportions[index];
    return svg;
  }

  function panel(index, title, text, borders) {
    const caption = make("figcaption", {}, make("strong", {}, title), text);
    return make("figure", {}, picture(index, borders), caption);
  }

  function show(index) {
    chosen = index;
    const truth = [
      ["rim", data.truth[index]],
      ["truth", data.truth[index]],
    ];
    part("title").textContent = data.ids[index];
    part("facts").textContent =
      `lesion area ${percent(data.lesion[index])}, mean Dice ${decimals(meanDice[index])}, ` +
      `disagreement ${decimals(data.disagreement[index])}`;
    part("panels").replaceChildren(
      panel(index, "Image", "", []),
      panel(index, "Truth", data.truth[index] ? "" : "no lesion", truth),
      ...data.variants.map((name, variant) => {
        const predicted = data.predicted[variant][index];
        const text =
          `Dice ${decimals(data.diceOfSeed[variant][index])}` +
          (data.failed[variant] ? " of a run that failed" : "") +
          (data.seeds > 1 ? `, mean over seeds ${decimals(data.dice[variant][index])}` : "") +
          (predicted ? "" : "; nothing predicted");
        return panel(index, name, text, [["predicted", predicted], ...truth]);
      }),
    );
    part("case").hidden = false;
    mark();
    showPlace();
    part("title").focus({ preventScroll: true });
    part("case").scrollIntoView({ block: "start" });
  }

  function mark() {
    for (const button of part("cases").querySelectorAll("button")) {
      button.setAttribute("aria-current", Number(button.dataset.index) === chosen);
    }
  }

  // Which ways lead on from the case that is shown.
  function showPlace() {
    const place = found.indexOf(chosen);
    part("previous").disabled = place <= 0;
    part("next").disabled = place < 0 || place === found.length - 1;
  }

  function step(by) {
    const place = found.indexOf(chosen) + by;
    if (place >= listed) {
      listed += PAGE;
      list();
    }
    show(found[place]);
  }

  function close() {
    const button = part("cases").querySelector(`[data-index="${chosen}"]`);
    part("case").hidden = true;
    chosen = null;
    mark();
    (button ?? part("text")).focus();
  }

  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update)); // after the fields are reset
  part("more").addEventListener("click", () => {
    const next = listed;
    listed += PAGE;
    list();
    part("cases").children[next].firstChild.focus();
  });
  part("previous").addEventListener("click", () => step(-1));
  part("next").addEventListener("click", () => step(1));
  part("close").addEventListener("click", close);
  part("case").addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (event.key === "ArrowLeft" && !part("previous").disabled) step(-1);
    if (event.key === "ArrowRight" && !part("next").disabled) step(1);
  });
  form.hidden = false;
  update();
})();
