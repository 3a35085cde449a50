/* Tells that a video has ended, by a notification or a sound, where the switches in "Settings" say so. */
(page) => {
  const key = (what) => `framepack-tell-${what}`;
  const wanted = (what) => localStorage.getItem(key(what)) === "yes";
  const switches = () => document.querySelectorAll("#telling [data-tell]");
  const fault = (reason) => {
    const place = document.querySelector("#telling [role=status]");
    if (place) place.textContent = reason ? place.dataset[reason] : "";
  };
  const refusal = () => (!("Notification" in window) ? "none" : Notification.permission !== "granted" ? "refused" : "");

  let sounds = null;
  const sound = () => {
    sounds ??= new AudioContext();
    sounds.resume();
    [660, 880].forEach((pitch, index) => {
      const tone = sounds.createOscillator(), volume = sounds.createGain(), at = sounds.currentTime + index * 0.18;
      tone.frequency.value = pitch;
      volume.gain.setValueAtTime(0.12, at);
      volume.gain.exponentialRampToValueAtTime(0.001, at + 0.3);
      tone.connect(volume).connect(sounds.destination);
      tone.start(at);
      tone.stop(at + 0.3);
    });
  };
  const notify = (id, text) => {
    if (refusal() || document.hasFocus()) return;
    const shown = new Notification("FramePack", { body: text, tag: id });
    shown.onclick = () => { focus(); shown.close(); };
  };

  const show = () => {
    for (const box of switches()) {
      const on = wanted(box.dataset.tell) && !(box.dataset.tell === "notification" && refusal());
      if (box.checked !== on) box.checked = on;
    }
  };
  document.addEventListener("change", async ({ target }) => { // a browser asks only after a click
    const what = target.dataset?.tell;
    if (!what) return;
    const on = target.checked;
    if (on && what === "notification" && "Notification" in window) await Notification.requestPermission();
    if (on && what === "sound") sound();
    localStorage.setItem(key(what), on ? "yes" : "no");
    fault(on && what === "notification" ? refusal() : "");
    show();
  });

  let known = null; // the newest one that had ended; what had before this tab was opened is no news
  const ended = () => document.querySelector("#progress [data-ended]");
  document.addEventListener("fp-heard", () => { known ??= ended()?.dataset.ended ?? ""; });
  new MutationObserver(() => {
    show();
    const mark = ended(), id = mark?.dataset.ended;
    if (known === null || !id || id === known) return;
    known = id;
    document.dispatchEvent(new Event("fp-ended")); // the history shows it, too
    if (localStorage.getItem("framepack-told") === id) return; // another tab was first
    localStorage.setItem("framepack-told", id);
    if (wanted("sound")) sound();
    if (wanted("notification")) notify(id, mark.dataset.text);
  }).observe(document.body, { childList: true, subtree: true });
}
