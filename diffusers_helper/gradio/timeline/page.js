/* Opens and closes the timeline; a reload leaves it as it is. */
(page) => {
  const place = () => document.getElementById("timeline-place");
  const KEY = "framepack-timeline";
  const isOpen = () => sessionStorage.getItem(KEY) === "open";
  const show = () => {
    const button = document.getElementById("timeline-open");
    if (!place() || !button) return;
    if (place().hasAttribute("data-open") !== isOpen()) place().toggleAttribute("data-open", isOpen());
    if (button.ariaExpanded !== String(isOpen())) button.ariaExpanded = String(isOpen());
  };
  const set = (open) => {
    sessionStorage.setItem(KEY, open ? "open" : "");
    if (open) page.see?.("create");
    show();
    const next = open ? place().querySelector("textarea") : document.getElementById("timeline-open");
    next?.focus({ preventScroll: true });
    (open ? place() : next)?.scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("click", ({ target }) => {
    if (target.closest?.("#timeline-open")) set(!isOpen());
    else if (target.closest?.("#timeline [data-action=close]")) set(false);
  });
  document.addEventListener("keydown", (event) => {
    if (!event.altKey || event.ctrlKey || event.metaKey || event.repeat || event.code !== "KeyT") return;
    event.preventDefault();
    set(!isOpen());
  });
  new MutationObserver(show).observe(document.body, { childList: true, subtree: true });
}
