// Accounts, sessions, and what one user may know about another.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { refused, say, startConversation, startServer } from './harness/index.js';

const server = await startServer();

test('a user signs up, logs in elsewhere and logs out', async () => {
  const alice = await server.user('alice');
  const phone = await server.visitor();
  await phone.logIn(alice);
  assert.equal(phone.id, alice.id);
  assert.notEqual(phone.sessionToken, alice.sessionToken);

  await phone.logOut();
  const me = await alice.run(async Parse => (await Parse.User.current().fetch()).get('username'));
  assert.equal(me, 'alice', 'the other device stays logged in');
});

test('names are unique, and a wrong password is refused', async () => {
  const alice = await server.user('alice');
  const other = await server.visitor();
  const signUpAs = name => other.run((Parse, username) => Parse.User.signUp(username, 'x'), name);
  await refused(signUpAs(alice.name), 202);
  await refused(signUpAs(alice.name.toUpperCase()), 202);
  await refused(other.logIn({ name: alice.name, password: 'wrong' }), 101);
  await refused(other.logIn({ name: 'nobody at all', password: 'wrong' }), 101);
});

test('people are found in any case', async () => {
  await server.user('Wilhelmina');
  const bob = await server.user('bob');
  const search = text => bob.run(async (Parse, part) => {
    const found = await new Parse.Query(Parse.User).matches('username', part, 'i').ascending('username').find();
    return found.map(user => user.get('username'));
  }, text);

  for (const text of ['wilhelmina', 'WILHELM', 'elmI', '^w.*a$']) assert.deepEqual(await search(text), ['Wilhelmina']);
  assert.deepEqual(await search('wilma'), []);
  const quoted = await bob.find('_User', { username: { $regex: '\\Qhelm\\E', $options: 'i' } });
  assert.deepEqual(quoted.map(user => user.username), ['Wilhelmina']);
});

test('an e-mail address is shown to its owner only', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const admin = await server.admin();

  const found = await bob.get('_User', alice.id);
  assert.equal(found.username, alice.name);
  for (const secret of ['email', 'authData', 'password', 'sessionToken', '_hashed_password']) {
    assert.equal(found[secret], undefined, secret);
  }
  assert.equal((await alice.get('_User', alice.id)).email, alice.email);
  assert.equal((await admin.get('_User', alice.id)).email, alice.email);
});

test('an e-mail address cannot be guessed through a query', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  await refused(bob.find('_User', { email: alice.email }), 119);
  await refused(bob.find('_User', { email: { $regex: '^a' } }), 119);
  await refused(bob.find('_User', { $or: [{ email: alice.email }, { username: 'x' }] }), 119);
  await refused(bob.count('_User', { email: { $exists: true } }), 119);
  await refused(bob.find('_User', {}, { order: 'email' }), 119);
  await refused(bob.subscribe('_User', { email: alice.email }), 119);
});

test('an e-mail address is in no live event for others', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const profile = await bob.subscribe('_User', { objectId: alice.id });
  await alice.update('_User', alice.id, { email: 'new@example.com', displayName: 'Alice A.' });
  const { object, original } = await profile.next('update', alice.id);
  assert.equal(object.displayName, 'Alice A.');
  assert.equal(object.email, undefined);
  assert.equal(original.email, undefined);
});

test('nobody edits the profile of another', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const nobody = await server.visitor();
  for (const other of [bob, nobody]) {
    await refused(other.update('_User', alice.id, { displayName: 'Mallory' }), 101, 119, 206);
    await refused(other.destroy('_User', alice.id), 101, 119, 206);
  }
});

test('outsiders cannot see sessions', async () => {
  const alice = await server.user('alice');
  const mallory = await server.user('mallory');
  const nobody = await server.visitor();
  const sessionOf = user => user.run(async Parse => (await Parse.Session.current()).id);
  const [alices, mallorys] = [await sessionOf(alice), await sessionOf(mallory)];

  const seen = await mallory.find('_Session');
  assert.deepEqual(seen.map(session => session.objectId), [mallorys]);
  await refused(mallory.get('_Session', alices), 101);
  await refused(mallory.destroy('_Session', alices), 101, 119);
  await refused(nobody.find('_Session'), 209);
});

test('a live query on sessions shows one’s own only', async () => {
  const alice = await server.user('alice');
  const mallory = await server.user('mallory');
  const sessions = await mallory.subscribe('_Session');

  const phone = await server.visitor();
  await phone.logIn(alice);
  const tablet = await server.visitor();
  await tablet.logIn(mallory);
  const [{ event, object }] = await sessions.take(1);
  assert.equal(event, 'create');
  assert.deepEqual(object.user.objectId, mallory.id);
});

test('a wrong or ended session is refused', async () => {
  const alice = await server.user('alice');
  const { sessionToken } = alice;
  const other = await server.visitor();
  const findWith = token => other.run(
    (Parse, sessionToken) => new Parse.Query('Conversation').find({ sessionToken }), token);

  await findWith(sessionToken);
  await refused(findWith(`r:${'0'.repeat(32)}`), 209);
  await refused(findWith(`${sessionToken}x`), 209);
  await refused(other.run((Parse, token) => Parse.User.become(token), 'r:forged'), 209);

  await alice.logOut();
  await refused(findWith(sessionToken), 209);
});

test('an anonymous user chats like any other', async () => {
  const alice = await server.user('alice');
  const guest = await server.visitor('guest');
  guest.id = await guest.run(async Parse => (await Parse.AnonymousUtils.logIn()).id);

  const list = await alice.subscribe('Conversation', { participants: alice.pointer });
  const room = await startConversation(guest, alice);
  await list.next('create', room.objectId);
  await say(guest, room, 'Just passing by');
  const { object } = await list.next('update', room.objectId);
  assert.equal(object.lastMessage, 'Just passing by');

  const profile = await alice.get('_User', guest.id);
  assert.equal(profile.authData, undefined);
});
