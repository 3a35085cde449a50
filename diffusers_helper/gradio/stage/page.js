/* The stage: bars that go on between two polls, progress in the title, what a screen reader is told, and a grey result
   while the server does not answer. */
(page) => {
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
    const text = last && left - passed < 1 ? page.nearly : page.filled(page.left, { time: page.duration(left - passed) });
    bar.querySelector(".fp-progress-left").textContent = text;
    track.setAttribute("aria-label", `${bar.querySelector(".fp-progress-text").textContent}, ${text}`);
  };

  // Each click has a word of its own, by which it starts one video; the second one of a double click has that of the first.
  let pressed = 0;
  document.addEventListener("click", ({ target, detail }) => {
    if (!target.closest?.("#start, #more-memory, #smaller")) return;
    const again = detail > 1 || (detail === 0 && Date.now() - pressed < 300); // keys that are held down
    if (!again) document.body.dataset.click = `${Date.now()}-${Math.random()}`;
    pressed = Date.now();
  }, true);

  const voice = document.body.appendChild(document.createElement("div"));
  voice.className = "fp-voice";
  voice.setAttribute("role", "status");
  const words = (text) => text.replace(/[\d.,]+/g, "");
  const tell = () => {
    // The status is drawn anew with every step; only another sentence, not another number in it, is worth saying.
    const status = document.querySelector("#progress .fp-status:not([role])")?.textContent ?? "";
    if (words(status) !== words(voice.textContent)) voice.textContent = status;
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


  const { title } = document;
  const name = () => {
    const told = document.querySelector("#progress [data-title]")?.dataset.title;
    const wanted = told ? `${told} · ${title}` : title;
    if (document.title !== wanted) document.title = wanted;
  };
  new MutationObserver(() => { // this runs before Gradio has drawn anything, which it also does again
    tell();
    name();
  }).observe(document.body, { childList: true, subtree: true });

  // A growing video goes on where it was: what is there already moves on by what came before it.
  let last = null; // the video as it was before the newest section
  const series = (source) => source.replace(/(_partial_\d+)?\.mp4.*$/, "");
  const isStage = (video) => video instanceof HTMLVideoElement && video.closest("#video");
  document.addEventListener("timeupdate", ({ target: video }) => {
    if (!isStage(video) || !video.duration || video.seeking) return;
    last = { source: video.currentSrc, time: video.currentTime, duration: video.duration, paused: video.paused };
  }, true);
  document.addEventListener("loadedmetadata", ({ target: video }) => {
    if (!isStage(video)) return;
    stays = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const { style } = document.getElementById("video");
    style.setProperty("--fp-most-width", `${3 * video.videoWidth}px`); // larger than that, small ones look worse
    style.setProperty("--fp-ratio", `${video.videoWidth} / ${video.videoHeight}`);
    const before = last;
    if (!before || before.source === video.currentSrc || series(before.source) !== series(video.currentSrc)) return;
    const front = document.querySelector("#progress [data-front]") || wasFront;
    const moved = front ? video.duration - before.duration : 0;
    video.currentTime = Math.max(0, Math.min(before.time + moved, video.duration - 0.05));
    stays ||= before.paused;
  }, true);
  let stays = false; // Gradio plays each new file by itself, sooner or later; what a person plays is played
  const touched = ({ target, altKey, code }) => {
    if (target.closest?.("#video") || (altKey && code === "KeyV")) stays = false;
  };
  document.addEventListener("pointerdown", touched, true);
  document.addEventListener("keydown", touched, true);
  document.addEventListener("play", ({ target: video }) => {
    if (!isStage(video)) return;
    if (stays) video.pause();
    stays = false;
  }, true);
  let wasFront = false;
  setInterval(() => {
    if (document.querySelector("#progress [data-title]")) wasFront = !!document.querySelector("#progress [data-front]");
  }, 250);
}
