// Tables of class "sortable": a click on a heading sorts, a field above keeps the rows that hold what is typed. No library, no network.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0], rows = [...body.rows];
    const field = document.createElement("input");
    field.type = "search"; field.placeholder = "filter rows"; field.className = "filter";
    field.setAttribute("aria-label", "filter rows");
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
    });
    table.parentElement.before(field);
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const value = row => {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
      };
      const sort = () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const text = x => typeof x === "string"; // a dash, where there is no number, goes last either way
        rows.sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          if (text(x) !== text(y)) return text(x) ? 1 : -1;
          return (up ? 1 : -1) * (text(x) ? x.localeCompare(y) : x - y);
        });
        body.append(...rows);
      };
      head.tabIndex = 0;
      head.addEventListener("click", sort);
      head.addEventListener("keydown", key => { if (key.key === "Enter") sort(); });
    });
  }
});
