// The one live-query connection that all subscriptions share.

import Parse from 'parse';

export type Status = 'connecting' | 'online' | 'reconnecting';

class Connection {
  status: Status = 'connecting';
  /** How often it was established: tells one connection from the next. */
  epoch = 0;
  #listeners: ((status: Status) => void)[] = [];

  /** To be called once, after `Parse.initialize`. */
  watch(): void {
    Parse.LiveQuery.on('open', () => {
      this.epoch += 1;
      this.#become('online');
    });
    Parse.LiveQuery.on('close', () => this.#become('reconnecting'));
  }

  onChange(listener: (status: Status) => void): void {
    this.#listeners.push(listener);
    listener(this.status);
  }

  #become(status: Status): void {
    this.status = status;
    for (const listener of this.#listeners) listener(status);
  }
}

export const connection = new Connection();
