// Times and names as people write them.

const time = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
const date = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' });

export function timeOf(moment: Date): string {
  return time.format(moment);
}

export function dayOf(moment: Date): string {
  return isToday(moment) ? 'Today' : weekday.format(moment);
}

/** Short enough for a list: the time today, the day before that. */
export function briefly(moment: Date): string {
  return isToday(moment) ? time.format(moment) : date.format(moment);
}

function isToday(moment: Date): boolean {
  return moment.toDateString() === new Date().toDateString();
}

/** "Ann", "Ann and Ben", "Ann, Ben and Cleo". */
export function listOf(names: string[]): string {
  if (names.length < 2) return names[0] ?? '';
  return `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;
}
