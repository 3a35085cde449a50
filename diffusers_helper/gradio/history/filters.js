/* The filters of the history: every change tells the grid what is wanted now; typing waits for a pause. */
const form = element.querySelector("form");
const tell = () => {
  const { words, since, until, variant, state, rating, starred, deleted } = form.elements;
  document.dispatchEvent(new CustomEvent("fp-history", { detail: {
    words: words.value, since: since.value, until: until.value, variant: variant.value,
    state: state.value, rating: Number(rating.value), starred: starred.checked, deleted: deleted.checked, page: 1,
  } }));
};
const unfold = form.querySelector(".fph-unfold"); // on a phone
unfold.addEventListener("click", () => { unfold.ariaExpanded = form.toggleAttribute("data-open"); });
let pause = null;
form.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(pause); tell(); });
form.addEventListener("input", ({ target }) => {
  clearTimeout(pause);
  pause = setTimeout(tell, target.name === "words" ? 250 : 0);
});
