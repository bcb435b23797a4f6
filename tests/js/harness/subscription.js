// A live query as the tests see it: what happened, in order, to be taken event by event.

import assert from 'node:assert/strict';

/** Longer than the SDK's first reconnects take on a busy machine; only a failing test waits this long. */
const patience = 30_000;

export class Subscription {
  /** How the user's process knows it; set by the user. */
  number;
  /** Every event about an object since the start, for looking back. */
  events = [];
  #objects = new Inbox();
  #results = new Inbox();
  #opens = new Inbox();
  #closes = new Inbox();
  #name;
  #ask;

  constructor(name, ask) {
    this.#name = name;
    this.#ask = ask;
  }

  /**
   * The very next event must be this one: so it also proves that nothing came twice, and that whatever
   * was to stay unseen did not come before it.
   */
  async next(event, id) {
    const came = await this.#objects.take(`${this.#name}: ${event} of ${id}`);
    assert.deepEqual(
      { event: came.event, id: came.object.objectId },
      { event, id },
      `${this.#name}: another event came first: ${JSON.stringify(came)}`,
    );
    return came;
  }

  /** Like `next`, letting others pass: for after a reconnect, where the tail may be repeated. */
  async until(event, id) {
    for (;;) {
      const came = await this.#objects.take(`${this.#name}: ${event} of ${id}`);
      if (came.event === event && came.object.objectId === id) return came;
    }
  }

  /** Takes `count` events, whichever they are. */
  async take(count) {
    const taken = [];
    while (taken.length < count) taken.push(await this.#objects.take(`${this.#name}: event ${taken.length + 1} of ${count}`));
    return taken;
  }

  /** `subscription.find()` and its answer, the event `result`. */
  async find() {
    await this.#ask('askForResult', this.number);
    const { results } = await this.#results.take(`${this.#name}: a result`);
    return results;
  }

  /** Gives the same subscription another filter; done when the server has taken it. */
  async change(where) {
    await this.opened();
    await this.#ask('changeQuery', this.number, where);
    await this.opened();
  }

  unsubscribe() {
    return this.#ask('unsubscribe', this.number);
  }

  /** The SDK's `open`: after subscribing, and again after each reconnect. */
  opened() {
    return this.#opens.take(`${this.#name}: open`);
  }

  /** The SDK's `close`: the connection is gone. */
  closed() {
    return this.#closes.take(`${this.#name}: close`);
  }

  receive(message) {
    if (message.object) this.events.push(message);
    this.#inboxFor(message).put(message);
  }

  #inboxFor({ event }) {
    switch (event) {
      case 'open': return this.#opens;
      case 'close': return this.#closes;
      case 'result': return this.#results;
      case 'error': return new Inbox();
      default: return this.#objects;
    }
  }
}

/** A queue that can be waited on. */
class Inbox {
  #items = [];
  #waiting = [];

  put(item) {
    const taker = this.#waiting.shift();
    if (taker) taker(item);
    else this.#items.push(item);
  }

  take(what) {
    if (this.#items.length) return this.#items.shift();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), patience);
      this.#waiting.push(item => {
        clearTimeout(timer);
        resolve(item);
      });
    });
  }
}
