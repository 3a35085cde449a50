/* The timeline: what is typed, moved or dropped becomes a new value at once, and the server answers with what follows
   from it. An answer to an older change leaves a newer one as it is. Texts of people are written here and not in the
   template, which would run what looks like code in them. */
const SAY = 500; // ms after the last key
const STARTS = "#start, #more-memory, #smaller, #many-add, #queue-save, #queue-all, #make-picture, #video-start";
let asked = 0, mine = null, typing = null, timer = 0, dragged = null, target = null, held = null;
const all = (selector) => [...element.querySelectorAll(selector)];
const cell = (number) => element.querySelector(`[data-number="${number}"]`);
const of = (node) => node?.closest?.("[data-number]");
const number = (node) => Number(of(node).dataset.number);
const copy = (value) => JSON.parse(JSON.stringify(value));
const answered = () => props.value.answered >= asked;

const typed = () => { // the value with what stands in the fields
  const value = copy(props.value);
  value.cells.forEach((one, at) => {
    const place = cell(at);
    if (!place) return;
    one.text = place.querySelector("textarea").value;
    place.querySelectorAll(".fpt-loras input").forEach((input, lora) => {
      if (one.loras[lora] && input.value !== "") one.loras[lora].weight = Number(input.value);
    });
  });
  return value;
};
const tell = (value) => {
  asked += 1;
  Object.assign(value, { turn: asked, fault: "" });
  mine = value;
  props.value = copy(value);
  queueMicrotask(draw);
  trigger("edit");
};
const content = ({ cells }) => JSON.stringify(cells.map(({ text, picture, loras }) => [text.trim(), picture, loras]));
const commit = () => {
  clearTimeout(timer);
  const value = typed();
  if (!props.value.broken && content(value) !== content(props.value)) tell(value);
};

const picture = (place, url, label, removable) => {
  const image = place.querySelector("img"), choose = place.querySelector("[data-action=choose]");
  if (image.getAttribute("src") !== url) url ? image.setAttribute("src", url) : image.removeAttribute("src");
  image.hidden = !url;
  choose.textContent = label;
  const bare = place.querySelector("[data-action=bare]");
  if (bare) bare.hidden = !(url && removable);
};
const weights = (place, loras) => {
  const box = place.querySelector(".fpt-loras");
  if (box.childElementCount !== loras.length) {
    box.replaceChildren(...loras.map(() => {
      const label = document.createElement("label"), input = document.createElement("input");
      Object.assign(input, { type: "number", min: -10, max: 10, step: 0.05 });
      label.append(document.createElement("span"), input);
      return label;
    }));
  }
  loras.forEach(({ name, weight }, at) => {
    const [text, input] = box.children[at].children;
    text.textContent = name;
    if (input !== document.activeElement) input.value = weight;
  });
};
const draw = () => {
  const { cells, photo, end, redo, fault, notes, broken, told } = props.value, { labels } = props;
  cells.forEach((one, at) => {
    const place = cell(at);
    if (!place) return;
    const words = place.querySelector("textarea");
    if (typing !== at) words.value = one.text;
    words.placeholder = one.follows || labels.nothing;
    place.querySelector(".fpt-share").textContent = one.share;
    picture(place, at ? one.url : photo, at ? labels.choose : labels.photo, at > 0);
    place.querySelector("[data-action=left]").disabled = at === 0;
    place.querySelector("[data-action=right]").disabled = at === cells.length - 1;
    place.querySelector("[data-action=redo]").hidden = !(at > 0 && at < redo);
    weights(place, one.loras);
  });
  if (cell("end")) picture(cell("end"), end, labels.end_photo, false);
  element.querySelector("fieldset").disabled = broken;
  const told_fault = element.querySelector(".fp-fault");
  if (told_fault.textContent !== fault) told_fault.textContent = fault;
  element.querySelector(".fpt-notes").replaceChildren(...notes.map((note) => {
    const item = document.createElement("li");
    item.textContent = note;
    return item;
  }));
  const short = document.getElementById("timeline-told");
  if (short && short.textContent !== told) short.textContent = told;
};

const exchange = (from, to) => {
  const value = typed(), one = value.cells[from], other = value.cells[to];
  if (!one || !other || from === to) return;
  for (const name of from && to ? ["text", "picture", "url", "loras"] : ["text", "loras"]) {
    [one[name], other[name]] = [other[name], one[name]];
  }
  typing = null;
  tell(value);
};
const move = (from, to, action) => {
  exchange(from, to);
  queueMicrotask(() => { // a button at the edge is none any more
    const place = cell(to), button = action && place?.querySelector(`[data-action=${action}]:not(:disabled)`);
    (button || place?.querySelector("textarea"))?.focus();
  });
};
const put = async (at, file) => {
  try {
    const { path } = await upload(file), value = typed(), chosen = { path, name: file.name };
    if (at === "end" || at === "0") value.put = { ...chosen, place: at === "end" ? "end" : "photo" };
    else if (value.cells[at]) Object.assign(value.cells[at], { picture: chosen, url: "" });
    tell(value);
  } catch {
    props.value = { ...copy(props.value), fault: props.labels.lost };
    queueMicrotask(draw);
  }
};

element.addEventListener("input", ({ target: field }) => {
  if (!of(field)) return;
  if (field.tagName === "TEXTAREA") typing = number(field);
  clearTimeout(timer);
  timer = setTimeout(commit, SAY);
});
element.addEventListener("focusout", ({ target: field }) => {
  if (!of(field) || !field.matches("textarea, input")) return;
  commit();
  typing = null;
});
element.addEventListener("click", ({ target: pressed }) => {
  const button = pressed.closest("[data-action]"), { action } = button?.dataset ?? {};
  if (!of(button)) return;
  const at = number(button);
  if (action === "left" || action === "right") move(at, at + (action === "left" ? -1 : 1), action);
  else if (action === "bare") {
    const value = typed();
    Object.assign(value.cells[at], { picture: null, url: "" });
    tell(value);
    button.parentElement.querySelector("[data-action=choose]").focus();
  } else if (action === "choose") {
    target = of(button).dataset.number;
    element.querySelector("[type=file]").click();
  } else if (action === "redo" && confirm(props.labels.sure.replace("{time}", props.value.cells[at].from))) {
    const again = () => {
      props.value = { ...copy(props.value), redo_from: at };
      trigger("redo");
    };
    commit();
    answered() ? again() : held = again;
  }
});
element.addEventListener("change", ({ target: field }) => {
  if (field.type !== "file" || !field.files.length) return;
  put(target, field.files[0]);
  field.value = "";
});
element.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || !event.altKey || !of(event.target) || of(event.target).dataset.number === "end") return;
  event.preventDefault();
  const at = number(event.target), to = at + step;
  if (props.value.cells[to]) move(at, to, event.target.dataset.action);
});

element.addEventListener("dragstart", (event) => {
  const head = event.target.closest?.(".fpt-head");
  dragged = head ? number(head) : null;
  if (!head) return;
  event.dataTransfer.effectAllowed = "move";
  event.dataTransfer.setData("text/plain", "");
});
element.addEventListener("dragover", (event) => {
  const over = of(event.target), files = event.dataTransfer?.types.includes("Files");
  if (!over || !(files || (dragged !== null && over.dataset.number !== "end"))) return;
  event.preventDefault();
  all(".fpt-cell").forEach((one) => one.classList.toggle("fp-over", one === over));
});
const dropped = (event) => {
  const over = of(event.target), from = dragged, file = event.dataTransfer?.files?.[0];
  dragged = null;
  all(".fpt-cell").forEach((one) => one.classList.remove("fp-over"));
  if (event.type !== "drop" || !over) return;
  event.preventDefault();
  event.stopPropagation();
  if (file) put(over.dataset.number, file);
  else if (from !== null && over.dataset.number !== "end") exchange(from, number(over));
};
element.addEventListener("drop", dropped);
element.addEventListener("dragend", dropped);

const settle = () => { // what was pressed meanwhile happens now, unless something is wrong
  const next = held;
  held = null;
  if (next && !props.value.fault) setTimeout(next);
  else if (next) queueMicrotask(() => element.querySelector(".fp-fault").scrollIntoView({ block: "nearest" }));
};
const first = (event) => { // a video begins with what was typed last, which the form learns in a moment
  if (!element.isConnected) return document.removeEventListener("click", first, true);
  const button = event.target.closest?.(STARTS);
  if (!button) return;
  commit();
  if (answered()) return;
  event.stopImmediatePropagation();
  const next = held = () => button.click();
  setTimeout(() => { if (held === next) held = null; }, 10000); // the server does not answer, and says so elsewhere
};
document.addEventListener("click", first, true);

watch("value", () => {
  const { value } = props;
  if (value.turn < asked) props.value = { ...copy(mine), of: value.of, prompt: value.prompt, answered: value.answered };
  else if (answered()) settle();
  queueMicrotask(draw);
});
draw();
