// One member, several rooms: live queries that come, go and change on one connection.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inside, say, startConversation, startServer } from './harness/index.js';

const server = await startServer();

test('two rooms of one member are never mixed', async () => {
  const { alice, bob, kitchen, attic } = await twoRooms();
  const inKitchen = await bob.subscribe('Message', inside(kitchen));
  const inAttic = await bob.subscribe('Message', inside(attic));

  const [soup, dust, salt, moth] = [
    await say(alice, kitchen, 'Soup is ready'),
    await say(alice, attic, 'So much dust'),
    await say(alice, kitchen, 'More salt?'),
    await say(alice, attic, 'A moth!'),
  ];
  await inKitchen.next('create', soup.objectId);
  await inKitchen.next('create', salt.objectId);
  await inAttic.next('create', dust.objectId);
  await inAttic.next('create', moth.objectId);
});

test('after unsubscribing nothing comes', async () => {
  const { alice, bob, kitchen } = await twoRooms();
  const muted = await bob.subscribe('Message', inside(kitchen));
  const heard = await bob.subscribe('Message', inside(kitchen));

  await muted.unsubscribe();
  const message = await say(alice, kitchen, 'Anybody here?');
  await heard.next('create', message.objectId);
  assert.deepEqual(muted.events, []);
});

test('switching rooms: the old one falls silent, the new one speaks', async () => {
  const { alice, bob, kitchen, attic } = await twoRooms();
  const inKitchen = await bob.subscribe('Message', inside(kitchen));
  const soup = await say(alice, kitchen, 'Soup is ready');
  await inKitchen.next('create', soup.objectId);

  await inKitchen.unsubscribe();
  const inAttic = await bob.subscribe('Message', inside(attic));
  await say(alice, kitchen, 'It is getting cold');
  const dust = await say(alice, attic, 'So much dust');
  await inAttic.next('create', dust.objectId);

  await inAttic.unsubscribe();
  const again = await bob.subscribe('Message', inside(kitchen));
  const last = await say(alice, kitchen, 'Gone now');
  await again.next('create', last.objectId);
  assert.equal(inKitchen.events.length, 1, 'the first visit ended with its unsubscribe');
});

test('a subscription can be given another filter', async () => {
  const { alice, bob, kitchen, attic } = await twoRooms();
  const messages = await bob.subscribe('Message', inside(kitchen));
  const soup = await say(alice, kitchen, 'Soup is ready');
  await messages.next('create', soup.objectId);

  await messages.change(inside(attic));
  await say(alice, kitchen, 'It is getting cold');
  const dust = await say(alice, attic, 'So much dust');
  await messages.next('create', dust.objectId);
});

async function twoRooms() {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const kitchen = await startConversation(alice, bob);
  const attic = await startConversation(alice, bob);
  return { alice, bob, kitchen, attic };
}
