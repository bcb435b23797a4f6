// The dialog that finds people to talk to.

import type { Person } from '../data/model';
import type { People } from '../data/people';
import { avatar, element, showList } from './dom';
import { report } from './notice';

interface Choice {
  ids: string[];
  title: string;
}

/** Answers with the chosen people, or with nothing when the dialog is closed. */
export function askForPeople(people: People): Promise<Choice | undefined> {
  const chosen = new Map<string, string>();
  let found: Person[] = [];
  let searches = 0;

  const text = element('input', {
    type: 'search', id: 'find', testId: 'find', autocomplete: 'off', spellcheck: 'false', maxlength: 40, on: { input: () => search() },
  });
  const chips = element('ul', { class: 'chips', 'aria-label': 'Chosen' });
  const results = element('ul', { class: 'people', testId: 'people', 'aria-label': 'People found' });
  const none = element('p', { class: 'empty', role: 'status' });
  const title = element('input', { id: 'title', testId: 'title', maxlength: 60, placeholder: 'optional' });
  const titleRow = element('div', { hidden: true }, element('label', { for: 'title' }, 'Name of the group'), title);
  const startButton = element('button', { class: 'primary', testId: 'start', value: 'start', disabled: true }, 'Start');
  const dialog = element('dialog', { 'aria-labelledby': 'dialog-title', testId: 'dialog' },
    element('form', { method: 'dialog' },
      element('h2', { id: 'dialog-title' }, 'New conversation'),
      element('label', { for: 'find' }, 'Find people by name'), text,
      chips, results, none, titleRow,
      element('div', { class: 'buttons' },
        element('button', { value: 'cancel', formnovalidate: true, type: 'button', on: { click: () => dialog.close() } }, 'Cancel'),
        startButton),
    ));

  function search(): void {
    const number = ++searches;
    people.search(text.value.trim())
      .then(answer => {
        if (number !== searches) return; // a later search was asked for meanwhile
        found = answer;
        show();
      })
      .catch(report);
  }

  function toggle({ id, name }: Person): void {
    if (!chosen.delete(id)) chosen.set(id, name);
    show();
    text.select(); // ready for the next name
  }

  function show(): void {
    const looks = found.map(person => ({ ...person, chosen: chosen.has(person.id) }));
    showList(results, looks, drawPerson);
    showList(chips, [...chosen].map(([id, name]) => ({ id, name })), drawChip);
    none.textContent = found.length === 0 ? 'Nobody of that name.' : '';
    titleRow.hidden = chosen.size < 2;
    startButton.disabled = chosen.size === 0;
    startButton.textContent = chosen.size > 1 ? `Start group of ${chosen.size + 1}` : 'Start';
  }

  function drawPerson(person: Person & { chosen: boolean }): HTMLElement {
    return element('li', {},
      element('button', {
        type: 'button', testId: 'person', 'data-name': person.name, 'aria-pressed': String(person.chosen),
        on: { click: () => toggle(person) },
      }, avatar(person.name), person.name));
  }

  function drawChip(person: Person): HTMLElement {
    return element('li', {},
      element('button', { type: 'button', 'aria-label': `Remove ${person.name}`, on: { click: () => toggle(person) } }, `${person.name} ×`));
  }

  document.body.append(dialog);
  dialog.showModal();
  search();
  return new Promise(resolve => {
    dialog.addEventListener('close', () => {
      dialog.remove();
      const ids = [...chosen.keys()];
      resolve(dialog.returnValue === 'start' && ids.length > 0 ? { ids, title: title.value.trim() } : undefined);
    });
  });
}
