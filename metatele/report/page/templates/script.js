"use strict";
(() => {
  // Sorting: click a heading, once more for the other direction. Cells without a number come last.
  const value = (row, column) => {
    const cell = row.cells[column];
    const given = cell.getAttribute("data-v");
    if (given === null) return cell.textContent.trim();
    if (given === "") return null;
    if (given === "inf") return Infinity;
    if (given === "-inf") return -Infinity;
    return Number.isNaN(Number(given)) ? given : Number(given);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? (a < b ? -1 : a > b ? 1 : 0) : String(a).localeCompare(String(b)));
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => {
        const up = heading.getAttribute("aria-sort") !== "ascending";
        for (const other of headings) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => [value(row, column), row]);
        rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : up ? compare(a, b) : compare(b, a)));
        for (const [, row] of rows) body.append(row);
      });
    });
  }

  // Wide tables: fewer columns until more are asked for, and an edge that fades while there is more to the right.
  for (const choice of document.querySelectorAll(".columns")) {
    const table = choice.nextElementSibling.querySelector("table");
    const box = choice.querySelector("input");
    const show = () => table.classList.toggle("few", !box.checked);
    box.addEventListener("change", show);
    choice.hidden = false;
    show();
  }
  for (const frame of document.querySelectorAll(".scroll")) {
    const fade = () => frame.classList.toggle("fades", frame.scrollLeft + frame.clientWidth < frame.scrollWidth - 2);
    const watch = new ResizeObserver(fade);
    watch.observe(frame);
    watch.observe(frame.firstElementChild);
    frame.addEventListener("scroll", fade, { passive: true });
    fade();
  }

  // Highlighting: point at a contestant in a legend, or click to keep it; the others fade in all figures.
  for (const section of document.querySelectorAll("section.evaluation")) {
    const buttons = [...section.querySelectorAll(".legend button")];
    const marks = [...section.querySelectorAll(".plot [data-c]")];
    const banded = new Set(buttons.filter((b) => b.classList.contains("banded")).map((b) => b.dataset.c));
    let kept = null;
    const show = (chosen) => {
      for (const mark of marks) {
        const band = mark.classList.contains("band");
        const mine = mark.dataset.c === chosen;
        mark.style.opacity = chosen === null ? (band && !banded.has(mark.dataset.c) ? "0" : "1") : mine ? "1" : band ? "0" : "0.12";
      }
      for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.c === kept));
    };
    for (const b of buttons) {
      const mine = () => show(b.dataset.c);
      const back = () => show(kept);
      b.addEventListener("mouseenter", mine);
      b.addEventListener("mouseleave", back);
      b.addEventListener("focus", () => { if (b.matches(":focus-visible")) mine(); });
      b.addEventListener("blur", back);
      b.addEventListener("click", () => { kept = kept === b.dataset.c ? null : b.dataset.c; show(kept); });
    }
    section.addEventListener("keydown", (event) => { if (event.key === "Escape") { kept = null; show(null); } });
    show(null);
  }

  // Dark or light: the other of what is shown.
  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  });
})();
