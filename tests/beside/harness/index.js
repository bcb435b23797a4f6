// What a test file imports: both servers on one database, and the few words the stories are told in.

import { after, afterEach, test } from 'node:test';
import { setTimeout as rest } from 'node:timers/promises';
import { startServer } from '../../js/harness/index.js';
import { keys } from '../../js/harness/server.js';
import { User } from '../../js/harness/user.js';
import { Api } from './api.js';
import { openDatabase } from './database.js';
import { ParseServer } from './parse-server.js';

export { pointerTo, refused } from '../../js/harness/index.js';

/** Far longer than anything takes, so that a slow machine is no failure; only a failing test waits this long. */
const patience = 15_000;

/**
 * A fresh database and both servers on it, for this test file. Parse Server comes first, unless told otherwise: then
 * Tidings finds a database that it did not make, and in it what `beforehand` does. `parseOptions` go before the usual ones.
 */
export async function startBoth({ first = 'Parse Server', beforehand = () => {}, parseOptions } = {}) {
  const database = await openDatabase();
  const parseServer = new ParseServer(database.url, parseOptions);
  let server;
  const users = [];
  const endUsers = () => Promise.all(users.splice(0).map(user => user.end()));
  const close = async () => {
    await endUsers();
    await server?.close();
    await parseServer.stop();
    await database.close();
  };
  try {
    if (first === 'Parse Server') {
      await parseServer.start();
      await beforehand(new Api('Parse Server', parseServer.url, keys));
    }
    // It has no cloud code because Parse Server has none.
    server = await startServer({ 'database-url': database.url, 'cloud-code': undefined });
    after(close);
    afterEach(endUsers);
    if (first !== 'Parse Server') await parseServer.start();

    const parse = new Api('Parse Server', parseServer.url, keys);
    const tidings = new Api('Tidings', server.url, keys);
    /** Somebody's device, with the npm SDK, at one of the servers (see tests/js/harness). */
    const device = async (name, { url }) => {
      const user = new User(name);
      users.push(user);
      await user.connect({ ...keys, url });
      return user;
    };
    /** A story in both directions: what happens at one server, and what the other makes of it. */
    const bothWays = (title, story) => {
      test(`${title} (from Parse Server to Tidings)`, context => story(parse, tidings, context));
      test(`${title} (from Tidings to Parse Server)`, context => story(tidings, parse, context));
    };
    return { database, parseServer, parse, tidings, device, bothWays };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Waits until `look` finds what it asserts: a server hears of the other's changes a moment later. */
export async function eventually(look) {
  const end = Date.now() + patience;
  for (;;) {
    try {
      return await look();
    } catch (error) {
      if (Date.now() > end) throw error;
      await rest(5);
    }
  }
}

let names = 0;

/** A name that no other test of this file uses. */
export function fresh(name) {
  names += 1;
  return `${name}${names}`;
}
