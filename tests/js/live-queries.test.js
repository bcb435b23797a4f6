// Live queries in general, on a class without hooks.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { idsOf, refused, startServer } from './harness/index.js';

const server = await startServer();

test('enter, update, leave and delete, with the original', async () => {
  const alice = await server.user('alice');
  const open = await alice.subscribe('Task', { status: 'open' });
  const setStatus = (id, status) => alice.update('Task', id, { status });

  const task = await alice.create('Task', { status: 'open', title: 'Paint' });
  const created = await open.next('create', task.objectId);
  assert.equal(created.original, undefined);

  await alice.update('Task', task.objectId, { title: 'Paint the door' });
  const updated = await open.next('update', task.objectId);
  assert.deepEqual([updated.original.title, updated.object.title], ['Paint', 'Paint the door']);

  await setStatus(task.objectId, 'done');
  const left = await open.next('leave', task.objectId);
  assert.deepEqual([left.original.status, left.object.status], ['open', 'done']);

  await alice.update('Task', task.objectId, { title: 'Unseen' });
  await setStatus(task.objectId, 'open');
  const entered = await open.next('enter', task.objectId);
  assert.deepEqual([entered.original.status, entered.object.status], ['done', 'open']);

  await alice.destroy('Task', task.objectId);
  const deleted = await open.next('delete', task.objectId);
  assert.equal(deleted.original, undefined);
});

test('an object that becomes readable enters, one that becomes private leaves and reveals nothing new', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  const atBob = await bob.subscribe('Diary');
  const hers = { [alice.id]: { read: true, write: true } };
  const shared = { ...hers, [bob.id]: { read: true } };

  const page = await alice.create('Diary', { text: 'Secret', ACL: hers });
  await alice.update('Diary', page.objectId, { text: 'Shared', ACL: shared });
  const entered = await atBob.next('enter', page.objectId);
  assert.equal(entered.object.text, 'Shared');
  assert.equal(entered.original, undefined, 'what it was before is not for Bob');

  await alice.update('Diary', page.objectId, { text: 'Secret again', ACL: hers });
  const left = await atBob.next('leave', page.objectId);
  assert.notEqual(left.object.text, 'Secret again');
});

test('subscription.find() answers with a result', async () => {
  const alice = await server.user('alice');
  const bob = await server.user('bob');
  await alice.create('Plant', { kind: 'tree', name: 'Oak' });
  const elm = await alice.create('Plant', { kind: 'tree', name: 'Elm' });
  await alice.create('Plant', { kind: 'herb', name: 'Mint' });

  const trees = await bob.subscribe('Plant', { kind: 'tree' });
  const names = async () => (await trees.find()).map(plant => plant.name).sort();
  assert.deepEqual(await names(), ['Elm', 'Oak']);
  await alice.destroy('Plant', elm.objectId);
  await trees.next('delete', elm.objectId);
  assert.deepEqual(await names(), ['Oak']);
});

test('events hold the fields that were asked for, and come for the fields that are watched', async () => {
  const alice = await server.user('alice');
  const slim = await alice.subscribe('Book', {}, { keys: 'title' });
  const watching = await alice.subscribe('Book', {}, { watch: 'title' });

  const book = await alice.create('Book', { title: 'Emma', pages: 474 });
  const { object } = await slim.next('create', book.objectId);
  assert.deepEqual([object.title, object.pages], ['Emma', undefined]);
  await watching.next('create', book.objectId);

  await alice.update('Book', book.objectId, { pages: 480 });
  await alice.update('Book', book.objectId, { title: 'Emma, revised' });
  const { original } = await watching.next('update', book.objectId);
  assert.equal(original.pages, 480, 'the change of pages alone was not told');
});

test('many writers at once: everything arrives exactly once', async () => {
  const writers = await Promise.all([1, 2, 3, 4].map(() => server.user('writer')));
  const reader = await server.user('reader');
  const atReader = await reader.subscribe('Tick');

  const written = await Promise.all(writers.map(writer => writer.run(async Parse => {
    const ticks = [];
    for (let n = 0; n < 25; n++) ticks.push(new Parse.Object('Tick').save({ n }));
    return (await Promise.all(ticks)).map(tick => tick.id);
  })));
  const events = await atReader.take(100);
  assert.deepEqual(events.map(({ object }) => object.objectId).sort(), written.flat().sort());

  const last = await reader.create('Tick', { n: -1 });
  await atReader.next('create', last.objectId);
});

test('one writer’s objects arrive in the order they were written', async () => {
  const writer = await server.user('writer');
  const reader = await server.user('reader');
  const atReader = await reader.subscribe('Step');
  await writer.run(async Parse => {
    for (let n = 0; n < 50; n++) await new Parse.Object('Step').save({ n });
  });
  const events = await atReader.take(50);
  assert.deepEqual(events.map(({ object }) => object.n), Array.from({ length: 50 }, (_, n) => n));
});

test('subscribe, then fetch: nothing falls between, though somebody writes all the while', async () => {
  const writer = await server.user('writer');
  const reader = await server.user('reader');
  await writer.create('Drop', { n: 0 });
  const writing = writer.run(async Parse => {
    for (let n = 1; n <= 150; n++) await new Parse.Object('Drop').save({ n });
  });

  // Wait until the writer is under way, so that the subscription starts in the middle of it.
  while (await reader.count('Drop') < 10);
  const live = await reader.subscribe('Drop');
  const fetched = await reader.find('Drop', {}, { limit: 1000 });
  await writing;
  const last = await writer.create('Drop', { n: 151 });
  await live.until('create', last.objectId);

  const heard = live.events.map(({ object }) => object.n);
  assert.deepEqual(heard, range(heard[0], 151), 'live: an unbroken sequence');
  const known = new Set([...heard, ...fetched.map(drop => drop.n)]);
  assert.deepEqual([...known].sort((a, b) => a - b), range(0, 151), 'fetched and live together: everything');
});

test('a dead session token cannot subscribe', async () => {
  const alice = await server.user('alice');
  const { sessionToken } = alice;
  await alice.logOut();
  await refused(alice.subscribe('Task', {}, { sessionToken }), 209);
});

test('a subscription that makes no sense is refused, the others go on', async () => {
  const alice = await server.user('alice');
  const tasks = await alice.subscribe('Task', { status: 'odd' });
  await refused(alice.subscribe('Task', { title: { $regex: '(' } }), 102);
  await refused(alice.subscribe('Task', { title: { $frobnicate: 1 } }), 102, 107);
  const task = await alice.create('Task', { status: 'odd' });
  await tasks.next('create', task.objectId);
  assert.deepEqual(idsOf(tasks.events.map(({ object }) => object)), [task.objectId]);
});

function range(from, to) {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}
