// The buttons of a finished video: one event says which was pressed, and of which job. A double click is one.
const AGAIN = 1000; // ms
let last = "", pressed = 0;
onPress((button) => {
  const { action, form } = button.dataset;
  return { action, form, id: button.closest("[data-id]").dataset.id };
}, (what, button) => {
  button.closest("details")?.removeAttribute("open");
  const told = `${what.action} ${what.form}`, now = Date.now();
  if (told === last && now - pressed < AGAIN) return;
  [last, pressed] = [told, now];
  trigger("use", what);
});
