"use strict";
// Tables sort by a click on a header, and a text field filters their rows by method.

const texts = new Intl.Collator("en", { numeric: true });

// The value a cell sorts by: `data-value` in columns of numbers, else the text. Null where there is no value.
function sortKey(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value ?? cell.textContent;
  return value === "" || value === "-" ? null : value;
}

function compare(first, second, isNumber) {
  return isNumber ? first - second : texts.compare(first, second);
}

for (const section of document.querySelectorAll("section")) {
  const body = section.querySelector("tbody");
  const rows = [...body.rows];  // in the order of the leaderboard, which rows of equal value keep
  const headers = [...section.querySelectorAll("thead th")];
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const direction = header.ariaSort === "ascending" ? -1 : 1;
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const isNumber = header.classList.contains("number");
    body.append(...[...rows].sort((one, other) => {
      const [first, second] = [sortKey(one, column), sortKey(other, column)];
      if (first === null || second === null) return (first === null) - (second === null);  // last in both directions
      return direction * compare(first, second, isNumber);
    }));
  }));
  const filter = section.querySelector("input");
  const count = section.querySelector("output");
  function update() {
    const pattern = filter.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.dataset.method.toLowerCase().includes(pattern);
    count.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  }
  filter.addEventListener("input", update);
  update();  // a browser keeps the text of the field when the reader comes back to the page
}
