/* The form: any file for the server to judge, cards of LoRA files, and a question before a long video. */
(page) => {
  // Gradio refuses files by their names, in English. What is in a file decides, on the server, whatever it is called.
  const pictures = (files) => [...files].every((file) => file.type.startsWith("image/"));
  const asPictures = (files) => {
    const taken = new DataTransfer();
    for (const file of files) taken.items.add(new File([file], file.name, { type: "image/*" }));
    return taken;
  };
  // Several files, and those that may hold settings, are no photo yet: the server tells what they are.
  const mayHoldSettings = ({ name, type }) => type === "video/mp4" || type === "application/json" || /\.(mp4|json)$/i.test(name);
  const noPhoto = (files) => files.length > 1 || [...files].some(mayHoldSettings);
  const give = (files) => {
    page.see?.("create");
    const input = document.querySelector("#dropped-files input[type=file]");
    input.files = asPictures(files).files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  document.addEventListener("change", (event) => {
    const { target } = event;
    if (target.type !== "file") return;
    if (target.closest("#photo") && noPhoto(target.files)) {
      event.stopImmediatePropagation();
      give(target.files);
      target.value = "";
    } else if (!pictures(target.files)) target.files = asPictures(target.files).files;
  }, true);
  document.addEventListener("dragover", (event) => {
    if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    const { files = [], items = [] } = event.dataTransfer ?? {};
    if (!files.length) return;
    const field = event.target.closest?.("#photo, #end-photo, #given-video, #timeline [data-number]");
    if ([...items].some((item) => item.webkitGetAsEntry()?.isDirectory)) return field ? undefined : event.preventDefault();
    const elsewhere = !field || (field.id === "photo" && noPhoto(files));
    if (!elsewhere && pictures(files)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (elsewhere) return give(files);
    const again = { bubbles: true, cancelable: true, dataTransfer: asPictures(files) };
    event.target.dispatchEvent(new DragEvent("drop", again));
  }, true);
  new MutationObserver(() => {
    const input = document.querySelector("#photo input[type=file]:not([multiple])");
    if (!input) return;
    input.multiple = true;
    input.accept = "image/*,video/mp4,.mp4,.json";
  }).observe(document.body, { childList: true, subtree: true });
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

  document.addEventListener("click", (event) => { // before Gradio hears of it
    const time = document.querySelector("#estimate [data-seconds]")?.dataset.seconds;
    if (!event.target.closest?.("#start") || !(time > page.longFrom)) return;
    if (!confirm(page.filled(page.long, { time: page.duration(time) }))) event.stopImmediatePropagation();
  }, true);

  // A frame over the photo tells what of it is in the video; dragged or moved by arrows it says what stays in sight.
  const frame = document.createElement("div");
  frame.className = "fp-crop";
  frame.tabIndex = 0;
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", page.crop);
  let crop = null, told = "", saying = 0, old = null; // while the server says what is `old`, it was moved here since
  const place = () => {
    const image = document.querySelector("#photo img");
    told = document.querySelector("#size-hint [data-crop]")?.dataset.crop ?? "";
    const box = image?.parentElement;
    if (!told || !box) {
      setTimeout(() => { if (!document.querySelector("#size-hint [data-crop]")) frame.remove(); }, 300); // not drawn yet
      return;
    }
    if (!frame.dragged && !saying && told !== old) [crop, old] = [told.split(",").map(Number), null];
    if (frame.parentElement !== box) box.append(frame);
    const { naturalWidth: width, naturalHeight: height, clientWidth, clientHeight } = image;
    if (!width || !clientWidth) return;
    const scale = Math.min(clientWidth / width, clientHeight / height); // the picture inside its element
    const [shownWidth, shownHeight] = [width * scale, height * scale];
    const left = image.offsetLeft + (clientWidth - shownWidth) / 2, top = image.offsetTop + (clientHeight - shownHeight) / 2;
    Object.assign(frame.style, {
      left: `${left + (1 - crop[0]) * crop[2] * shownWidth}px`, width: `${crop[0] * shownWidth}px`,
      top: `${top + (1 - crop[1]) * crop[3] * shownHeight}px`, height: `${crop[1] * shownHeight}px`,
    });
    frame.scale = [shownWidth, shownHeight];
  };
  const move = (x, y) => {
    const clamp = (share) => Math.min(Math.max(share, 0), 1);
    old ??= told;
    if (crop[0] < 0.999) crop[2] = clamp(x);
    if (crop[1] < 0.999) crop[3] = clamp(y);
    place();
  };
  const say = () => {
    clearTimeout(saying);
    saying = setTimeout(tellServer, 200);
  };
  const tellServer = () => {
    [saying, old] = [0, told];
    const detail = `${+crop[2].toFixed(3)},${+crop[3].toFixed(3)}`;
    document.dispatchEvent(new CustomEvent("fp-framed", { detail }));
  };
  frame.addEventListener("pointerdown", (event) => {
    frame.setPointerCapture(event.pointerId);
    frame.dragged = [event.clientX, event.clientY, crop[2], crop[3]];
    event.preventDefault();
  });
  frame.addEventListener("pointermove", (event) => {
    if (!frame.dragged) return;
    const [x, y, across, down] = frame.dragged, [width, height] = frame.scale;
    move(across + (event.clientX - x) / ((1 - crop[0]) * width || 1), down + (event.clientY - y) / ((1 - crop[1]) * height || 1));
  });
  frame.addEventListener("pointerup", () => {
    if (frame.dragged) say();
    frame.dragged = null;
  });
  frame.addEventListener("click", (event) => event.stopPropagation());
  frame.addEventListener("keydown", (event) => {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
    if (x === undefined) return;
    event.preventDefault();
    move(crop[2] + x * 0.05, crop[3] + y * 0.05);
    say();
  });
  new MutationObserver(place).observe(document.body, { childList: true, subtree: true });
  document.addEventListener("load", place, true);
  addEventListener("resize", place);
}
