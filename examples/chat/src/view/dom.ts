// Building and updating elements. Text only ever becomes a text node, never markup.

type Child = Node | string | undefined | false;

interface Properties {
  class?: string;
  testId?: string;
  on?: { [Type in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[Type]) => void };
  [attribute: string]: unknown;
}

export function element<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  { class: className, testId, on = {}, ...attributes }: Properties = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (testId) node.dataset.testid = testId;
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, '');
    else if (value !== false && value !== undefined) node.setAttribute(name, String(value));
  }
  for (const [type, listener] of Object.entries(on)) node.addEventListener(type, listener as EventListener);
  node.append(...children.filter(child => child !== undefined && child !== false));
  return node;
}

/** What each element of a list was drawn from. */
const drawnFrom = new WeakMap<Element, string>();

/**
 * Makes `parent` show exactly `looks`, each drawn from nothing but itself. What looks as before keeps its
 * element, and so focus, selection and scroll position.
 */
export function showList<Look extends object>(parent: Element, looks: Look[], draw: (look: Look) => HTMLElement): void {
  const before = new Map([...parent.children].map(child => [drawnFrom.get(child), child]));
  const after = looks.map(look => {
    const text = JSON.stringify(look);
    const kept = before.get(text);
    before.delete(text);
    if (kept) return kept;
    const drawn = draw(look);
    drawnFrom.set(drawn, text);
    return drawn;
  });
  for (const child of before.values()) child.remove();
  after.forEach((child, i) => {
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
  });
}

/** A round badge with somebody's initial, in a colour of their own. */
export function avatar(name: string): HTMLElement {
  let hash = 0;
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)!) % 360;
  const initial = [...name][0]?.toUpperCase() ?? '?';
  const badge = element('span', { class: 'avatar', 'aria-hidden': 'true' }, initial);
  badge.style.setProperty('--hue', String(hash));
  return badge;
}
