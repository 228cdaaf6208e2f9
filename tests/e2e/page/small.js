// Returns what can be tapped and is lower than 32 pixels.
() => [...document.querySelectorAll(".top button, .bar button, .bar select, .chip, .tabs a")]
  .filter((each) => each.checkVisibility() && each.getBoundingClientRect().height < 32)
  .map((each) => each.innerText)
