// A short word to the user that goes away by itself.

import { explain, isSessionEnded } from '../data/errors';
import { logOut } from '../data/session';
import { element } from './dom';

const shownFor = 6_000;
const notices = element('div', { class: 'notices', role: 'alert', testId: 'notices' });
document.body.append(notices);

export function notify(text: string): void {
  const notice = element('p', { class: 'notice' }, text);
  notices.append(notice);
  setTimeout(() => notice.remove(), shownFor);
}

/** Says what went wrong; a session that has ended leads back to the log-in page. */
export function report(error: unknown): void {
  if (isSessionEnded(error)) void logOut(explain(error));
  else notify(explain(error));
}
