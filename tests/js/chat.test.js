// The chat, told from the start: two users talk, an outsider sees nothing of it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { idsOf, inside, pointerTo, refused, say, startConversation, startServer } from './harness/index.js';

const server = await startServer();

test('two users talk, each message arrives once and in order', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const room = await startConversation(alice, bob);

  const atAlice = await alice.subscribe('Message', inside(room));
  const atBob = await bob.subscribe('Message', inside(room));

  const hello = await say(alice, room, 'Hello Bob');
  const answer = await say(bob, room, 'Hello Alice');
  const question = await say(alice, room, 'Lunch?');

  for (const inbox of [atAlice, atBob]) {
    const { object } = await inbox.next('create', hello.objectId);
    assert.equal(object.text, 'Hello Bob');
    assert.deepEqual(object.sender, alice.pointer, 'the server names the sender');
    assert.deepEqual(object.conversation, pointerTo(room));
    await inbox.next('create', answer.objectId);
    await inbox.next('create', question.objectId);
  }

  const history = await bob.find('Message', inside(room), { order: '-createdAt', limit: 2 });
  assert.deepEqual(history.map(message => message.text), ['Lunch?', 'Hello Alice']);
});

test('a conversation appears in the list of the one it was started with, and follows its last message', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const list = await bob.subscribe('Conversation', { participants: bob.pointer });

  const room = await startConversation(alice, bob);
  await list.next('create', room.objectId);

  const message = await say(alice, room, 'Are you there?');
  const { object, original } = await list.next('update', room.objectId);
  assert.equal(object.lastMessage, 'Are you there?');
  assert.equal(object.lastMessageAt.iso, message.createdAt);
  assert.equal(original.lastMessage, undefined);
});

test('a conversation is reopened, not made twice', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const carol = await server.user('carol');
  const room = await startConversation(alice, bob);
  await startConversation(alice, carol);

  const both = { participants: { $all: [bob.pointer, alice.pointer] } };
  assert.deepEqual(idsOf(await bob.find('Conversation', both)), [room.objectId]);
  assert.deepEqual(await carol.find('Conversation', both), []);
});

test('each sees who else is typing', async () => {
  const [alice, bob, carol] = await Promise.all(['alice', 'bob', 'carol'].map(name => server.user(name)));
  const room = await startConversation(alice, bob, carol);
  const atAlice = await alice.subscribe('TypingStatus', { ...inside(room), isTyping: true });

  const typing = user => user.create('TypingStatus', { ...inside(room), isTyping: true });
  const bobs = await typing(bob);
  const { object } = await atAlice.next('create', bobs.objectId);
  assert.deepEqual(object.user, bob.pointer, 'the server names the user');
  const carols = await typing(carol);
  await atAlice.next('create', carols.objectId);

  await bob.update('TypingStatus', bobs.objectId, { isTyping: false });
  await atAlice.next('leave', bobs.objectId);
  await bob.update('TypingStatus', bobs.objectId, { isTyping: true });
  await atAlice.next('enter', bobs.objectId);
});

test('an outsider finds nothing of a conversation', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const mallory = await server.user('mallory');
  const nobody = await server.visitor();
  const room = await startConversation(alice, bob);
  const message = await say(alice, room, 'Just between us');
  await bob.create('TypingStatus', { ...inside(room), isTyping: true });

  for (const outsider of [mallory, nobody]) {
    await refused(outsider.get('Conversation', room.objectId), 101);
    await refused(outsider.get('Message', message.objectId), 101);
    assert.deepEqual(await outsider.find('Message', inside(room)), []);
    assert.deepEqual(await outsider.find('Message', { text: { $regex: 'between' } }), []);
    assert.deepEqual(await outsider.find('TypingStatus', inside(room)), []);
    assert.equal(await outsider.count('Message', inside(room)), 0);
  }
});

test('an outsider hears nothing of a conversation', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const mallory = await server.user('mallory');
  const classes = ['Conversation', 'Message', 'TypingStatus'];
  const [conversations, messages, typing] = await Promise.all(classes.map(name => mallory.subscribe(name)));

  const room = await startConversation(alice, bob);
  await say(alice, room, 'Just between us');
  await bob.create('TypingStatus', { ...inside(room), isTyping: true });

  // Her own come next, so none of theirs came before.
  const own = await startConversation(mallory);
  await conversations.next('create', own.objectId);
  const note = await say(mallory, own, 'Note to self');
  await messages.next('create', note.objectId);
  const status = await mallory.create('TypingStatus', { ...inside(own), isTyping: true });
  await typing.next('create', status.objectId);
});

test('who joins later reads what is said from then on, who leaves hears no more', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const carol = await server.user('carol');
  const room = await startConversation(alice, bob);
  const early = await say(alice, room, 'Before Carol');
  const list = await carol.subscribe('Conversation', { participants: carol.pointer });
  const messages = await carol.subscribe('Message');
  const participantsAre = (...users) =>
    alice.update('Conversation', room.objectId, { participants: users.map(user => user.pointer) });

  await participantsAre(alice, bob, carol);
  await list.next('enter', room.objectId);
  const welcome = await say(bob, room, 'Welcome Carol');
  await messages.next('create', welcome.objectId);
  await list.next('update', room.objectId);
  assert.deepEqual(idsOf(await carol.find('Message', inside(room))), [welcome.objectId]);
  await refused(carol.get('Message', early.objectId), 101);

  await participantsAre(alice, bob);
  await list.next('leave', room.objectId);
  await say(alice, room, 'After Carol');
  const own = await startConversation(carol);
  const note = await say(carol, own, 'Alone again');
  await messages.next('create', note.objectId);
  await list.next('create', own.objectId);
});
