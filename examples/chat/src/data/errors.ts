// What the server's codes mean to somebody who just wants to chat.

/** The session was ended elsewhere or has expired: only logging in again helps. */
const sessionEnded = 209;

const explanations: Record<number, string> = {
  100: 'The server cannot be reached. Check your connection and try again.',
  101: 'This is not there any more.',
  119: 'You may not do that here.',
  142: 'A message needs some text.',
  155: 'You are sending too fast. Wait a moment, then try again.',
  200: 'Please choose a name.',
  201: 'Please choose a password.',
  202: 'This name is taken. Please choose another one.',
  [sessionEnded]: 'Your session has ended. Please log in again.',
};

export function isSessionEnded(error: unknown): boolean {
  return codeOf(error) === sessionEnded;
}

/** `here` says what codes mean in one place, where that is something special. */
export function explain(error: unknown, here: Record<number, string> = {}): string {
  const code = codeOf(error) ?? 0;
  const text = error instanceof Error ? error.message : String(error);
  return here[code] ?? explanations[code] ?? `Something went wrong: ${text}`;
}

function codeOf(error: unknown): number | undefined {
  return (error as { code?: number } | undefined)?.code;
}
