"use strict";
// Tables sort by a click on a header, and fields filter their rows by method and by budgets.

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
  const limits = [...section.querySelectorAll("input[type=number]")];
  const score = headers.findIndex((header) => header.textContent === "mAP");
  function isWithin(row, limit) {
    const value = sortKey(row, limit.dataset.column);
    return limit.value === "" || (value !== null && value <= limit.value * limit.dataset.unit);
  }
  function update() {
    const pattern = filter.value.trim().toLowerCase();
    for (const row of rows) {
      const isNamed = row.dataset.method.toLowerCase().includes(pattern);
      row.hidden = !(isNamed && limits.every((limit) => isWithin(row, limit)));
      row.classList.remove("best");
    }
    const visible = rows.filter((row) => !row.hidden);
    count.value = `${visible.length} of ${rows.length} rows`;
    const scored = visible.filter((row) => limits.some((limit) => limit.value !== "") && sortKey(row, score) !== null);
    if (scored.length === 0) return;
    const best = scored.reduce((one, other) => (sortKey(other, score) - sortKey(one, score) > 0 ? other : one));
    best.classList.add("best");
    const name = [...best.cells[0].childNodes].filter((node) => node.nodeName !== "SUP");  // without notes
    count.value += `, best: ${name.map((node) => node.textContent).join("").trim()}`;
  }
  for (const field of [filter, ...limits]) field.addEventListener("input", update);
  update();  // a browser keeps the text of the field when the reader comes back to the page
}
