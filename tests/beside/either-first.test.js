// Whoever comes first: a database that Tidings made serves Parse Server, too, and again after a restart.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually, startBoth } from './harness/index.js';

const { parse, tidings, parseServer, database } = await startBoth({ first: 'Tidings' });

const owner = { __type: 'Pointer', className: '_User', objectId: 'somebody' };

test('users are signed up at both', async () => {
  for (const [first, second] of [[parse, tidings], [tidings, parse]]) {
    const fields = { username: `from ${first.name}`, password: 'x' };
    const { objectId } = await first.signUp(fields);
    assert.equal((await second.logIn(fields)).objectId, objectId);
  }
});

test('users have Parse Server’s own indexes, and sessions are found by their token', async () => {
  const keys = async (className, isUnique) => {
    const indexes = await database.rows(className).indexes();
    return indexes.filter(({ unique = false }) => unique === isUnique).map(({ key }) => Object.keys(key).join());
  };
  assert.deepEqual((await keys('_User', true)).toSorted(), ['_auth_data_anonymous.id', 'email', 'username']);
  assert.ok((await keys('_Session', false)).includes('_session_token'));
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
