/* The grid of the history: what is pressed goes to the server as one of two events; which card is the current one, and
   which are chosen to be compared, and what is wanted of the history, is kept here through every new drawing. */
const MOST = 4;
const USES = ["open", "extend", "last_frame", "export", "new_take", "full", "use_settings", "resume"];
const chosen = new Map(); // id -> how it is shown
let wanted = { page: 1 }; // as the filters and the page say
let turn = 0, answered = 0; // answers may come in another order than they were asked for
let current = null; // the id of the card that Tab leads to
let held = null; // what has the focus: id, action and what else tells it from others
const all = (selector) => [...element.querySelectorAll(selector)];
const card = (id) => all(".fph-card").find(({ dataset }) => dataset.id === id);
const row = (id) => props.value.videos.find((video) => video.id === id);
const about = (target) => {
  const { action, form, rating, page } = target.dataset;
  const id = target.dataset.id ?? target.closest(".fph-card")?.dataset.id ?? "";
  return { action, id, form: form ?? "", rating: Number(rating ?? 0), page: Number(page ?? 0) };
};

const draw = () => {
  const cards = all(".fph-card");
  if (!card(current)) current = cards[0]?.dataset.id ?? null;
  for (const each of cards) {
    const own = each.dataset.id === current;
    for (const one of each.querySelectorAll("button, summary, a")) one.tabIndex = own ? 0 : -1;
    each.querySelector("[data-action=compare]")?.setAttribute("aria-pressed", chosen.has(each.dataset.id));
  }
  const bar = element.querySelector(".fph-chosen");
  bar.hidden = chosen.size === 0;
  bar.firstElementChild.disabled = chosen.size < 2;
  bar.firstElementChild.textContent = `${props.labels.compare} (${chosen.size})`;
};
const hold = () => {
  draw();
  if (!held || element.contains(document.activeElement)) return;
  const there = card(held.id) ?? all(".fph-card")[Math.min(held.place, all(".fph-card").length - 1)];
  const fits = (one) => about(one).action === held.action && about(one).rating === held.rating;
  (all("[data-action]").find((one) => fits(one) && (!held.id || one.closest(".fph-card") === there))
    ?? there?.querySelector(".fph-open"))?.focus();
};

const shown = () => element.querySelector("dialog");
const films = () => all("dialog video");
const together = () => {
  const box = element.querySelector(".fph-videos");
  box.replaceChildren(...[...chosen.values()].map(({ url, prompt: written, facts }) => {
    const prompt = written.replace(/\\([\\$])/g, "$1"); // escaped for the template
    const figure = document.createElement("figure"), film = document.createElement("video");
    Object.assign(film, { src: url, muted: true, playsInline: true, loop: true, preload: "auto" });
    film.setAttribute("aria-label", prompt);
    film.onloadedmetadata = () => { film.style.maxWidth = `${3 * film.videoWidth}px`; }; // as on the stage
    const text = document.createElement("figcaption"); // what tells them apart first
    text.append(...Object.entries({ strong: facts, span: prompt }).map(([name, said]) => {
      const line = document.createElement(name);
      line.textContent = said;
      return line;
    }));
    figure.append(film, text);
    return figure;
  }));
  shown().showModal();
  play(true);
};
const play = (on) => {
  for (const film of films()) on ? film.play().catch(() => {}) : film.pause();
  const button = element.querySelector("[data-action=play]");
  button.setAttribute("aria-pressed", on);
  button.textContent = on ? props.labels.pause : props.labels.play;
};
const longest = () => films().reduce((a, b) => (b.duration > a.duration ? b : a));
const seek = (time) => { for (const film of films()) film.currentTime = Math.min(time, (film.duration || 0) - 0.001); };
setInterval(() => { // the others follow the longest one; a shorter one waits at its end for the next round
  if (!shown()?.open || !films().length) return;
  const lead = longest();
  for (const film of films()) {
    film.loop = film === lead;
    if (film === lead) continue;
    const wanted = Math.min(lead.currentTime, film.duration || 0);
    if (Math.abs(film.currentTime - wanted) > 0.08) film.currentTime = wanted;
    if (!lead.paused && wanted < film.duration - 0.08) film.play().catch(() => {});
  }
  const range = element.querySelector("dialog input");
  if (document.activeElement !== range) range.value = Math.round(1000 * lead.currentTime / (lead.duration || 1));
}, 100);

const local = { // what needs no server
  compare({ id }) {
    if (chosen.has(id)) chosen.delete(id);
    else if (chosen.size < MOST) chosen.set(id, row(id));
    draw();
  },
  choose_none() { chosen.clear(); draw(); },
  side_by_side: together,
  play() { play(element.querySelector("[data-action=play]").getAttribute("aria-pressed") !== "true"); },
  close() { shown().close(); },
};
const act = (what) => {
  if (local[what.action]) return local[what.action](what);
  if (what.action === "empty" && !confirm(props.labels.sure)) return;
  if (what.action === "star") what.starred = !row(what.id)?.starred;
  if (what.action === "rate" && row(what.id)?.rating === what.rating) what.rating = 0; // the same once more takes it back
  if (what.action === "page") wanted = { ...wanted, page: what.page };
  turn += 1;
  trigger(USES.includes(what.action) ? "use" : "ask", { ...what, wanted, turn });
};
const look = () => act({ action: "search" });
onPress(about, act);
element.addEventListener("focusin", ({ target }) => {
  const place = all(".fph-card").indexOf(target.closest(".fph-card"));
  held = { ...about(target), place: Math.max(place, 0) };
  if (place >= 0 && held.id !== current) { current = held.id; draw(); }
});
element.addEventListener("focusout", ({ relatedTarget }) => { if (relatedTarget) held = null; });
element.addEventListener("keydown", (event) => {
  if (shown().open && event.key === "Escape") event.stopPropagation(); // it closes this, and ends no video
  const cards = all(".fph-card"), place = cards.indexOf(event.target.closest(".fph-card"));
  if (place < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  const columns = cards.filter((each) => each.offsetTop === cards[0].offsetTop).length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const id = cards[place].dataset.id;
  if (step) cards[Math.max(0, Math.min(place + step, cards.length - 1))].querySelector(".fph-open").focus();
  else if (event.key === "Home") cards[0].querySelector(".fph-open").focus();
  else if (event.key === "End") cards.at(-1).querySelector(".fph-open").focus();
  else if (event.key === "s") act({ action: "star", id });
  else if (event.key === "c" && row(id).url) act({ action: "compare", id });
  else if (event.key === "Delete" && !row(id).deleted) act({ action: "delete", id });
  else if (/^[0-5]$/.test(event.key)) act({ action: "rate", id, rating: Number(event.key) });
  else return;
  event.preventDefault();
});
element.addEventListener("input", ({ target }) => {
  if (target.type === "range" && films().length) { play(false); seek(longest().duration * target.value / 1000); }
});
element.addEventListener("close", () => play(false), true); // it does not bubble
const refresh = ({ detail }) => { // of the filters, or of whatever else may have changed the history
  if (!element.isConnected) return document.removeEventListener("fp-history", refresh);
  if (detail) wanted = detail;
  look();
};
document.addEventListener("fp-history", refresh);
let news = false; // a video has ended: its card comes first, but moves none that the pointer is on
const renew = () => {
  if (!news || element.matches(":hover") || shown()?.open) return;
  news = false;
  look();
};
const ended = () => {
  if (!element.isConnected) return document.removeEventListener("fp-ended", ended);
  news = true;
  renew();
};
document.addEventListener("fp-ended", ended);
element.addEventListener("pointerleave", renew);
element.addEventListener("close", renew, true);
watch("value", () => {
  const late = props.value.turn < answered;
  answered = Math.max(answered, props.value.turn);
  if (late) return look(); // what was answered last was asked for before
  if (props.value.building) setTimeout(() => { if (element.isConnected) look(); }, 1000); // more are still being read
  if (props.value.turn === turn) wanted = { ...wanted, page: props.value.page };
  hold();
  if (props.value.save) {
    const link = document.createElement("a");
    Object.assign(link, { href: props.value.save.url, download: props.value.save.name });
    link.click();
  }
});
draw();
look();
