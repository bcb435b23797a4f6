// The first page: log in or sign up.

import { explain } from '../data/errors';
import { logIn, signUp, takeNotice } from '../data/session';
import { element } from './dom';

const wrongPassword = { 101: 'The name or the password is wrong.' };

/** Fills `page`; calls `entered` when somebody is logged in. */
export function showLogin(page: HTMLElement, entered: () => void): void {
  const name = element('input', {
    id: 'name', testId: 'name', name: 'username', autocomplete: 'username', required: true, autofocus: true,
    autocapitalize: 'none', spellcheck: 'false', maxlength: 40,
  });
  const password = element('input', {
    id: 'password', testId: 'password', name: 'password', type: 'password', autocomplete: 'current-password', required: true,
  });
  const complaint = element('p', { class: 'complaint', role: 'alert', testId: 'complaint' }, takeNotice() ?? '');
  const buttons = [
    element('button', { class: 'primary', testId: 'log-in', value: 'log-in' }, 'Log in'),
    element('button', { testId: 'sign-up', value: 'sign-up' }, 'Create account'),
  ];

  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const isNew = (event.submitter as HTMLButtonElement | null)?.value === 'sign-up';
    complaint.textContent = '';
    for (const button of buttons) button.disabled = true;
    try {
      await (isNew ? signUp : logIn)(name.value.trim(), password.value);
      entered();
    } catch (error) {
      complaint.textContent = explain(error, wrongPassword);
    } finally {
      for (const button of buttons) button.disabled = false;
    }
  };

  const form = element('form', { class: 'card', on: { submit: event => void submit(event) } },
    element('img', { src: './icon.svg', alt: '', width: 48, height: 48 }),
    element('h1', {}, 'Tidings chat'),
    element('label', { for: 'name' }, 'Name'), name,
    element('label', { for: 'password' }, 'Password'), password,
    complaint,
    element('div', { class: 'buttons' }, ...buttons),
  );
  page.replaceChildren(element('main', { class: 'login' }, form));
  name.focus();
}
