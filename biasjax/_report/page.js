(() => {
  "use strict";
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });

  // The contents follow what is read
  const details = document.querySelector(".contents details");
  if (matchMedia("(max-width: 60rem)").matches) details.open = false;
  const links = new Map([...document.querySelectorAll(".contents a")].map((a) => [a.hash.slice(1), a]));
  const sections = [...document.querySelectorAll("main > section")];
  let current = null;
  const follow = () => {
    const above = sections.filter((one) => one.getBoundingClientRect().top < innerHeight / 3);
    const link = links.get((above.at(-1) || sections[0]).id);
    if (link === current) return;
    if (current) current.removeAttribute("aria-current");
    link.setAttribute("aria-current", "true");
    current = link;
    const box = link.closest("nav");
    const [top, bottom] = [link.offsetTop, link.offsetTop + link.offsetHeight];
    if (top < box.scrollTop || bottom > box.scrollTop + box.clientHeight) box.scrollTop = top - box.clientHeight / 2;
  };
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; follow(); });
  }, { passive: true });
  if (sections.length) follow();

  addEventListener("beforeprint", () => document.querySelectorAll("main details").forEach((one) => {
    one.dataset.was = one.open; one.open = true;
  }));
  addEventListener("afterprint", () => document.querySelectorAll("main details").forEach((one) => {
    one.open = one.dataset.was === "true";
  }));

  // The number that a cell begins with, ones that are none last; null for words, such as a path 0/bias
  const number = (text) => {
    const plain = text.replace(/[,\s≤≥=]/g, "").replace("−", "-").toLowerCase();
    if (plain === "" || plain === "nan") return Infinity;
    const found = plain.match(/^([-+]?)(?:(inf)|(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(?![\w\/.])/);
    if (!found) return null;
    return found[2] ? (found[1] === "-" ? -Infinity : Number.MAX_VALUE) : parseFloat(found[0]);
  };
  const said = (element) => element.textContent.replace(/\s+/g, " ").trim();
  for (const box of document.querySelectorAll("[data-table]")) {
    const table = box.querySelector("table");
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const tools = box.querySelector(".tools");
    const heads = [...table.tHead.rows[0].cells];
    if (!tools) continue;
    tools.hidden = false;
    const search = tools.querySelector("input");
    const choose = tools.querySelector("select");
    const shown = tools.querySelector("output");
    const at = choose ? Number(choose.dataset.column) : -1;
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const filter = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      rows.forEach((row, i) => {
        const fits = words.every((word) => texts[i].includes(word)) &&
          (!choose || !choose.value || said(row.cells[at]) === choose.value);
        row.hidden = !fits;
        count += fits;
      });
      shown.textContent = `${count} of ${rows.length}`;
    };
    search.addEventListener("input", filter);
    if (choose) choose.addEventListener("input", filter);
    filter();
    heads.forEach((th, i) => {
      if (!th.textContent) return;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = th.textContent;
      th.replaceChildren(button);
      button.addEventListener("click", () => {
        // Up, down, and as it was
        const before = th.getAttribute("aria-sort");
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        if (before === "descending") {
          body.append(...rows);
          return;
        }
        const down = before === "ascending";
        th.setAttribute("aria-sort", down ? "descending" : "ascending");
        const texts = new Map(rows.map((row) => [row, said(row.cells[i])]));
        const numbers = new Map(rows.map((row) => [row, number(texts.get(row))]));
        const numeric = rows.every((row) => numbers.get(row) !== null);
        const order = (a, b) => {
          if (!numeric) return texts.get(a).localeCompare(texts.get(b), "en", { numeric: true });
          const [x, y] = [numbers.get(a), numbers.get(b)];
          return x === y ? 0 : x < y ? -1 : 1;
        };
        body.append(...[...rows].sort((a, b) => (down ? order(b, a) : order(a, b))));
      });
    });
  }
})();
