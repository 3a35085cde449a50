/* The strip of waiting jobs: every button is an action of a job; arrows go from row to row and from button to button,
   Alt and an arrow moves a row, and so does dragging it. After each change Gradio writes other rows into the same
   elements, so what had the focus is found again by its job and action. */
const act = (action, id = "", place = 0) => trigger("select", { action, id, place });
const row = (node) => node?.closest?.("[data-place]");
const rows = () => [...element.querySelectorAll("[data-place]")];
const buttons = (of) => [...of.querySelectorAll("button")];
let focused = null; // the job and the action that had the focus last, while it is in here
let dragged = null;

const reach = () => { // one row can be reached with Tab, as in a toolbar; arrows lead to the others
  const all = rows();
  const current = all.find(({ dataset }) => dataset.job === focused?.id) ?? all[0];
  for (const one of all) for (const button of buttons(one)) button.tabIndex = one === current ? 0 : -1;
};
const focusOn = ({ id, action, index }) => {
  const all = rows();
  const target = all.find(({ dataset }) => dataset.job === id) ?? all[Math.min(index, all.length - 1)];
  const inside = target && (target.querySelector(`[data-action="${action}"]`) ?? buttons(target)[0]);
  (inside ?? element.querySelector(`[data-action="${action}"]`) ?? element.querySelector("button"))?.focus();
};
const redrawn = () => {
  reach();
  const active = document.activeElement, nowhere = active === null || active === document.body;
  if (!focused || !(nowhere || element.contains(active))) return;
  if (nowhere || row(active)?.dataset.job !== focused.id || active.dataset.action !== focused.action) focusOn(focused);
};

element.addEventListener("focusin", ({ target }) => {
  const of = row(target);
  focused = { id: of?.dataset.job, action: target.dataset.action, index: of ? rows().indexOf(of) : 0 };
  reach();
});
element.addEventListener("focusout", ({ relatedTarget }) => {
  if (relatedTarget && !element.contains(relatedTarget)) focused = null;
});
onPress((button) => {
  const { action, ask, of: id = "" } = button.dataset, of = row(button), place = Number(of?.dataset.place ?? 0);
  const step = { up: -1, down: 1 }[action];
  return step ? ["move", of.dataset.job, place + step] : [action, id, 0, ask];
}, ([action, id, place, ask]) => { if (!ask || confirm(ask)) act(action, id, place); });
element.addEventListener("keydown", (event) => {
  const of = row(event.target), { key } = event;
  if (!of || !["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "Delete"].includes(key)) return;
  event.preventDefault();
  const all = rows(), at = all.indexOf(of), own = buttons(of), button = own.indexOf(event.target);
  const step = key === "ArrowUp" || key === "ArrowLeft" ? -1 : 1;
  if (key === "Delete") act("remove", of.dataset.job);
  else if (event.altKey && key.startsWith("Arrow")) act("move", of.dataset.job, Number(of.dataset.place) + step);
  else if (key === "ArrowLeft" || key === "ArrowRight") own[button + step]?.focus();
  else {
    const next = all[{ Home: 0, End: all.length - 1 }[key] ?? at + step];
    if (next) buttons(next)[Math.max(button, 0)].focus();
  }
});

element.addEventListener("dragstart", (event) => {
  dragged = row(event.target)?.dataset.job ?? null;
  if (!dragged) return;
  event.dataTransfer.effectAllowed = "move";
  event.dataTransfer.setData("text/plain", "");
});
element.addEventListener("dragover", (event) => {
  const over = row(event.target);
  if (!dragged || !over) return;
  event.preventDefault();
  rows().forEach((one) => one.classList.toggle("fp-over", one === over));
});
const dropped = (event) => {
  const over = row(event.target), id = dragged;
  dragged = null;
  rows().forEach((one) => one.classList.remove("fp-over"));
  if (event.type !== "drop" || !id || !over) return;
  event.preventDefault();
  event.stopPropagation(); // it is no file
  if (over.dataset.job !== id) act("move", id, Number(over.dataset.place));
};
element.addEventListener("drop", dropped);
element.addEventListener("dragend", dropped);

new MutationObserver(redrawn).observe(element, { childList: true, subtree: true, attributeFilter: ["data-job"] });
reach();
