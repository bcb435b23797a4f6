// Storing and finding, the way a chat needs it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { idsOf, inside, refused, say, startConversation, startServer } from './harness/index.js';

const server = await startServer();

test('saveAll and destroyAll', async () => {
  const alice = await server.user('alice');
  const saved = await alice.run(Parse => {
    const notes = Array.from({ length: 45 }, (_, n) => new Parse.Object('Note', { n }));
    return Parse.Object.saveAll(notes);
  });
  assert.equal(await alice.count('Note'), 45);

  await alice.run((Parse, ids) => {
    const notes = ids.map(objectId => Parse.Object.fromJSON({ className: 'Note', objectId }));
    return Parse.Object.destroyAll(notes);
  }, saved.slice(0, 40).map(note => note.objectId));
  const left = await alice.find('Note', {}, { order: 'n' });
  assert.deepEqual(left.map(note => note.n), [40, 41, 42, 43, 44]);
});

test('in a batch each stands for itself', async () => {
  const alice = await server.user('alice');
  const room = await startConversation(alice);
  const sending = alice.run((Parse, conversation) => {
    const messages = ['Fine', ' ', 'Fine as well'].map(text => {
      return new Parse.Object('Message', { conversation: Parse._decode('', conversation), text });
    });
    return Parse.Object.saveAll(messages);
  }, inside(room).conversation);
  await refused(sending, 142);
  const stored = await alice.find('Message', inside(room));
  assert.deepEqual(stored.map(message => message.text).sort(), ['Fine', 'Fine as well']);
});

test('saveAll and destroyAll in a transaction are done whole or not at all', async () => {
  const alice = await server.user('alice');
  const room = await startConversation(alice);
  const saved = await alice.run(Parse => {
    const entries = [1, 2, 3].map(n => new Parse.Object('Entry', { n }));
    return Parse.Object.saveAll(entries, { transaction: true });
  });
  const entries = async () => (await alice.find('Entry', {}, { order: 'n' })).map(entry => entry.n);
  assert.deepEqual(saved.map(entry => entry.n), [1, 2, 3]);
  assert.deepEqual(await entries(), [1, 2, 3]);

  // The blank message is refused by its hook, and what stands before and after it is not done.
  const ids = saved.map(entry => entry.objectId);
  const saving = alice.run((Parse, [id], conversation) => {
    const entry = Parse.Object.fromJSON({ className: 'Entry', objectId: id });
    const blank = new Parse.Object('Message', { conversation: Parse._decode('', conversation), text: ' ' });
    const all = [entry.increment('n', 10), blank, new Parse.Object('Entry', { n: 4 })];
    // The SDK fails with a list, the same error for each object.
    return Parse.Object.saveAll(all, { transaction: true }).catch(([error]) => Promise.reject(error));
  }, ids, inside(room).conversation);
  // In saveAll, and nowhere else, the SDK puts its own code in the place of any refused batch's. The words are ours.
  const { message } = await refused(saving, 111);
  assert.match(message, /A message needs text/);
  assert.deepEqual(await entries(), [1, 2, 3]);
  assert.deepEqual(await alice.find('Message', inside(room)), []);

  const destroying = (Parse, ids) => {
    const entries = ids.map(objectId => Parse.Object.fromJSON({ className: 'Entry', objectId }));
    return Parse.Object.destroyAll(entries, { transaction: true });
  };
  await refused(alice.run(destroying, [...ids, 'nothing']), 101);
  assert.deepEqual(await entries(), [1, 2, 3]);
  await alice.run(destroying, ids);
  assert.deepEqual(await entries(), []);
});

test('a message is fetched with its sender and the participants of its conversation', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const room = await startConversation(alice, bob);
  await say(alice, room, 'Hello');

  const [message] = await bob.find('Message', inside(room), { include: 'sender,conversation.participants' });
  assert.equal(message.sender.username, alice.name);
  assert.equal(message.sender.email, undefined, 'an included user shows no more than a found one');
  assert.deepEqual(message.conversation.participants.map(user => user.username), [alice.name, bob.name]);
});

test('counting counts what one may read', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const room = await startConversation(alice, bob);
  const own = await startConversation(alice);
  await say(alice, room, 'For both');
  await say(alice, room, 'For both again');
  await say(alice, own, 'For Alice');
  assert.equal(await alice.count('Message', { sender: alice.pointer }), 3);
  assert.equal(await bob.count('Message', { sender: alice.pointer }), 2);
});

test('history comes page by page, newest first', async () => {
  const alice = await server.user('alice');
  const admin = await server.admin();
  const room = await startConversation(alice);
  const other = await startConversation(alice);
  for (let n = 0; n < 7; n++) {
    for (const conversation of [room, other]) {
      await admin.create('Message', { ...inside(conversation), sender: alice.pointer, text: `Message ${n}` });
    }
  }
  const page = before => alice.find('Message', { ...inside(room), ...before }, { order: '-createdAt', limit: 3 });

  const newest = await page();
  assert.deepEqual(newest.map(message => message.text), ['Message 6', 'Message 5', 'Message 4']);
  const older = await page({ createdAt: { $lt: { __type: 'Date', iso: newest.at(-1).createdAt } } });
  assert.deepEqual(older.map(message => message.text), ['Message 3', 'Message 2', 'Message 1']);
  const oldest = await page({ createdAt: { $lt: { __type: 'Date', iso: older.at(-1).createdAt } } });
  assert.deepEqual(oldest.map(message => message.text), ['Message 0']);
});

test('increments and list operations from many sides add up', async () => {
  const users = await Promise.all(['alice', 'bob', 'carol'].map(name => server.user(name)));
  const counter = await users[0].create('Counter', { count: 0, names: [] });
  await Promise.all(users.map(user => user.run(async (Parse, objectId, name) => {
    const saves = Array.from({ length: 20 }, () => {
      const counter = Parse.Object.fromJSON({ className: 'Counter', objectId });
      counter.increment('count');
      counter.addUnique('names', name);
      return counter.save();
    });
    await Promise.all(saves);
  }, counter.objectId, user.name)));

  const { count, names } = await users[0].get('Counter', counter.objectId);
  assert.equal(count, 60);
  assert.deepEqual(names.sort(), users.map(user => user.name).sort());
});

test('every type comes back as it was stored', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const fields = {
    text: 'naïve 👋',
    number: 1.5,
    flag: true,
    nothing: null,
    list: [1, 'two', { three: 3 }],
    map: { deep: { deeper: [true] } },
    at: { __type: 'Date', iso: '2026-01-02T03:04:05.678Z' },
    friend: bob.pointer,
    place: { __type: 'GeoPoint', latitude: 47.5, longitude: 8.25 },
  };
  const { objectId } = await alice.create('Everything', fields);
  const stored = await alice.get('Everything', objectId);
  for (const [name, value] of Object.entries(fields)) assert.deepEqual(stored[name], value, name);
  assert.deepEqual(idsOf(await alice.find('Everything', { friend: bob.pointer, at: fields.at })), [objectId]);
});

test('a relation has members, and is asked for them both ways', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const id = await alice.run(async (Parse, users) => {
    const [first, second] = users.map(({ objectId }) => Parse.User.createWithoutData(objectId));
    const list = new Parse.Object('GuestList');
    list.relation('guests').add([first, second]);
    await list.save();
    list.relation('guests').remove(first);
    list.relation('guests').add(first);
    list.set('title', 'Party');
    await list.save();
    list.relation('guests').remove(second);
    await list.save();
    return list.id;
  }, [alice.pointer, bob.pointer]);
  const found = await bob.run(async (Parse, id, user) => {
    const list = await new Parse.Query('GuestList').get(id);
    // Neither of these relations was told of what class its members are.
    const guests = await list.relation('guests').query().find();
    const unknown = await Parse.Object.createWithoutData.call(Parse.Object.extend('GuestList'), id).relation('guests').query().count();
    const lists = await new Parse.Query('GuestList').equalTo('guests', Parse.User.createWithoutData(user)).find();
    return { guests: guests.map(guest => guest.id), unknown, lists: lists.map(list => list.get('title')) };
  }, id, alice.pointer.objectId);
  assert.deepEqual(found, { guests: [alice.pointer.objectId], unknown: 1, lists: ['Party'] });
});

test('the distinct values of a field are for the master key', async () => {
  const alice = await server.user('alice');
  const admin = await server.admin();
  const at = { __type: 'Date', iso: '2026-01-02T03:04:05.678Z' };
  await admin.create('Visit', { city: 'Rome', tags: ['a', 'b'], at, guest: alice.pointer, nights: 1 });
  await admin.create('Visit', { city: 'Bonn', tags: ['b', 'c'], at, guest: null, nights: 2 });
  await admin.create('Visit', { city: 'Rome', nights: 3 });
  const distinct = (user, field, most) => user.run(
    (Parse, field, most) => new Parse.Query('Visit').lessThanOrEqualTo('nights', most).distinct(field), field, most,
  );
  assert.deepEqual(await distinct(admin, 'city', 3), ['Bonn', 'Rome']);
  assert.deepEqual(await distinct(admin, 'city', 1), ['Rome']);
  assert.deepEqual(await distinct(admin, 'tags', 3), ['a', 'b', 'c']);
  assert.deepEqual(await distinct(admin, 'at', 3), [at]);
  assert.deepEqual(await distinct(admin, 'guest', 3), [alice.pointer]);
  assert.deepEqual(await distinct(admin, 'nothing', 3), []);
  await assert.rejects(distinct(alice, 'city', 3), /master/i, 'the SDK itself refuses without the key');
  const aggregate = admin.run(Parse => new Parse.Query('Visit').aggregate([{ $group: { _id: '$city' } }]));
  await refused(aggregate, 108);
});
