// Who is logged in. The SDK keeps the session over a reload.

import Parse from 'parse';

/** Where a reason to log in again waits while the page reloads. */
const noticeKey = 'tidings-chat-notice';

export function isLoggedIn(): boolean {
  return Parse.User.current() !== null;
}

export async function logIn(name: string, password: string): Promise<void> {
  await Parse.User.logIn(name, password);
}

export async function signUp(name: string, password: string): Promise<void> {
  await Parse.User.signUp(name, password, {});
}

/** Starts over with a fresh page, so that nothing of one user is left for the next. */
export async function logOut(notice?: string): Promise<void> {
  if (notice) sessionStorage.setItem(noticeKey, notice);
  // The SDK forgets the session even when the server cannot be told.
  await Parse.User.logOut().catch(() => {});
  history.replaceState(null, '', location.pathname);
  location.reload();
}

export function takeNotice(): string | undefined {
  const notice = sessionStorage.getItem(noticeKey) ?? undefined;
  sessionStorage.removeItem(noticeKey);
  return notice;
}
