// Queries: the same question has the same answer at both servers, whoever wrote the objects.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually, startBoth } from './harness/index.js';

const { parse, tidings } = await startBoth();

const date = iso => ({ __type: 'Date', iso });
const point = (latitude, longitude) => ({ __type: 'GeoPoint', latitude, longitude });

const targets = [await parse.create('Target', { v: 1 }), await tidings.create('Target', { v: 2 })];
const [one, two] = targets.map(({ objectId }) => ({ __type: 'Pointer', className: 'Target', objectId }));

/** Written by the two servers in turn. `k` names a row and tells equal ones apart in an order. */
const rows = [
  { k: 'one', n: 1, s: 'abc', list: [1, 2], p: one, d: date('2020-01-01T00:00:00.000Z'), o: { a: 1, l: [{ x: 1 }, { x: 2 }] }, g: point(10, 10), ps: [one], b: true },
  { k: 'five', n: 5, s: 'ABC', list: [2, 3], p: two, d: date('2021-01-01T00:00:00.000Z'), o: { a: 2 }, g: point(20, 20), ps: [one, two], b: false },
  { k: 'null', n: null, s: null, list: null, d: null, o: null, b: null, g: null },
  { k: 'missing' },
  { k: 'empty', list: [], s: '', o: {}, ps: [] },
  { k: 'list of null', list: [null, 1] },
  { k: 'list of list', list: [[1, 2]] },
  { k: 'mixed', n: -3.5, s: 'abdä', list: ['x', 'y', { q: 1 }], o: { a: '1', n: { m: [1, 2] } } },
  { k: 'odd', n: Number.MAX_SAFE_INTEGER, s: 'z.*[a]', list: [true, date('2020-01-01T00:00:00.000Z')], d: date('1969-12-31T23:59:59.999Z') },
  { k: 'lines', n: 0.1, s: 'one\ntwo', list: [-1, 0.5, 1e300], o: { a: [1, 2], d: date('2020-01-01T00:00:00.000Z'), p: one } },
];

for (const [number, row] of rows.entries()) await [parse, tidings][number % 2].create('Row', row);
await eventually(async () => {
  for (const server of [parse, tidings]) assert.equal((await server.find('Row', { p: one, g: point(10, 10) })).length, 1);
});

/** The keys of what is found and their count, or the code of the refusal. */
async function answer(server, where) {
  const results = server.find('Row', where, { order: 'k' }).then(found => found.map(({ k }) => k), ({ code }) => code);
  const count = server.count('Row', where).catch(({ code }) => code);
  return Promise.all([results, count]);
}

const conditions = {
  'nothing at all': [{}, { zzz: 1 }, { zzz: null }, { objectId: 5 }, { objectId: 'nobody' }],
  'nulls and what is missing': [
    { n: null }, { n: { $eq: null } }, { n: { $ne: null } }, { n: { $gte: null } }, { n: { $lte: null } },
    { n: { $exists: true } }, { n: { $exists: false } }, { n: { $in: [1, null] } }, { n: { $nin: [1, null] } },
    { list: null }, { list: { $exists: false } }, { o: null }, { 'o.a': null }, { 'o.a': { $exists: false } },
    { p: null }, { p: { $exists: true } }, { p: { $exists: false } }, { d: null }, { b: null }, { g: null },
    { g: { $exists: true } }, { g: { $exists: false } }, { s: null }, { ps: null },
  ],
  numbers: [
    { n: 1 }, { n: 1.0 }, { n: '1' }, { n: { $ne: 1 } }, { n: { $lt: 3 } }, { n: { $lte: 1 } }, { n: { $gt: 3 } },
    { n: { $gte: 5 } }, { n: { $gt: -4, $lt: 1 } }, { n: { $gt: 1, $lt: 6, $ne: 5 } }, { n: { $lt: 'zzz' } },
    { n: { $in: [] } }, { n: { $nin: [] } }, { n: { $in: [1, 5, 7] } }, { n: { $nin: [1] } }, { n: -3.5 }, { n: 0.1 },
    { n: Number.MAX_SAFE_INTEGER }, { n: { $gt: 1e15 } }, { n: true },
  ],
  'lists': [
    { list: 2 }, { list: { $eq: 2 } }, { list: { $eq: [1, 2] } }, { list: { $eq: [2, 1] } }, { list: { $ne: 2 } },
    { list: { $in: [3] } }, { list: { $nin: [3] } }, { list: { $in: [[1, 2]] } }, { list: { $all: [1, 2] } },
    { list: { $all: [] } }, { list: { $all: ['x', 'y'] } }, { list: { $gt: 2 } }, { list: { $lt: 0 } }, { list: 'x' },
    { list: true }, { list: date('2020-01-01T00:00:00.000Z') }, { 'list.0': 1 }, { 'list.q': 1 }, { 'list.1': 'y' },
    { list: [1, 2] },
  ],
  objects: [
    { 'o.a': 1 }, { 'o.a': '1' }, { 'o.a': { $ne: 1 } }, { 'o.a': { $gt: 0 } }, { 'o.a': { $in: [1, 2] } },
    { 'o.a': { $exists: true } }, { 'o.l.x': 2 }, { 'o.n.m': 2 }, { 'o.d': date('2020-01-01T00:00:00.000Z') },
    { 'o.d': { $lt: date('2020-01-02T00:00:00.000Z') } }, { 'o.p': one }, { o: { $exists: true } }, { o: { a: 2 } },
  ],
  pointers: [
    { p: one }, { p: { $eq: one } }, { p: { $ne: one } }, { p: { $in: [one, two] } }, { p: { $nin: [one] } },
    { p: one.objectId }, { p: { $eq: one.objectId } }, { p: { $in: [one.objectId] } },
    { p: { ...one, className: 'Other' } }, { ps: one }, { ps: two }, { ps: { $all: [one, two] } }, { ps: { $in: [two] } },
    { ps: { $nin: [two] } }, { ps: { $ne: two } },
  ],
  dates: [
    { d: date('2020-01-01T00:00:00.000Z') }, { d: { $ne: date('2020-01-01T00:00:00.000Z') } },
    { d: { $gt: date('2020-06-01T00:00:00.000Z') } }, { d: { $lt: date('1970-01-01T00:00:00.000Z') } },
    { d: { $gte: date('2020-01-01T00:00:00.000Z'), $lte: date('2021-01-01T00:00:00.000Z') } },
    { d: { $in: [date('2020-01-01T00:00:00.000Z')] } }, { d: '2020-01-01T00:00:00.000Z' },
    { createdAt: { $gt: date('2020-01-01T00:00:00.000Z') } }, { createdAt: { $lt: date('2020-01-01T00:00:00.000Z') } },
    { createdAt: { $gt: '2020-01-01T00:00:00.000Z' } }, { updatedAt: { $gt: date('2020-01-01T00:00:00.000Z') } },
  ],
  texts: [
    { s: 'abc' }, { s: '' }, { s: { $ne: '' } }, { s: { $gt: 'abc' } }, { s: { $lt: 'abc' } }, { s: { $in: ['abc', ''] } },
    { s: { $regex: '^a' } }, { s: { $regex: '^a', $options: 'i' } }, { s: { $regex: '^\\Qa\\E' } }, { s: { $regex: 'b.' } },
    { s: { $regex: 'n' } }, { s: { $regex: '^a', $options: 'x' } }, { s: { $regex: '\\Qz.*[\\E' } },
    { s: { $regex: 'Ä', $options: 'i' } }, { s: { $regex: 'ä' } }, { s: { $regex: 'a|z' } }, { s: { $regex: '(?i)B' } },
    { s: { $regex: '^two', $options: 'm' } }, { s: { $regex: '^two' } }, { s: { $regex: 'one.two', $options: 's' } },
    { s: { $regex: '^a', $ne: 'abc' } },
  ],
  'truths and places': [
    { b: true }, { b: false }, { b: { $ne: true } }, { b: { $in: [true, null] } }, { g: point(10, 10) },
    { g: { $ne: point(10, 10) } },
  ],
  combinations: [
    { $or: [{ n: 1 }, { s: 'ABC' }] }, { $and: [{ n: { $gt: 0 } }, { n: { $lt: 6 } }] }, { $nor: [{ n: 1 }, { list: 2 }] },
    { $or: [{ n: 1 }, { n: null }], b: true }, { $or: [{ p: one }, { $and: [{ 'o.a': 2 }, { list: 3 }] }] },
    { $and: [{ $or: [{ s: 'abc' }, { s: '' }] }, { $or: [{ b: true }, { list: { $exists: true } }] }] },
    { $nor: [{ p: { $exists: true } }, { list: null }] }, { n: { $foo: 1 } }, { n: { $not: { $gt: 1 } } },
  ],
};

for (const [title, wheres] of Object.entries(conditions)) {
  test(`both find the same: ${title}`, async () => {
    for (const where of wheres) {
      assert.deepEqual(await answer(tidings, where), await answer(parse, where), JSON.stringify(where));
    }
  });
}

/** Options beside `where`. Ties are in no order that Parse Server promises, so `k` ends each. */
const options = [
  { order: 'n,k' }, { order: '-n,k' }, { order: 's,k' }, { order: '-s,-k' }, { order: 'list,k' }, { order: '-list,k' },
  { order: 'o.a,k' }, { order: 'p,k' }, { order: '-p,k' }, { order: 'd,k' }, { order: 'b,-k' }, { order: 'zzz,k' },
  { order: 'createdAt,k' }, { order: '-createdAt,k' }, { order: '-updatedAt,k' }, { order: 'objectId' },
  { order: 'k', skip: 2, limit: 3 }, { order: 'k', skip: 100 }, { order: '-k', limit: 1 }, { order: 'k', limit: 2, count: 1 },
  { order: 'k', keys: 'n,s' }, { order: 'k', keys: 'o.a' }, { order: 'k', excludeKeys: 'n,s,list' },
  { order: 'k', include: 'p' }, { order: 'k', include: 'p,ps' }, { order: 'k', include: '*' },
  { order: 'k', include: 'p', keys: 'p.v' }, { order: 'k', include: 'nothing' },
];

test('both answer with the same objects, in the same order, with the same fields', async () => {
  for (const option of options) {
    const [ours, theirs] = await Promise.all([tidings, parse].map(server => server.ask('GET', '/classes/Row', option)));
    assert.deepEqual(ours, theirs, JSON.stringify(option));
  }
});

test('without an order, objects come in the order of their creation', async () => {
  const keys = rows.map(({ k }) => k);
  for (const server of [parse, tidings]) {
    assert.deepEqual((await server.find('Row')).map(({ k }) => k), keys, server.name);
  }
});

test('what Parse Server stores in two ways is found in both', async () => {
  const [bytes, day] = [{ __type: 'Bytes', base64: 'aGkh' }, date('2026-01-02T03:04:05.678Z')];
  const create = async fields => (await parse.create('TwoWays', { o: {}, ...fields })).objectId;
  const [set, nested] = [await create({ p: one }), await create({ o: { day } })];
  const [whole, nothing] = [await create({}), await create({ p: null })];
  await parse.update('TwoWays', set, { 'o.bytes': bytes });
  await parse.update('TwoWays', set, { 'o.day': day });
  await parse.update('TwoWays', whole, { list: [{ ...one, __type: 'Object', v: 1 }] });

  const found = async where => (await tidings.find('TwoWays', where)).map(({ objectId }) => objectId).sort();
  await eventually(async () => assert.deepEqual(await found({ p: one }), [set]));
  const both = [set, nested].sort();
  for (const where of [{ 'o.day': day }, { 'o.day': { $lte: day } }, { 'o.day': { $in: [day] } }]) {
    assert.deepEqual(await found(where), both, JSON.stringify(where));
  }
  for (const where of [{ 'o.bytes': bytes }, { 'o.bytes': { $in: [bytes] } }]) {
    assert.deepEqual(await found(where), [set], JSON.stringify(where));
  }
  assert.deepEqual(await found({ p: { $exists: true } }), [set, nothing].sort());
  assert.deepEqual(await found({ p: { $exists: false } }), [nested, whole].sort());
  assert.deepEqual(await found({ list: one }), [], 'a whole object is no pointer');
  assert.deepEqual((await tidings.get('TwoWays', whole)).list, [{ ...one, __type: 'Object', v: 1 }]);
});
