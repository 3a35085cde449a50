// The buttons of a finished video: one event says which was pressed, and of which job. A double click is one.
const AGAIN = 1000; // ms
let last = "", pressed = 0;
element.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-action]");
  if (!button) return;
  button.closest("details")?.removeAttribute("open");
  const { action, form } = button.dataset;
  const told = `${action} ${form}`, now = Date.now();
  if (told === last && now - pressed < AGAIN) return;
  [last, pressed] = [told, now];
  trigger("use", { action, form, id: button.closest("[data-id]").dataset.id });
});
