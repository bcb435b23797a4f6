// Clients set no ACL and can be trusted with nothing: the hooks decide who may write what.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inside, pointerTo, refused, say, startConversation, startServer } from './harness/index.js';

const server = await startServer();

test('nobody can speak in the name of another', async () => {
  const { alice, bob, room } = await aliceAndBob();
  await refused(bob.create('Message', { ...inside(room), sender: alice.pointer, text: 'I owe Bob a beer' }), 119);
  await refused(bob.create('TypingStatus', { ...inside(room), user: alice.pointer, isTyping: true }), 119);

  const message = await say(bob, room, 'Who owes me a beer?');
  await refused(bob.update('Message', message.objectId, { sender: alice.pointer }), 119);

  const named = await bob.create('Message', { ...inside(room), sender: bob.pointer, text: 'Naming oneself is fine' });
  assert.deepEqual((await bob.get('Message', named.objectId)).sender, bob.pointer);
});

test('only participants write into a conversation', async () => {
  const { alice, bob, room } = await aliceAndBob();
  const mallory = await server.user('mallory');
  const nobody = await server.visitor();
  const atBob = await bob.subscribe('Message', inside(room));

  for (const outsider of [mallory, nobody]) {
    await refused(say(outsider, room, 'Let me in'), 119);
    await refused(outsider.create('TypingStatus', { ...inside(room), isTyping: true }), 119);
  }
  const message = await say(alice, room, 'Quiet here');
  await atBob.next('create', message.objectId);
});

test('a message cannot be moved to a conversation of others', async () => {
  const { alice, room } = await aliceAndBob();
  const mallory = await server.user('mallory');
  const own = await startConversation(mallory);
  const message = await say(mallory, own, 'Trojan horse');
  await refused(mallory.update('Message', message.objectId, { conversation: pointerTo(room) }), 119);
  assert.equal(await alice.count('Message', inside(room)), 0);
});

test('only the sender edits or deletes a message', async () => {
  const { alice, bob, room } = await aliceAndBob();
  const mallory = await server.user('mallory');
  const message = await say(alice, room, 'Meet at noon');
  const atBob = await bob.subscribe('Message', inside(room));

  for (const other of [bob, mallory]) {
    await refused(other.update('Message', message.objectId, { text: 'Meet at midnight' }), 101, 119);
    await refused(other.destroy('Message', message.objectId), 101, 119);
  }
  await alice.update('Message', message.objectId, { text: 'Meet at one' });
  const { object, original } = await atBob.next('update', message.objectId);
  assert.equal(original.text, 'Meet at noon');
  assert.equal(object.text, 'Meet at one');
  await alice.destroy('Message', message.objectId);
  await atBob.next('delete', message.objectId);
});

test('a typing status belongs to its user', async () => {
  const { alice, bob, room } = await aliceAndBob();
  const status = await alice.create('TypingStatus', { ...inside(room), isTyping: true });
  await refused(bob.update('TypingStatus', status.objectId, { isTyping: false }), 101, 119);
});

test('only participants change a conversation', async () => {
  const { bob, room } = await aliceAndBob();
  const mallory = await server.user('mallory');
  await refused(mallory.update('Conversation', room.objectId, { participants: [mallory.pointer] }), 101, 119);
  await refused(mallory.destroy('Conversation', room.objectId), 101, 119);
  await bob.update('Conversation', room.objectId, { title: 'Alice and Bob' });
  assert.equal((await bob.get('Conversation', room.objectId)).title, 'Alice and Bob');
});

test('the master key may name any sender', async () => {
  const { alice, bob, room } = await aliceAndBob();
  const admin = await server.admin();
  const atBob = await bob.subscribe('Message', inside(room));
  const message = await admin.create('Message', { ...inside(room), sender: alice.pointer, text: 'From an import' });
  const { object } = await atBob.next('create', message.objectId);
  assert.deepEqual(object.sender, alice.pointer);
});

async function aliceAndBob() {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  return { alice, bob, room: await startConversation(alice, bob) };
}

// The first value of a field decides its type: 142 from the hook, later 111.
test('no client spoils a field, or an ACL, for the others', async () => {
  const { alice, bob, room } = await aliceAndBob();
  await refused(alice.create('Conversation', { participants: [bob.pointer], lastMessageAt: 'zzz' }), 142, 111);
  await refused(alice.create('Conversation', { participants: [bob.pointer], lastMessage: 5 }), 142, 111);
  await refused(alice.create('TypingStatus', { ...inside(room), isTyping: 'x' }), 142, 111);
  for (const objectId of ['*', 'role:admins']) {
    const participants = [{ __type: 'Pointer', className: '_User', objectId }];
    await refused(alice.create('Conversation', { participants }), 142);
    await refused(alice.update('Conversation', room.objectId, { participants: { __op: 'AddUnique', objects: participants } }), 142);
  }
  await refused(alice.update('Conversation', room.objectId, { lastMessageAt: null }), 142);
  await alice.update('Conversation', room.objectId, { title: '<b>Lunch</b>' });
  assert.equal((await bob.get('Conversation', room.objectId)).title, 'Lunch');
});

test('participants who are added at once all come in', async () => {
  const { alice, room } = await aliceAndBob();
  const guests = await Promise.all(Array.from({ length: 6 }, (_, n) => server.user(`guest${n}`)));
  const add = (guest) => alice.update('Conversation', room.objectId, { participants: { __op: 'AddUnique', objects: [guest.pointer] } });
  await Promise.all(guests.map(add));
  for (const guest of guests) await guest.get('Conversation', room.objectId);
});
