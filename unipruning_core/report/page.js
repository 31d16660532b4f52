"use strict";
const themes = { "": "as the system", light: "light", dark: "dark" };
const theme = document.getElementById("theme");
theme.addEventListener("click", () => {
  const names = Object.keys(themes);
  const now = document.documentElement.dataset.theme || "";
  const next = names[(names.indexOf(now) + 1) % names.length];
  document.documentElement.dataset.theme = next;
  theme.textContent = `Colours: ${themes[next]}`;
});

function sortBy(head) {
  const body = head.closest("table").tBodies[0];
  const upwards = head.getAttribute("aria-sort") !== "ascending";
  const text = (row) => row.cells[head.cellIndex].textContent;
  const compare = head.classList.contains("n")
    ? (one, two) => {
        const [a, b] = [parseFloat(text(one)), parseFloat(text(two))];
        // what is not known comes last, whichever way
        if (Number.isNaN(a) || Number.isNaN(b)) return (Number.isNaN(a) - Number.isNaN(b)) * (upwards ? 1 : -1);
        return a - b;
      }
    : (one, two) => text(one).localeCompare(text(two), "en", { numeric: true });
  const rows = [...body.rows].sort((one, two) => (upwards ? compare(one, two) : compare(two, one)));
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", upwards ? "ascending" : "descending");
  body.append(...rows);
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

function csvOf(table) {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return [...table.rows].map((row) => [...row.cells].map((cell) => quoted(cell.textContent)).join(",") + "\r\n").join("");
}

for (const button of document.querySelectorAll("button.csv")) {
  button.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csvOf(button.parentNode.querySelector("table"))], { type: "text/csv" }));
    link.download = button.dataset.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}
