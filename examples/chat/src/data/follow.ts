// One live query, from subscribing to leaving for good.

import { connection } from './connection';

export interface Follower {
  /** The object is in the query's result, new or changed. */
  changed(object: Parse.Object): void;
  /** The object has left the result. */
  gone(object: Parse.Object): void;
  /** Events may have been missed, or there will be no more: time to fetch, which also tells why. */
  interrupted(): void;
}

/** Follows `query` until `signal` aborts. From then on the follower hears nothing, whatever still arrives. */
export async function follow(query: Parse.Query, signal: AbortSignal, follower: Follower): Promise<void> {
  const subscription = await query.subscribe();
  if (!subscription) return;

  const whileWanted = (hear: (object: Parse.Object) => void) => (object: Parse.Object) => {
    if (!signal.aborted) hear(object);
  };
  for (const event of ['create', 'enter', 'update']) subscription.on(event, whileWanted(follower.changed));
  for (const event of ['leave', 'delete']) subscription.on(event, whileWanted(follower.gone));

  // Without a connection unsubscribing would be lost, and the SDK subscribes again with the next one:
  // then we leave when that has happened, but never twice on one connection.
  let leftIn: number | undefined;
  const leave = () => {
    if (connection.status !== 'online' || leftIn === connection.epoch) return;
    leftIn = connection.epoch;
    void subscription.unsubscribe();
  };

  // The SDK says `open` after the first subscribing, too.
  let isFirst = true;
  subscription.on('open', () => {
    if (signal.aborted) leave();
    else if (!isFirst) follower.interrupted();
    isFirst = false;
  });

  // Trouble of the connection comes as an event object, a word of the server as a string.
  subscription.on('error', (reason: unknown) => {
    if (!signal.aborted && typeof reason === 'string') follower.interrupted();
  });

  if (signal.aborted) leave();
  else signal.addEventListener('abort', leave, { once: true });
}
