// Live queries: subscribers at Tidings hear what is written through Parse Server, as if it were written at Tidings.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually, fresh, refused, startBoth } from './harness/index.js';

const { parse, tidings, database, device } = await startBoth({
  beforehand: async parse => {
    await parse.create('Existing', { n: 0 });
    await parse.master.createClass('Declared', { fields: { n: { type: 'Number' } } });
  },
});

const point = (latitude, longitude) => ({ __type: 'GeoPoint', latitude, longitude });

/** Changes tell what was before only where MongoDB keeps images of it, which Tidings asks it to. */
function keepsImages(className) {
  return eventually(async () => {
    const collection = await database.describe(className);
    assert.equal(collection?.options.changeStreamPreAndPostImages?.enabled, true, `${className} keeps no images`);
  });
}

/** Has Parse Server make the class, and waits until Tidings is ready for its changes. */
async function madeByParse(className, fields) {
  const { objectId } = await parse.create(className, fields);
  await keepsImages(className);
  return objectId;
}

test('create, update, leave, enter and delete, with the original', async () => {
  const alice = await device('alice', tidings);
  const className = fresh('Task');
  await madeByParse(className, { status: 'none' });
  const open = await alice.subscribe(className, { status: 'open' });

  const { objectId } = await parse.create(className, { status: 'open', title: 'Paint' });
  const created = await open.next('create', objectId);
  assert.deepEqual([created.object.title, created.original], ['Paint', undefined]);

  await parse.update(className, objectId, { title: 'Paint the door' });
  const updated = await open.next('update', objectId);
  assert.deepEqual([updated.original.title, updated.object.title], ['Paint', 'Paint the door']);

  await parse.update(className, objectId, { status: 'done' });
  const left = await open.next('leave', objectId);
  assert.deepEqual([left.original.status, left.object.status], ['open', 'done']);

  await parse.update(className, objectId, { title: 'Unseen' });
  await parse.update(className, objectId, { status: 'open' });
  const entered = await open.next('enter', objectId);
  assert.deepEqual([entered.original.status, entered.object.status], ['done', 'open']);
  assert.deepEqual([entered.original.title, entered.object.title], ['Unseen', 'Unseen']);

  await parse.destroy(className, objectId);
  const deleted = await open.next('delete', objectId);
  assert.equal(deleted.object.title, 'Unseen');
});

test('classes that were there before Tidings, with or without objects, are heard from the first moment', async () => {
  const alice = await device('alice', tidings);
  for (const className of ['Existing', 'Declared']) {
    const everything = await alice.subscribe(className);
    const { objectId } = await parse.create(className, { n: 1 });
    await everything.next('create', objectId);
    await parse.update(className, objectId, { n: 2 });
    const { object, original } = await everything.next('update', objectId);
    assert.deepEqual([original.n, object.n], [1, 2], className);
  }
});

test('a class that nobody has made yet can be waited for', async () => {
  const alice = await device('alice', tidings);
  const className = fresh('Future');
  const everything = await alice.subscribe(className);
  const objectId = await madeByParse(className, { n: 1 });
  await everything.next('create', objectId);
  await parse.update(className, objectId, { n: { __op: 'Increment', amount: 1 } });
  const { object, original } = await everything.next('update', objectId);
  assert.deepEqual([original.n, object.n], [1, 2]);
});

test('a class that was deleted and made anew is heard as before', async () => {
  const alice = await device('alice', tidings);
  for (const [maker, writer] of [[parse, parse], [tidings, parse], [parse, tidings]]) {
    const className = fresh('Phoenix');
    const { objectId: first } = await tidings.create(className, { n: 1 });
    await eventually(() => parse.destroy(className, first));
    await eventually(() => parse.master.deleteClass(className));
    await eventually(() => refused(tidings.master.schema(className), 103));

    const { objectId } = await maker.create(className, { n: 1 });
    await keepsImages(className);
    const everything = await alice.subscribe(className);
    await writer.update(className, objectId, { n: 2 });
    const { object, original } = await everything.next('update', objectId);
    assert.deepEqual([original.n, object.n], [1, 2]);
  }
});

test('an event’s object is the one that can be read, whatever its types', async () => {
  const alice = await device('alice', tidings);
  const className = fresh('Typed');
  await madeByParse(className, {});
  const everything = await alice.subscribe(className);
  // The write that brings the columns is told with their types.
  const { objectId } = await parse.create(className, {
    text: 'x', number: -1.5, big: Number.MAX_SAFE_INTEGER, flag: true, nothing: null, place: point(1, 2),
    day: { __type: 'Date', iso: '2026-01-02T03:04:05.678Z' }, bytes: { __type: 'Bytes', base64: 'AQI=' },
    list: [1, { a: [point(3, 4)] }], thing: { day: { __type: 'Date', iso: '1969-12-31T23:59:59.999Z' } },
    friend: { __type: 'Pointer', className: 'Friend', objectId: 'x' },
    area: { __type: 'Polygon', coordinates: [[0, 0], [0, 1], [1, 1], [0, 0]] },
    ACL: { '*': { read: true, write: true } },
  });
  const created = await everything.next('create', objectId);
  const read = await alice.get(className, objectId);
  assert.deepEqual(created.object, read);
  assert.deepEqual([read.place, read.friend.objectId], [point(1, 2), 'x']);

  await parse.update(className, objectId, { number: 2, place: { __op: 'Delete' } });
  const updated = await everything.next('update', objectId);
  assert.deepEqual(updated.original, created.object);
  assert.deepEqual(updated.object, await alice.get(className, objectId));
  assert.deepEqual([updated.object.place, updated.original.place], [undefined, point(1, 2)]);
});

test('events come to those who may read the object', async () => {
  const [alice, bob] = [await device(fresh('alice'), tidings), await device(fresh('bob'), tidings)];
  await Promise.all([alice.signUp(), bob.signUp()]);
  const className = fresh('Diary');
  await madeByParse(className, { text: 'for the class' });
  const [atAlice, atBob] = await Promise.all([alice.subscribe(className), bob.subscribe(className)]);
  const hers = { [alice.id]: { read: true, write: true } };

  const { objectId } = await parse.create(className, { text: 'secret', ACL: hers });
  await atAlice.next('create', objectId);
  const shared = { ACL: { ...hers, [bob.id]: { read: true } } };
  await parse.master.update(className, objectId, shared);
  await atAlice.next('update', objectId);
  const entered = await atBob.next('enter', objectId);
  assert.deepEqual([entered.object.text, entered.original], ['secret', undefined]);

  await parse.master.update(className, objectId, { text: 'secret again', ACL: hers });
  await atAlice.next('update', objectId);
  const left = await atBob.next('leave', objectId);
  assert.notEqual(left.object.text, 'secret again', 'what became of it is not for Bob');
});

test('a class that Parse Server closes is silent from then on', async () => {
  const alice = await device('alice', tidings);
  const [className, other] = [fresh('Closed'), fresh('Open')];
  await madeByParse(className, { n: 0 });
  await madeByParse(other, {});
  const [closed, open] = await Promise.all([alice.subscribe(className), alice.subscribe(other)]);
  const { classLevelPermissions } = await parse.master.schema(className);
  const { objectId: before } = await parse.create(className, { n: 1 });
  await closed.next('create', before);

  await parse.master.changeClass(className, { classLevelPermissions: { ...classLevelPermissions, find: {}, get: {} } });
  await parse.master.create(className, { n: 2 });
  // Whatever came before this would have come by now.
  const { objectId: fence } = await parse.create(other, {});
  await open.next('create', fence);
  await parse.master.changeClass(className, { classLevelPermissions });
  const { objectId: after } = await parse.create(className, { n: 3 });
  await closed.next('create', after);
});

test('a session that ends at Parse Server takes its subscriptions with it', async () => {
  const name = fresh('alice');
  const [alice, bob] = [await device(name, tidings), await device(fresh('bob'), tidings)];
  const atParse = await device(name, parse);
  await atParse.signUp();
  await Promise.all([alice.logIn(atParse), bob.signUp()]);
  const className = fresh('Note');
  await madeByParse(className, {});
  const [atAlice, atBob] = await Promise.all([alice.subscribe(className), bob.subscribe(className)]);

  await atParse.update('_User', atParse.id, { password: 'a new one' });
  await eventually(() => refused(alice.find(className), 209));
  const { objectId } = await parse.create(className, { text: 'for Bob' });
  await atBob.next('create', objectId);
  assert.deepEqual(atAlice.events, []);
});

test('of many writes at once none is lost, doubled or out of order', async t => {
  const alice = await device('alice', tidings);
  const className = fresh('Busy');
  const objectId = await madeByParse(className, { count: 0 });
  const everything = await alice.subscribe(className);
  const writes = 200;
  const writer = async server => {
    for (let n = 0; n < writes / 4; n += 1) await server.update(className, objectId, { count: { __op: 'Increment', amount: 1 } });
  };
  await Promise.all([writer(parse), writer(tidings), writer(parse), writer(tidings)]);
  const events = await everything.take(writes);
  const counts = events.map(({ event, original, object }) => [event, original.count, object.count]);
  assert.deepEqual(counts, Array.from({ length: writes }, (_, n) => ['update', n, n + 1]));
  t.diagnostic(`${writes} increments of one object through both servers, heard in their order`);
});

test('users and sessions of Parse Server are heard, without their secrets', async () => {
  const name = fresh('alice');
  const [phone, laptop] = [await device(name, parse), await device(name, tidings)];
  await phone.signUp();
  await keepsImages('_User');
  await keepsImages('_Session');
  await laptop.logIn();
  const [profile, sessions] = await Promise.all([laptop.subscribe('_User'), laptop.subscribe('_Session')]);

  await phone.update('_User', phone.id, { nickname: 'Al' });
  const { object, original } = await profile.next('update', phone.id);
  assert.deepEqual([object.nickname, original.nickname], ['Al', undefined]);
  const tablet = await device(name, parse);
  await tablet.logIn();
  const [{ event, object: session }] = await sessions.take(1);
  assert.deepEqual([event, session.user], ['create', { __type: 'Pointer', className: '_User', objectId: phone.id }]);
  for (const secret of ['password', '_hashed_password', '_session_token']) {
    assert.deepEqual([object[secret], original[secret], session[secret]], [undefined, undefined, undefined], secret);
  }
});
