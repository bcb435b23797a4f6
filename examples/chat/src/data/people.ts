// Who is who. Live events carry ids, so names are looked up once and remembered.

import Parse from 'parse';
import { me, myId, type Person, toPerson } from './model';

export class People {
  #names = new Map<string, string>();
  #asked = new Set<string>();

  constructor() {
    this.#remember(toPerson(me()));
  }

  name(id: string): string {
    return this.#names.get(id) ?? '…';
  }

  /** Looks up whoever among `ids` was never asked for; answers whether there was anybody. */
  async learn(ids: Iterable<string>): Promise<boolean> {
    const unknown = [...new Set(ids)].filter(id => !this.#names.has(id) && !this.#asked.has(id));
    if (unknown.length === 0) return false;
    for (const id of unknown) this.#asked.add(id);
    try {
      const found = await new Parse.Query('_User').containedIn('objectId', unknown).limit(unknown.length).find();
      for (const id of unknown) this.#names.set(id, 'somebody'); // who is not found has left
      found.map(toPerson).forEach(this.#remember);
      return true;
    } finally {
      for (const id of unknown) this.#asked.delete(id);
    }
  }

  /** Everybody else whose name contains `text`, in any case. */
  async search(text: string): Promise<Person[]> {
    const query = new Parse.Query('_User').notEqualTo('objectId', myId()).ascending('username').limit(20);
    if (text) query.matches('username', escapeRegExp(text), 'i');
    const found = (await query.find()).map(toPerson);
    found.forEach(this.#remember);
    return found;
  }

  #remember = ({ id, name }: Person): void => {
    this.#names.set(id, name);
  };
}

function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
}
