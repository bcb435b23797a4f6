// The result of a query, kept true by its live query: subscribe first, then fetch, so that nothing
// falls between; by id, so that nothing is there twice.

import { follow } from './follow';

interface Item {
  id: string;
  updatedAt: Date;
}

interface Options<T extends Item> {
  /** What is followed. */
  live: Parse.Query;
  /** What is fetched at the start and after an interruption. */
  stored: Parse.Query;
  /** How many of it, given how many items are held. */
  limit: (held: number) => number;
  read: (object: Parse.Object) => T;
  /** Called after every change of `items`. */
  changed: () => void;
  failed: (error: unknown) => void;
  signal: AbortSignal;
  /** Takes each live item; by default it is put in. */
  arrived?: (item: T) => void;
}

export class Collection<T extends Item> {
  readonly items = new Map<string, T>();
  /** Whether the last fetch was cut off by its limit. */
  hasMore = false;
  /** Counts the fetches: an older page that was asked for before one does not fit any more. */
  generation = 0;
  /** What happened while a fetch is under way, to be applied on top of its answer. */
  #waiting: (() => void)[] | undefined;
  #options: Options<T>;

  constructor(options: Options<T>) {
    this.#options = options;
  }

  async open(): Promise<void> {
    const { live, signal, read, arrived, failed } = this.#options;
    await follow(live, signal, {
      changed: object => this.#soon(() => (arrived ?? this.#take)(read(object))),
      gone: object => this.#soon(() => this.items.delete(object.id!)),
      interrupted: () => this.#fetch().catch(failed),
    });
    await this.#fetch();
  }

  /** Puts items in, unless we already know them newer. */
  put(...items: T[]): void {
    items.forEach(this.#take);
    this.#options.changed();
  }

  #take = (item: T): void => {
    const known = this.items.get(item.id);
    if (!known || known.updatedAt <= item.updatedAt) this.items.set(item.id, item);
  };

  async #fetch(): Promise<void> {
    const { stored, limit, read } = this.#options;
    const generation = ++this.generation;
    const count = limit(this.items.size);
    this.#waiting ??= [];
    let objects: Parse.Object[] | undefined;
    try {
      objects = await stored.limit(count).find();
    } finally {
      if (generation === this.generation) this.#settle(objects?.map(read), count);
    }
  }

  /** The answer replaces what we held, so that missed deletions show, too. */
  #settle(answer: T[] | undefined, count: number): void {
    if (answer) {
      this.items.clear();
      answer.forEach(this.#take);
      this.hasMore = answer.length >= count;
    }
    const happened = this.#waiting ?? [];
    this.#waiting = undefined;
    for (const apply of happened) apply();
    this.#options.changed();
  }

  #soon(apply: () => void): void {
    if (this.#waiting) {
      this.#waiting.push(apply);
    } else {
      apply();
      this.#options.changed();
    }
  }
}
