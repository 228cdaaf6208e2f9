// Makes elements out of values; text is only ever text.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

export function svg(tag, properties = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

export function set(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

// Makes the children of a list those that the items ask for, and leaves alone what has not changed: an element is made
// again only when the item's face, a text, is another. Returns how many are new.
export function reconcile(list, items, { key, face, make }) {
  const had = new Map();
  for (const child of list.children) if (child.dataset.key) had.set(child.dataset.key, child);
  let place = [...list.children].find((child) => child.dataset.key) ?? null;
  let made = 0;
  for (const item of items) {
    const name = key(item);
    const looks = face(item);
    let element = had.get(name);
    if (!element || element.dataset.face !== looks) {
      const before = element;
      element = make(item);
      element.dataset.key = name;
      element.dataset.face = looks;
      if (before) {
        const focused = before.contains(document.activeElement) ? document.activeElement.dataset.focus ?? "" : null;
        before.replaceWith(element);
        if (place === before) place = element;
        if (focused !== null) {
          const target = focused ? element.querySelector(`[data-focus="${focused}"]`) : element.querySelector("button");
          target?.focus({ preventScroll: true });
        }
      } else made += 1;
    }
    had.delete(name);
    if (element === place) place = place.nextElementSibling;
    else list.insertBefore(element, place);
  }
  for (const child of had.values()) child.remove();
  return made;
}

export const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });

export function hue(text) {
  let sum = 0;
  for (const letter of text) sum = (sum * 31 + letter.charCodeAt(0)) >>> 0;
  return sum % 8;
}
