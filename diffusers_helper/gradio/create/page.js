/* The form: any file for the server to judge, cards of LoRA files, and a question before a long video. */
(page) => {
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

  document.addEventListener("click", (event) => { // before Gradio hears of it
    const time = document.querySelector("#estimate [data-seconds]")?.dataset.seconds;
    if (!event.target.closest?.("#start") || !(time > page.longFrom)) return;
    if (!confirm(page.filled(page.long, { time: page.duration(time) }))) event.stopImmediatePropagation();
  }, true);
}
