/* What a press is about: Gradio writes other rows into the same elements, so it is what was there as the press began. */
const onPress = (about, act) => { // `about` tells what a button is for, `act` does that; keys have no beginning
  const over = ({ target }) => target.closest("[data-action]");
  let begun = null;
  element.addEventListener("pointerdown", (event) => {
    const button = over(event);
    begun = button && { button, what: about(button) };
  });
  element.addEventListener("click", (event) => {
    const button = over(event), same = event.detail > 0 && begun?.button === button;
    if (button && !button.disabled) act(same ? begun.what : about(button), button);
  });
};
