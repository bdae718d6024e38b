// The page's own behaviour: folded parts that open for links and for print, tables that sort by
// a click on a column's title and tell that they scroll, and the section that is being read.
(() => {
  "use strict";

  // ---- folded parts

  function open() {
    const id = location.hash.slice(1);
    const target = id && document.getElementById(id);
    if (!target) return;
    let inside = target;
    while ((inside = inside.closest("details:not([open])"))) inside.open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", open);
  addEventListener("DOMContentLoaded", open);

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
  });

  // ---- tables

  const UNITS = { min: 60, h: 3600 }; // in seconds, beside times in seconds

  // The number that a cell begins with, else its text.
  function valueOf(row, column) {
    const text = row.cells[column].textContent.trim();
    const found = /^(?:under |over |[<>] ?)?([+-]?\d[\d,]*(?:\.\d+)?) ?([a-z]*)/i.exec(text);
    if (column === 0 || !found) return text;
    return Number(found[1].replaceAll(",", "")) * (UNITS[found[2]] ?? 1);
  }

  // Cells without a number go last.
  function compared(a, b) {
    if (typeof a === typeof b) return typeof a === "string" ? a.localeCompare(b) : a - b;
    return null;
  }

  // Names from a to z first, figures from the highest; then the other way round; then as it was.
  function sort(table, column, original) {
    const titles = [...table.tHead.rows[0].cells];
    const ways = column === 0 ? ["ascending", "descending"] : ["descending", "ascending"];
    const way = ways[ways.indexOf(titles[column].getAttribute("aria-sort")) + 1];
    for (const title of titles) title.removeAttribute("aria-sort");
    const rows = [...original];
    if (way) {
      titles[column].setAttribute("aria-sort", way);
      const order = way === "ascending" ? 1 : -1;
      const values = new Map(rows.map((row) => [row, valueOf(row, column)]));
      rows.sort((a, b) => {
        const [first, second] = [values.get(a), values.get(b)];
        const found = compared(first, second);
        return found === null ? (typeof first === "string") - (typeof second === "string") : order * found;
      });
    }
    table.tBodies[0].append(...rows);
  }

  for (const table of document.querySelectorAll("table.scores")) {
    const original = [...table.tBodies[0].rows];
    [...table.tHead.rows[0].cells].forEach((title, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...title.childNodes);
      title.append(button);
      button.addEventListener("click", () => sort(table, column, original));
    });
  }

  const told = (scroll) => {
    const left = scroll.scrollWidth - scroll.clientWidth - scroll.scrollLeft;
    scroll.parentElement.classList.toggle("more", left > 2);
  };
  const sizes = new ResizeObserver((changes) => changes.forEach(({ target }) => told(target)));
  for (const scroll of document.querySelectorAll(".frame > .scroll, figure > .card")) {
    scroll.addEventListener("scroll", () => told(scroll), { passive: true });
    sizes.observe(scroll);
  }

  // ---- the runs of the first picture: one stop of the tabulator a variant, arrows from dot to dot

  document.querySelector(".chart")?.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const dots = [...(event.target.closest(".track")?.querySelectorAll(".dot") ?? [])];
    const next = dots[dots.indexOf(event.target) + by];
    if (!by || !next) return;
    event.preventDefault();
    next.focus();
  });

  // ---- where the reader is

  const links = new Map(
    [...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]),
  );
  const seen = new IntersectionObserver(
    (changes) => {
      for (const { target, isIntersecting } of changes) {
        if (!isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(target.id)?.setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-20% 0px -75% 0px" },
  );
  for (const section of document.querySelectorAll("main > section")) seen.observe(section);
})();
