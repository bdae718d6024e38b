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

  // The number that a cell begins with; cells without one go last.
  function valueOf(row, column) {
    const text = row.cells[column].textContent.trim().replace(/,(?=\d{3})/g, "");
    const found = /^(?:under |over |[<>] ?)?([+-]?\d+(?:\.\d+)?)/.exec(text);
    return found ? Number(found[1]) : column === 0 ? text : null;
  }

  function sort(table, column) {
    const titles = [...table.tHead.rows[0].cells];
    const title = titles[column];
    const down = title.getAttribute("aria-sort") !== "descending" && column !== 0;
    const order = title.getAttribute("aria-sort") === "descending" || !down ? 1 : -1;
    for (const other of titles) other.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", order === 1 ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      if (typeof a === "string" || typeof b === "string") return order * String(a).localeCompare(String(b));
      return order * (a - b);
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll("table.scores")) {
    [...table.tHead.rows[0].cells].forEach((title, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...title.childNodes);
      title.append(button);
      button.addEventListener("click", () => sort(table, column));
    });
  }

  const told = (scroll) => {
    const left = scroll.scrollWidth - scroll.clientWidth - scroll.scrollLeft;
    scroll.parentElement.classList.toggle("more", left > 2);
  };
  const sizes = new ResizeObserver((changes) => changes.forEach(({ target }) => told(target)));
  for (const scroll of document.querySelectorAll(".frame > .scroll")) {
    scroll.addEventListener("scroll", () => told(scroll), { passive: true });
    sizes.observe(scroll);
  }

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
