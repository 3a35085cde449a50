/* The filters of the history: every change asks for what is wanted now; typing waits for a pause. */
const form = element.querySelector("form");
const ask = () => {
  const { words, since, until, variant, state, rating, starred, deleted } = form.elements;
  trigger("ask", {
    action: "search", words: words.value, since: since.value, until: until.value, variant: variant.value,
    state: state.value, rating: Number(rating.value), starred: starred.checked, deleted: deleted.checked,
  });
};
let pause = null;
form.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(pause); ask(); });
form.addEventListener("input", ({ target }) => {
  clearTimeout(pause);
  pause = setTimeout(ask, target.name === "words" ? 250 : 0);
});
