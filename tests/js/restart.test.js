// The server goes away and comes back, in an orderly way or not; the apps stay open.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { idsOf, inside, refused, say, startConversation, startServer } from './harness/index.js';

const server = await startServer();

for (const signal of ['SIGTERM', 'SIGKILL']) {
  test(`after ${signal} and a new start everything stored is there and live queries go on`, async () => {
    const alice = await server.user(`alice-${signal}`);
    const bob = await server.user(`bob-${signal}`);
    const room = await startConversation(alice, bob);
    const atBob = await bob.subscribe('Message', inside(room));
    await atBob.opened();
    const before = await say(alice, room, 'Before the restart');
    await atBob.next('create', before.objectId);

    await server.stop(signal);
    await atBob.closed();
    await server.start();

    // Alice is back at once, Bob's SDK takes a moment: on `open` he fetches what he missed, as an app does.
    const missed = await say(alice, room, 'While Bob was away');
    await atBob.opened();
    const history = await bob.find('Message', inside(room));
    assert.deepEqual(idsOf(history), idsOf([before, missed]));

    const after = await say(alice, room, 'Live again');
    const { object } = await atBob.until('create', after.objectId);
    assert.equal(object.text, 'Live again');
    assert.deepEqual(object.sender, alice.pointer);
  });
}

test('accounts, sessions and permissions outlive a crash', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const mallory = await server.user('mallory');
  const room = await startConversation(alice, bob);
  const message = await say(alice, room, 'Durable');

  await server.stop('SIGKILL');
  await server.start();

  assert.equal((await bob.get('Message', message.objectId)).text, 'Durable');
  assert.equal((await bob.get('Conversation', room.objectId)).lastMessage, 'Durable');
  await refused(mallory.get('Message', message.objectId), 101);
  await refused(bob.update('Message', message.objectId, { text: 'Forged' }), 101, 119);
  const elsewhere = await server.visitor();
  await elsewhere.logIn(alice);
  await alice.update('Message', message.objectId, { text: 'Edited' });
});
