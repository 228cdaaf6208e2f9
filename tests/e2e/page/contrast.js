// Returns the contrast (WCAG 2.2, 1.4.3) of each piece of text that is seen, lowest first.
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (colour, over) => {
    canvas.fillStyle = over; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return `rgb(${[...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)})`;
  };
  const light = (colour) => {
    const [r, g, b] = colour.match(/\d+/g).map((each) => each / 255)
      .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest(".hidden, .skip, noscript, option")) continue;
    const grounds = [];
    for (let each = element; each; each = each.parentElement) grounds.unshift(getComputedStyle(each).backgroundColor);
    const ground = grounds.reduce((over, colour) => paint(colour, over), "rgb(255, 255, 255)");
    const [a, b] = [light(ground), light(paint(getComputedStyle(element).color, ground))].sort((x, y) => y - x);
    const said = walker.currentNode.textContent.trim().slice(0, 40);
    found.push([Math.round(((a + 0.05) / (b + 0.05)) * 100) / 100, said, element.className]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}
