/* What the page does in the browser beside Gradio: its language, its keys, and what a screen reader is told. */
(page) => {
  document.documentElement.lang = page.language;

  const usable = (id) => {
    const button = document.getElementById(id);
    return button && !button.disabled ? button : null;
  };
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.repeat) return; // an input method is choosing characters, or a key is held down
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      usable("start")?.click();
    } else if (event.key === "Escape" && event.target.getAttribute?.("aria-expanded") !== "true") {
      if (usable("end") && confirm(page.ask)) usable("end")?.click();
    }
  });

  const voice = document.body.appendChild(document.createElement("div"));
  voice.className = "fp-voice";
  voice.setAttribute("role", "status");
  const words = (text) => text.replace(/[\d.,]+/g, "");
  const tell = () => {
    // The status is drawn anew with every step; only another sentence, not another number in it, is worth saying.
    const status = document.querySelector("#progress .fp-status:not([role])")?.textContent ?? "";
    if (words(status) !== words(voice.textContent)) voice.textContent = status;
  };
  const label = (id, keys, title) => {
    const button = document.getElementById(id);
    if (!button || button.title) return;
    button.title = title;
    button.setAttribute("aria-keyshortcuts", keys);
  };
  let fault = null;
  const bringIntoSight = (newest) => {
    if (newest && newest !== fault) newest.scrollIntoView({ block: "nearest" });
    fault = newest;
  };
  new MutationObserver(() => { // this runs before Gradio has drawn anything, which it also does again
    label("start", "Control+Enter", "Ctrl+Enter");
    label("end", "Escape", "Esc");
    tell();
    bringIntoSight(document.querySelector("#message [role=alert]"));
  }).observe(document.body, { childList: true, subtree: true });

  new PerformanceObserver((requests) => { // a session that is over: polls get 401, and the page asks who is there
    if (requests.getEntries().some((request) => request.responseStatus === 401)) location.reload();
  }).observe({ type: "resource" });
}
