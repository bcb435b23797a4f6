// Accounts and sessions: a user of one server is a user of the other.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { eventually, fresh, refused, startBoth } from './harness/index.js';

// Parse Server looks at a session it knows again after this time only (5 s, unless told otherwise).
const mfa = { enabled: true, options: ['TOTP'], algorithm: 'SHA1', digits: 6, period: 30 };
const parseOptions = { cacheTTL: 200, auth: { mfa } };
const { parse, tidings, database, device, bothWays } = await startBoth({ parseOptions });

/** Somebody who has just signed up at this server. */
async function signedUp(server, name = fresh('user')) {
  const fields = { username: name, password: `${name}'s password`, email: `${name}@example.com` };
  const { objectId, sessionToken } = await server.signUp(fields);
  return { ...fields, objectId, sessionToken };
}

const only = (id, rights) => ({ [id]: rights });

bothWays('a user signs up, and logs in at the other server by name or by e-mail', async (first, second) => {
  const { username, password, email, objectId } = await signedUp(first);
  for (const name of [{ username }, { email }, { username: email }]) {
    const loggedIn = await second.logIn({ ...name, password });
    assert.deepEqual([loggedIn.objectId, loggedIn.username, loggedIn.email], [objectId, username, email]);
    assert.equal((await second.as(loggedIn.sessionToken).me()).objectId, objectId);
  }
  await refused(second.logIn({ username, password: 'wrong' }), 101);
});

bothWays('the SDK logs in a user of the other server', async (first, second) => {
  const name = fresh('alice');
  const [phone, laptop] = [await device(name, first), await device(name, second)];
  await phone.signUp();
  await laptop.logIn();
  assert.equal(laptop.id, phone.id);
  await laptop.update('_User', laptop.id, { nickname: 'Al' });
  assert.equal((await phone.get('_User', phone.id)).nickname, 'Al');
});

bothWays('a session of one server is one of the other', async (first, second) => {
  const { objectId, username, sessionToken } = await signedUp(first);
  const me = await second.as(sessionToken).me();
  assert.deepEqual([me.objectId, me.username, me.sessionToken], [objectId, username, sessionToken]);

  const sessions = await second.as(sessionToken).find('_Session');
  assert.deepEqual(sessions.map(session => [session.sessionToken, session.user.objectId]), [[sessionToken, objectId]]);
  await second.as(sessionToken).update('_User', objectId, { nickname: 'from there' });
  assert.equal((await first.as(sessionToken).me()).nickname, 'from there');
});

test('no token is made up', async () => {
  const { sessionToken } = await signedUp(parse);
  for (const token of ['r:00000000000000000000000000000000', sessionToken.toUpperCase(), `${sessionToken}0`, 'r:', 'x']) {
    for (const server of [parse, tidings]) await refused(server.as(token).me(), 209);
  }
});

bothWays('logging out of one ends the session at the other', async (first, second) => {
  const { sessionToken } = await signedUp(first);
  await second.as(sessionToken).me();
  await first.as(sessionToken).logOut();
  await eventually(() => refused(second.as(sessionToken).me(), 209));
});

bothWays('logging out of the other ends the session, too', async (first, second) => {
  const { sessionToken } = await signedUp(first);
  await second.as(sessionToken).logOut();
  await eventually(() => refused(first.as(sessionToken).me(), 209));
});

bothWays('a new password ends all sessions, and the old password', async (first, second) => {
  const { objectId, username, password, sessionToken } = await signedUp(first);
  const elsewhere = await second.logIn({ username, password });
  const changed = await first.as(sessionToken).update('_User', objectId, { password: 'a new one' });

  for (const token of [sessionToken, elsewhere.sessionToken]) {
    for (const server of [first, second]) await eventually(() => refused(server.as(token).me(), 209));
  }
  assert.equal((await first.as(changed.sessionToken).me()).objectId, objectId, 'whoever changed it goes on');
  for (const server of [first, second]) {
    await refused(server.logIn({ username, password }), 101);
    assert.equal((await server.logIn({ username, password: 'a new one' })).objectId, objectId);
  }
});

bothWays('a new password or address makes the link in an older message worthless', async first => {
  const change = { password: 'a new one', email: `${fresh('new')}@example.com` };
  for (const [name, value] of Object.entries(change)) {
    const { objectId, sessionToken } = await signedUp(first);
    const link = { _perishable_token: 'in a message', _perishable_token_expires_at: new Date(Date.now() + 3_600_000) };
    await database.rows('_User').updateOne({ _id: objectId }, { $set: link });
    await first.as(sessionToken).update('_User', objectId, { [name]: value });
    const row = await database.rows('_User').findOne({ _id: objectId });
    for (const field of Object.keys(link)) assert.equal(row[field], undefined, `${field} after a new ${name}`);
  }
});

bothWays('a name that is an address of another is a name', async (first, second) => {
  const [shared, password] = [`${fresh('shared')}@example.com`, 'x'];
  const bob = await first.signUp({ username: fresh('bob'), password: 'bob', email: shared });
  const carol = await first.signUp({ username: shared, password });
  for (const server of [first, second]) {
    assert.equal((await server.logIn({ username: shared, password })).objectId, carol.objectId);
    assert.equal((await server.logIn({ email: shared, password: 'bob' })).objectId, bob.objectId);
    await refused(server.logIn({ username: shared, password: 'bob' }), 101);
  }
});

test('users of providers that only Parse Server knows are shown to themselves', async () => {
  const { objectId, sessionToken } = await signedUp(parse);
  await database.rows('_User').updateOne({ _id: objectId }, { $set: { _auth_data_custom: { id: 'c1', n: 1 } } });
  for (const server of [parse, tidings]) {
    const shown = await eventually(async () => {
      const { authData } = await server.as(sessionToken).me();
      assert.ok(authData);
      return authData;
    });
    assert.deepEqual(shown, { custom: { id: 'c1', n: 1 } }, server.name);
    assert.deepEqual((await server.master.get('_User', objectId)).authData, shown, server.name);
    assert.equal((await server.master.find('_User', { 'authData.custom.id': 'c1' })).length, 1, server.name);
  }
});

test('a second factor of Parse Server keeps its secrets, and cannot be passed by', async () => {
  const { objectId, sessionToken, username, password } = await signedUp(parse);
  const factor = { secret: 'JBSWY3DPEHPK3PXPJBSW', recovery: ['one', 'two'] };
  await database.rows('_User').updateOne({ _id: objectId }, { $set: { _auth_data_mfa: factor } });
  for (const server of [parse, tidings]) {
    const shown = await eventually(async () => {
      const { authData } = await server.as(sessionToken).me();
      assert.ok(authData);
      return authData;
    });
    assert.deepEqual(shown, { mfa: { status: 'enabled' } }, server.name);
    assert.deepEqual((await server.master.get('_User', objectId)).authData, { mfa: factor }, server.name);
    await refused(server.logIn({ username, password }), -1);
  }
});

bothWays('a log-in from the same installation ends the one before', async (first, second) => {
  const { username, password } = await signedUp(first);
  const installation = randomUUID();
  const before = await first.from(installation).logIn({ username, password });
  const now = await second.from(installation).logIn({ username, password });
  await eventually(() => refused(first.as(before.sessionToken).me(), 209));
  await second.as(now.sessionToken).me();
});

bothWays('a user who is deleted has no session left', async (first, second) => {
  const { objectId, username, password, sessionToken } = await signedUp(first);
  const elsewhere = await second.logIn({ username, password });
  await first.as(sessionToken).destroy('_User', objectId);
  for (const token of [sessionToken, elsewhere.sessionToken]) {
    await eventually(() => refused(second.as(token).me(), 209));
  }
  await refused(second.logIn({ username, password }), 101);
});

bothWays('names and e-mail addresses are taken at both, in any case', async (first, second) => {
  const { username, email } = await signedUp(first);
  const taken = async (fields, code) => {
    await refused(second.signUp({ username: fresh('other'), password: 'x', ...fields }), code);
    const other = await signedUp(second);
    await refused(second.as(other.sessionToken).update('_User', other.objectId, fields), code);
  };
  await taken({ username }, 202);
  await taken({ username: username.toUpperCase() }, 202);
  await taken({ email }, 203);
  await taken({ email: email.toUpperCase() }, 203);
});

test('of two who ask for one name at the same time, one gets it', async () => {
  for (let round = 0; round < 8; round += 1) {
    const username = fresh('wanted');
    const answers = await Promise.allSettled([parse, tidings].map(server => server.signUp({ username, password: 'x' })));
    const codes = answers.map(({ reason }) => reason?.code).filter(Boolean);
    assert.deepEqual(codes, [202], JSON.stringify(answers.map(({ value, reason }) => value ?? reason.message)));
    assert.equal(await database.rows('_User').countDocuments({ username }), 1);
  }
});

bothWays('a new name and address hold at both', async (first, second) => {
  const user = await signedUp(first);
  const [username, email] = [fresh('renamed'), `${fresh('new')}@example.com`];
  await first.as(user.sessionToken).update('_User', user.objectId, { username, email });
  await refused(second.logIn({ username: user.username, password: user.password }), 101);
  assert.equal((await second.logIn({ username, password: user.password })).email, email);
  assert.equal((await second.signUp({ username: user.username, password: 'x', email: user.email })).objectId.length, 10, 'the old ones are free');
});

bothWays('a guest is the same guest at the other server, and becomes a user there', async (first, second) => {
  const guest = { authData: { anonymous: { id: randomUUID() } } };
  const { objectId, sessionToken } = await first.signUp(guest);
  const [{ createdWith }] = await first.as(sessionToken).find('_Session');
  assert.deepEqual(createdWith, { action: 'login', authProvider: 'anonymous' });
  const again = await second.signUp(guest);
  assert.equal(again.objectId, objectId);
  assert.deepEqual((await first.as(sessionToken).me()).authData, guest.authData);
  assert.deepEqual((await second.as(again.sessionToken).me()).authData, guest.authData);

  const username = fresh('named');
  await second.as(again.sessionToken).update('_User', objectId, { username, password: 'x', authData: { anonymous: null } });
  assert.equal((await first.logIn({ username, password: 'x' })).objectId, objectId);
  assert.notEqual((await first.signUp(guest)).objectId, objectId, 'the guest is no more');
});

test('of two who come as one guest at the same time, both are the same', async () => {
  for (let round = 0; round < 4; round += 1) {
    const guest = { authData: { anonymous: { id: randomUUID() } } };
    await Promise.allSettled([parse, tidings].map(server => server.signUp(guest)));
    assert.equal(await database.rows('_User').countDocuments({ '_auth_data_anonymous.id': guest.authData.anonymous.id }), 1);
  }
});

bothWays('a user is private to others at both', async (first, second) => {
  const alice = await signedUp(first);
  const bob = await signedUp(second);
  await refused(second.as(bob.sessionToken).get('_User', alice.objectId), 101);
  assert.deepEqual(await second.find('_User', { objectId: alice.objectId }), []);
  await refused(second.as(bob.sessionToken).update('_User', alice.objectId, { nickname: 'Mallory' }), 101, 206);
  await refused(second.as(bob.sessionToken).find('_User', { email: alice.email }), 119);

  await first.as(alice.sessionToken).update('_User', alice.objectId, { ACL: { '*': { read: true } } });
  for (const server of [first, second]) {
    const [{ username, email }] = await server.find('_User', { objectId: alice.objectId });
    assert.deepEqual([username, email], [alice.username, undefined], server.name);
    const row = await server.master.get('_User', alice.objectId);
    assert.equal(row.email, alice.email);
    assert.equal(row._hashed_password ?? row.password, undefined);
  }
});

bothWays('an ACL that one sets, the other keeps', async (first, second) => {
  const alice = await signedUp(first);
  const bob = await signedUp(first);
  const at = async (server, user) => server.as((await server.logIn(user)).sessionToken);
  const [aliceThere, bobThere] = [await at(second, alice), await at(second, bob)];
  const className = fresh('Diary');
  const hers = { ...only(alice.objectId, { read: true, write: true }) };

  const { objectId } = await first.as(alice.sessionToken).create(className, { text: 'secret', ACL: hers });
  await eventually(() => aliceThere.get(className, objectId));
  for (const somebody of [bobThere, second]) {
    await refused(somebody.get(className, objectId), 101);
    await refused(somebody.update(className, objectId, { text: 'x' }), 101);
    await refused(somebody.destroy(className, objectId), 101);
    assert.deepEqual(await somebody.find(className), []);
    assert.equal(await somebody.count(className), 0);
  }

  await aliceThere.update(className, objectId, { ACL: { ...hers, ...only(bob.objectId, { read: true }) } });
  for (const somebody of [bobThere, first.as(bob.sessionToken)]) {
    assert.equal((await somebody.get(className, objectId)).text, 'secret');
    await refused(somebody.update(className, objectId, { text: 'x' }), 101);
  }
  await aliceThere.update(className, objectId, { ACL: { '*': { read: true }, ...only(bob.objectId, { write: true }) } });
  await first.as(bob.sessionToken).update(className, objectId, { text: 'by Bob' });
  await refused(first.as(alice.sessionToken).update(className, objectId, { text: 'x' }), 101);
  assert.equal((await second.get(className, objectId)).text, 'by Bob');
});
