"""The script of the leaderboards' web page."""

BOARD_SCRIPT = """
"use strict";
const texts = new Intl.Collator("en", { numeric: true });

function key(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value ?? cell.textContent;
  return value === "" || value === "-" ? null : value;
}

function compare(first, second, isNumber) {
  return isNumber ? first - second : texts.compare(first, second);
}

for (const section of document.querySelectorAll("section")) {
  const body = section.querySelector("tbody");
  const rows = [...body.rows];
  const headers = [...section.querySelectorAll("thead th")];
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const direction = header.ariaSort === "ascending" ? -1 : 1;
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const isNumber = header.classList.contains("number");
    body.append(...[...rows].sort((one, other) => {
      const [first, second] = [key(one, column), key(other, column)];
      if (first === null || second === null) return (first === null) - (second === null);  // last in either order
      return direction * compare(first, second, isNumber);
    }));
  }));
  const filter = section.querySelector("input");
  const count = section.querySelector("output");
  function show() {
    const wanted = filter.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.dataset.method.toLowerCase().includes(wanted);
    count.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  }
  filter.addEventListener("input", show);
  show();  // a browser that goes back to the page keeps what was typed
}
"""
"""Columns sort by `data-value` where cells have it, in the order of the leaderboard where equal."""
