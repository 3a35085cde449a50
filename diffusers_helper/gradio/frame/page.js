/* The frame: menus of language and colours, and on a phone the bar at the bottom, which stands for the buttons of the
   form and for the tabs. */
(page) => {
  const { body } = document, system = matchMedia("(prefers-color-scheme: dark)");
  const byId = (id) => document.getElementById(id);

  const colour = () => {
    const chosen = localStorage.getItem("framepack-colours") ?? "system";
    body.classList.toggle("dark", chosen === "dark" || (chosen === "system" && system.matches));
    if (byId("colours")) byId("colours").value = chosen;
  };
  system.addEventListener("change", () => setTimeout(colour)); // after Gradio, which knows the system's alone
  document.addEventListener("change", ({ target }) => {
    if (target.id === "colours") {
      localStorage.setItem("framepack-colours", target.value);
      colour();
    } else if (target.id === "language") {
      document.cookie = `framepack_language=${target.value}; path=/; max-age=31536000; samesite=lax`;
      location.reload();
    }
  });

  const tab = (number) => document.querySelectorAll("#tabs > .tab-wrapper [role=tab]")[number];
  const see = page.see = (name) => {
    tab({ history: 1, settings: 2 }[name] ?? 0)?.click();
    body.dataset.see = name;
    mirror();
    scrollTo(0, 0);
  };
  const showKeys = () => {
    byId("keys")?.showModal();
    byId("keys")?.scrollTo(0, 0); // the button at its end has the focus
  };
  document.addEventListener("click", ({ target, detail }) => {
    const { see: place, press } = target.closest?.(".fp-bar button")?.dataset ?? {};
    if (place) see(place);
    if (press && detail < 2) byId(press)?.click();
    if (target.closest?.("#settings-open")) see("settings");
    if (target.closest?.("#keys-open")) showKeys();
    const badge = document.querySelector(".fp-badge[open]");
    if (badge && !badge.contains(target)) badge.open = false;
  });
  body.dataset.see = "create";

  const typing = (element) => element.closest?.("input:not([type=range], [type=checkbox], [type=radio]), textarea, select, [contenteditable]");
  const focusOn = (place, selector) => {
    see(place);
    setTimeout(() => document.querySelector(selector)?.focus());
  };
  const keys = {
    Digit1: () => see("create"),
    Digit2: () => see("history"),
    Digit3: () => see("settings"),
    KeyP: () => focusOn("create", "#prompt textarea"),
    KeyO: () => focusOn("create", "#preset input"),
    KeyR: () => {
      const earlier = document.querySelector("#prompt-history details");
      if (earlier) earlier.open = true;
      focusOn("create", earlier?.querySelector("input:not([hidden])") ? "#prompt-history input" : "#prompt-history summary");
    },
    KeyQ: () => focusOn(matchMedia("(max-width: 760px)").matches ? "queue" : "create", "#queue :is(button, [tabindex])"),
    KeyV: () => {
      const video = document.querySelector("#video video");
      if (video) video.paused ? video.play() : video.pause();
    },
  };
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.repeat || event.ctrlKey || event.metaKey) return;
    if (event.key === "?" && !typing(event.target)) showKeys();
    else if (event.altKey && keys[event.code]) keys[event.code]();
    else return;
    event.preventDefault();
  });

  const mirror = () => {
    const line = document.querySelector(".fp-bar-line");
    if (!line) return;
    for (const button of line.querySelectorAll("[data-press]")) {
      const real = byId(button.dataset.press);
      if (!real) continue;
      if (button.textContent !== real.textContent.trim()) button.textContent = real.textContent.trim();
      button.hidden = real.disabled;
    }
    const told = document.querySelector("#progress [data-title]")?.dataset.title ?? "";
    const place = line.querySelector(".fp-bar-told");
    if (place.textContent !== told) place.textContent = told;
    const shown = tab(1)?.ariaSelected === "true" ? "history" : tab(2)?.ariaSelected === "true" ? "settings" : null;
    const columns = byId("columns");
    if (columns && columns.dataset.see !== body.dataset.see) columns.dataset.see = body.dataset.see;
    if (shown ? body.dataset.see !== shown : ["history", "settings"].includes(body.dataset.see)) {
      body.dataset.see = shown ?? "create";
    }
    for (const button of document.querySelectorAll(".fp-bar [data-see]")) {
      if (button.dataset.see === body.dataset.see) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  };
  new MutationObserver(() => { mirror(); colour(); }).observe(body, {
    childList: true, subtree: true, attributes: true, attributeFilter: ["disabled", "data-title", "aria-selected"],
  });
  colour();
  mirror();
}
