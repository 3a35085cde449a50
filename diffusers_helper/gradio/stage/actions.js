// The buttons of a finished video: one event says which was pressed, and of which job.
element.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-action]");
  if (!button) return;
  button.closest("details")?.removeAttribute("open");
  const { action, form } = button.dataset;
  trigger("use", { action, form, id: button.closest("[data-id]").dataset.id });
});
