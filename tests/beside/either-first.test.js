// Whoever comes first: a database that Tidings made serves Parse Server, too, and again after a restart.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startServer } from '../js/harness/index.js';
import { keys } from '../js/harness/server.js';
import { Api } from './harness/api.js';
import { openDatabase } from './harness/database.js';
import { eventually, startBoth } from './harness/index.js';
import { ParseServer } from './harness/parse-server.js';

const { parse, tidings, parseServer, database } = await startBoth({ first: 'Tidings' });

const owner = { __type: 'Pointer', className: '_User', objectId: 'somebody' };

test('users are signed up at both', async () => {
  for (const [first, second] of [[parse, tidings], [tidings, parse]]) {
    const fields = { username: `from ${first.name}`, password: 'x' };
    const { objectId } = await first.signUp(fields);
    assert.equal((await second.logIn(fields)).objectId, objectId);
  }
});

/** The indexes of users as one program makes them on a database of its own. */
async function indexesOfUsers(start) {
  const alone = await openDatabase();
  const stop = await start(alone.url);
  try {
    const indexes = await alone.rows('_User').indexes();
    return new Map(indexes.map(({ name, key, unique, sparse, collation }) => [name, { key, unique, sparse, collation }]));
  } finally {
    await stop();
    await alone.close();
  }
}

test('users have every index that Parse Server gives them, and sessions are found by their token and their end', async () => {
  const [ours, theirs] = await Promise.all([
    indexesOfUsers(async url => {
      const server = await startServer({ 'database-url': url, 'cloud-code': undefined });
      await new Api('Tidings', server.url, keys).signUp({ username: 'somebody', password: 'x' });
      return () => server.close();
    }),
    indexesOfUsers(async url => {
      const server = new ParseServer(url);
      await server.start();
      return () => server.stop();
    }),
  ]);
  assert.ok(theirs.size > 5, [...theirs.keys()].join());
  for (const [name, index] of theirs) assert.deepEqual(ours.get(name), index, name);
  const sessions = await database.rows('_Session').indexes();
  for (const field of ['_session_token', 'expiresAt']) assert.ok(sessions.some(({ key }) => key[field]), field);
});

test('Parse Server starts again on what Tidings made, and its columns can still be deleted', async () => {
  const { objectId } = await tidings.create('Thing', { owner, text: 'x' });
  await parseServer.stop();
  // When it starts, it lists all indexes of each class, also those that Tidings makes by itself.
  await parseServer.start();
  assert.deepEqual((await parse.get('Thing', objectId)).owner, owner);

  await tidings.master.changeClass('Thing', { fields: { owner: { __op: 'Delete' } } });
  await eventually(async () => assert.equal((await parse.master.schema('Thing')).fields.owner, undefined));
  await parse.update('Thing', objectId, { owner: 'a text' });
  assert.equal((await tidings.get('Thing', objectId)).owner, 'a text');
});
