/* What the page does in the browser beside Gradio; this runs before each region's own page.js. Here: its language, its
   keys, and a message that comes into sight. */
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
    } else if (event.key === "Escape" && !document.querySelector("dialog[open]") && event.target.getAttribute?.("aria-expanded") !== "true") {
      if (usable("end") && confirm(page.ask)) usable("end")?.click();
    }
  });

  page.filled = (sentence, values) => sentence.replace(/{(\w+)}/g, (_, name) => values[name]);
  page.duration = (time) => { // as view.duration
    const whole = Math.max(1, Math.round(time));
    if (whole < 60) return page.filled(page.seconds, { seconds: whole });
    const minutes = Math.floor(whole / 60), rest = whole % 60;
    if (minutes >= 60) return page.filled(page.hours, { hours: Math.floor(minutes / 60), minutes: minutes % 60 });
    return page.filled(rest && minutes < 10 ? page.minutesAndSeconds : page.minutes, { minutes, seconds: rest });
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
    bringIntoSight(document.querySelector("#message [role=alert]"));
  }).observe(document.body, { childList: true, subtree: true });

  new PerformanceObserver((requests) => { // a session that is over: polls get 401, and the page asks who is there
    if (requests.getEntries().some((request) => request.responseStatus === 401)) location.reload();
  }).observe({ type: "resource" });
}
