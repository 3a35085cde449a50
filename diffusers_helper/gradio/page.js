/* What the page does in the browser beside Gradio: its language, its keys, what a screen reader is told, bars that go on
   between two polls, a question before a long video, any file for the server to judge, and a grey result while the
   server does not answer. */
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

  // Gradio refuses files by their names, in English. What is in a file decides, on the server, whatever it is called.
  const pictures = (files) => [...files].every((file) => file.type.startsWith("image/"));
  const asPictures = (files) => {
    const taken = new DataTransfer();
    for (const file of files) taken.items.add(new File([file], file.name, { type: "image/*" }));
    return taken;
  };
  document.addEventListener("change", ({ target }) => {
    if (target.type === "file" && !pictures(target.files)) target.files = asPictures(target.files).files;
  }, true);
  document.addEventListener("drop", (event) => {
    const { files = [], items = [] } = event.dataTransfer ?? {};
    if (pictures(files) || [...items].some((item) => item.webkitGetAsEntry()?.isDirectory)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const again = { bubbles: true, cancelable: true, dataTransfer: asPictures(files) };
    event.target.dispatchEvent(new DragEvent("drop", again));
  }, true);
  const shown = ({ type, target }) => { // the browser's sign for a broken picture says less than the sentence below
    if (target.closest?.(":is(#photo, #end-photo) img")) target.style.visibility = type === "error" ? "hidden" : "";
  };
  document.addEventListener("load", shown, true);
  document.addEventListener("error", shown, true);

  // The cards of LoRA files: their sliders and buttons write into texts, as if somebody had typed there.
  const write = (box, text) => {
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };
  document.addEventListener("input", ({ target }) => {
    const card = target.closest?.("[data-lora]");
    if (!card || target.value === "") return;
    card.dataset.weight = target.value;
    for (const input of card.querySelectorAll("input")) if (input !== target) input.value = target.value;
    const chosen = [...document.querySelectorAll("[data-lora]")].map(({ dataset }) => `${dataset.lora}=${dataset.weight}`);
    write(document.querySelector("#lora-text textarea"), chosen.join("; "));
  });
  document.addEventListener("click", ({ target }) => {
    if (!target.dataset?.words) return;
    const prompt = document.querySelector("#prompt textarea");
    const missing = target.dataset.words.split(", ").filter((word) => !prompt.value.includes(word));
    if (missing.length) write(prompt, [...missing, prompt.value].filter(Boolean).join(", "));
  });

  const filled = (sentence, values) => sentence.replace(/{(\w+)}/g, (_, name) => values[name]);
  const duration = (time) => { // as view.duration
    const whole = Math.max(1, Math.round(time));
    if (whole < 60) return filled(page.seconds, { seconds: whole });
    const minutes = Math.floor(whole / 60), rest = whole % 60;
    if (minutes >= 60) return filled(page.hours, { hours: Math.floor(minutes / 60), minutes: minutes % 60 });
    return filled(rest && minutes < 10 ? page.minutesAndSeconds : page.minutes, { minutes, seconds: rest });
  };

  document.addEventListener("click", (event) => { // before Gradio hears of it
    const time = document.querySelector("#estimate [data-seconds]")?.dataset.seconds;
    if (!event.target.closest?.("#start") || !(time > page.longFrom)) return;
    if (!confirm(filled(page.long, { time: duration(time) }))) event.stopImmediatePropagation();
  }, true);

  const drawn = new WeakMap(); // when each bar was first seen
  const advance = (bar) => {
    if (!drawn.has(bar)) drawn.set(bar, Date.now());
    const { from, to, seconds, left } = bar.dataset;
    const passed = Math.min((Date.now() - drawn.get(bar)) / 1000, seconds);
    const percent = Math.min(Math.floor(seconds > 0 ? +from + (to - from) * passed / seconds : from), 99);
    const track = bar.querySelector("[role=progressbar]");
    track.setAttribute("aria-valuenow", percent);
    track.firstElementChild.style.width = `${percent}%`;
    bar.querySelector(".fp-progress-number").textContent = `${percent}\u2009%`;
    if (left === undefined) return;
    const last = Math.abs(left - seconds) < 0.01; // nothing comes after what is being done
    const text = last && left - passed < 1 ? page.nearly : filled(page.left, { time: duration(left - passed) });
    track.setAttribute("aria-label", text);
    bar.querySelector(".fp-progress-text").textContent = text;
  };
  let heard = null; // when the server answered last
  const listen = () => { heard = Date.now(); };
  document.addEventListener("fp-heard", listen);
  document.addEventListener("visibilitychange", () => { if (heard) listen(); }); // a hidden page hardly polls
  document.body.style.setProperty("--fp-away", JSON.stringify(page.away));
  setInterval(() => {
    const away = heard !== null && Date.now() - heard > page.patience;
    document.body.classList.toggle("fp-away", away);
    if (away) voice.textContent = page.away;
    else document.querySelectorAll(".fp-progress[data-seconds]").forEach(advance);
  }, 500);

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
