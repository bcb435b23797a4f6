// What the chat's hooks do with a message: clean it, refuse it, count it, remember it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inside, refused, say, startConversation, startServer } from './harness/index.js';

const server = await startServer();

test('a blank text is refused', async () => {
  const { alice, room } = await aliceAndBob();
  for (const blank of ['', '   ', '\n\t ', '<b></b>', ' <br> ']) {
    await refused(say(alice, room, blank), 142);
  }
  await refused(alice.create('Message', inside(room)), 142);

  const message = await say(alice, room, 'Something');
  await refused(alice.update('Message', message.objectId, { text: ' ' }), 142);
  assert.equal(await alice.count('Message', inside(room)), 1);
});

test('tags are stripped, everything else stays as it was typed', async () => {
  const { bob, room } = await aliceAndBob();
  const admin = await server.admin();
  const atBob = await bob.subscribe('Message', inside(room));
  const sender = bob.pointer;

  for (const [typed, stored] of [
    ['  Hello  ', 'Hello'],
    ['<b>bold</b> words', 'bold words'],
    ['<a href="x">link</a>', 'link'],
    ['I <3 you & 1 < 2 > 0', 'I <3 you & 1 < 2 > 0'],
    ['fish &amp; chips', 'fish &amp; chips'],
    ['👩‍👩‍👧 naïve – ‘quoted’', '👩‍👩‍👧 naïve – ‘quoted’'],
    ['two\nlines', 'two\nlines'],
  ]) {
    const answer = await admin.create('Message', { ...inside(room), sender, text: typed });
    const { object } = await atBob.next('create', answer.objectId);
    assert.equal(object.text, stored, `live: ${typed}`);
    assert.equal(answer.text, stored, `in the answer: ${typed}`);
    assert.equal((await bob.get('Message', answer.objectId)).text, stored, `stored: ${typed}`);
  }
});

test('no script survives', async () => {
  const { alice, room } = await aliceAndBob();
  const { text } = await say(alice, room, 'before <script>alert(1)</script><img src=x onerror=alert(2)> after');
  assert.doesNotMatch(text, /<(script|img)/i);
  assert.match(text, /^before .*after$/);
});

test('of 50 messages sent at once exactly 10 are taken', async () => {
  const { alice, bob, room } = await aliceAndBob();
  const outcomes = await Promise.allSettled(Array.from({ length: 50 }, (_, i) => say(alice, room, `Message ${i}`)));

  const refusals = outcomes.filter(({ status }) => status === 'rejected');
  assert.deepEqual(refusals.map(({ reason }) => reason.code), Array(40).fill(155));
  const stored = await bob.find('Message', inside(room));
  assert.equal(stored.length, 10);

  // Edits are not counted, the master key is not limited, and everybody has a limit of their own.
  await alice.update('Message', stored[0].objectId, { text: 'Edited' });
  const admin = await server.admin();
  await admin.create('Message', { ...inside(room), sender: alice.pointer, text: 'Imported' });
  await say(bob, room, 'Slow down, Alice');
  await refused(say(alice, room, 'One more'), 155);
});

test('a refused message takes no slot', async () => {
  const { alice, room } = await aliceAndBob();
  for (let i = 0; i < 12; i++) await refused(say(alice, room, ' '), 142);
  for (let i = 0; i < 10; i++) await say(alice, room, `Message ${i}`);
  await refused(say(alice, room, 'The eleventh'), 155);
});

test('a conversation keeps its last message', async () => {
  const { alice, bob, room } = await aliceAndBob();
  await say(alice, room, 'First');
  const second = await say(bob, room, '<i>Second</i>');
  const { lastMessage, lastMessageAt } = await alice.get('Conversation', room.objectId);
  assert.equal(lastMessage, 'Second');
  assert.equal(lastMessageAt.iso, second.createdAt);
});

test('of messages sent at once the newest stays the last one', async () => {
  const { alice, bob, room } = await aliceAndBob();
  const sends = [alice, bob].flatMap(user => Array.from({ length: 8 }, (_, i) => say(user, room, `${user.name} ${i}`)));
  const messages = await Promise.all(sends);

  const newest = messages.map(message => message.createdAt).sort().at(-1);
  const { lastMessage, lastMessageAt } = await alice.get('Conversation', room.objectId);
  assert.equal(lastMessageAt.iso, newest);
  const candidates = messages.filter(message => message.createdAt === newest).map(message => message.text);
  assert.ok(candidates.includes(lastMessage), `${lastMessage} is none of ${candidates}`);
});

async function aliceAndBob() {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  return { alice, bob, room: await startConversation(alice, bob) };
}
