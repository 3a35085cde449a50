// The prompts that were started in this browser, the newest first; no server ever hears of the list.
const KEY = "framepack-prompts";
const list = element.querySelector("ul"), search = element.querySelector("input"), panel = element.querySelector("details");
const most = Number(panel.dataset.most);
const box = () => document.querySelector("#prompt textarea");
const read = () => {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(kept) ? kept.filter((prompt) => typeof prompt === "string").slice(0, most) : [];
  } catch {
    return []; // somebody else's, or damaged
  }
};
const write = (prompts) => {
  try {
    localStorage.setItem(KEY, JSON.stringify(prompts.slice(0, most)));
  } catch {
    if (prompts.length > 1) write(prompts.slice(0, Math.floor(prompts.length / 2))); // the browser keeps no more
  }
  draw();
};
const button = (action, text, label) => {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", textContent: text });
  made.dataset.action = action;
  if (label) made.setAttribute("aria-label", label);
  return made;
};
const draw = () => {
  const words = search.value.trim().toLowerCase().split(/\s+/), prompts = read();
  const found = prompts.filter((prompt) => words.every((word) => prompt.toLowerCase().includes(word)));
  list.replaceChildren(...found.map((prompt) => {
    const row = document.createElement("li");
    row.prompt = prompt;
    row.append(button("use", prompt), button("remove", "✕", `${panel.dataset.remove}: ${prompt}`));
    return row;
  }));
  element.querySelector("p").hidden = prompts.length > 0;
  search.hidden = element.querySelector("[data-action=clear]").hidden = prompts.length === 0;
};
const remove = (row) => {
  const place = [...list.children].indexOf(row);
  write(read().filter((prompt) => prompt !== row.prompt));
  const next = list.children[Math.min(place, list.children.length - 1)];
  (next?.querySelector("[data-action=remove]") ?? panel.querySelector("summary")).focus();
};

element.addEventListener("click", ({ target }) => {
  const { action } = target.dataset, row = target.closest("li");
  if (action === "use") {
    box().value = row.prompt;
    box().dispatchEvent(new Event("input", { bubbles: true }));
    box().focus();
  } else if (action === "remove") remove(row);
  else if (action === "clear" && confirm(panel.dataset.sure)) {
    write([]);
    panel.querySelector("summary").focus();
  }
});
element.addEventListener("keydown", (event) => {
  const row = event.target.closest("li"), step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.key === "Delete" && row) remove(row);
  else if (event.key === "Escape" && panel.open) {
    panel.open = false;
    panel.querySelector("summary").focus();
    event.stopPropagation(); // it closes this, and ends no video
  } else if (step && (row || event.target === search)) {
    const rows = [...list.children], next = rows[rows.indexOf(row) + step];
    (next?.querySelector("[data-action=use]") ?? (step < 0 ? search : event.target)).focus();
  } else return;
  event.preventDefault();
});
search.addEventListener("input", draw);
panel.addEventListener("toggle", draw);
const started = ({ target }) => {
  if (!element.isConnected) return document.removeEventListener("click", started, true);
  const prompt = target.closest?.("#start, #many-add") && box()?.value.trim();
  if (prompt) write([prompt, ...read().filter((other) => other !== prompt)]);
};
document.addEventListener("click", started, true);
addEventListener("storage", ({ key }) => { if (key === KEY) draw(); }); // of another tab
draw();
