// Objects of every type, and every operation: what one server writes, the other reads, and goes on writing.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually, fresh, pointerTo, refused, startBoth } from './harness/index.js';

const { parse, tidings, database, device, bothWays } = await startBoth();

const date = iso => ({ __type: 'Date', iso });
const point = (latitude, longitude) => ({ __type: 'GeoPoint', latitude, longitude });
const someone = { __type: 'Pointer', className: 'Friend', objectId: 'someone' };

/** One field of each type, and values at the edges of some. */
const everyType = {
  text: 'Grüße, 世界 🌍\n"quoted" \\ and \u0000',
  empty: '',
  whole: 42,
  negative: -7,
  fraction: 1.5,
  beyond32Bits: 3_000_000_000,
  largest: Number.MAX_SAFE_INTEGER,
  smallest: Number.MIN_SAFE_INTEGER,
  huge: 1.7976931348623157e308,
  tiny: 5e-324,
  yes: true,
  no: false,
  day: date('2026-01-02T03:04:05.678Z'),
  longAgo: date('0001-01-01T00:00:00.000Z'),
  bytes: { __type: 'Bytes', base64: 'AP8Bgg==' },
  list: [1, -2.5, 'x', null, true, [], [[2], { three: 3 }], date('1969-12-31T23:59:59.999Z'), someone, point(1, 2)],
  nothing: [],
  thing: {
    number: 1,
    nested: { list: [{ deep: { day: date('2026-01-02T03:04:05.678Z') } }], nothing: null, empty: {} },
    friend: someone,
    place: point(-1.5, 2),
    file: { __type: 'File', name: 'inside.txt', url: 'http://example.com/inside.txt' },
  },
  friend: someone,
  place: point(-33.8688, 151.2093),
  area: { __type: 'Polygon', coordinates: [[0, 0], [0, 10.5], [10, 10], [10, 0], [0, 0]] },
  file: { __type: 'File', name: 'picture.png', url: 'http://example.com/picture.png' },
  unknown: null,
  ACL: { '*': { read: true }, 'role:Admins': { read: true, write: true }, someone: { write: true } },
};

/** The address of a file is that of the server that answers. */
function withoutAddress({ file, ...object }) {
  return { ...object, ...(file && { file: { __type: 'File', name: file.name } }) };
}

bothWays('an object of every type is the same', async (writer, reader) => {
  const className = fresh('EveryType');
  const { objectId, createdAt } = await writer.master.create(className, everyType);
  const written = withoutAddress(await writer.master.get(className, objectId));
  assert.deepEqual(written, withoutAddress({ ...everyType, objectId, createdAt, updatedAt: createdAt }));

  // The reader hears of the new class a moment later, and with it, what a file or a GeoPoint is.
  await eventually(async () => assert.deepEqual(withoutAddress(await reader.master.get(className, objectId)), written));
  assert.deepEqual((await reader.master.find(className)).map(withoutAddress), [written]);
});

test('the stored document is the same, whoever writes it', async () => {
  const className = fresh('Stored');
  const byParse = await parse.master.create(className, everyType);
  const byTidings = await tidings.master.create(className, everyType);
  const documentOf = async ({ objectId, createdAt }) => {
    const { _id, _created_at, _updated_at, ...fields } = await database.rows(className).findOne({ _id: objectId });
    assert.deepEqual([_created_at, _updated_at], [new Date(createdAt), new Date(createdAt)]);
    return fields;
  };
  assert.deepEqual(await documentOf(byTidings), await documentOf(byParse));
});

test('a public object has no permissions in its document, a closed one has empty ones', async () => {
  const className = fresh('Access');
  for (const server of [parse, tidings]) {
    const open = await server.create(className, { text: 'open' });
    const closed = await server.create(className, { text: 'closed', ACL: {} });
    const documentOf = ({ objectId }) => database.rows(className).findOne({ _id: objectId });
    const { _rperm, _wperm, _acl } = await documentOf(open);
    assert.deepEqual([_rperm, _wperm, _acl], [undefined, undefined, undefined], server.name);
    const { _rperm: readers, _wperm: writers } = await documentOf(closed);
    assert.deepEqual([readers, writers], [[], []], server.name);
  }
  for (const server of [parse, tidings]) {
    assert.deepEqual((await server.find(className)).map(({ text }) => text), ['open', 'open']);
    assert.equal((await server.master.find(className)).length, 4);
  }
});

/** Updates in the order in which they are made; each is one request. */
const updates = [
  { count: { __op: 'Increment', amount: 5 } },
  { count: { __op: 'Increment', amount: -0.5 } },
  { count: 2_147_483_647 },
  { count: { __op: 'Increment', amount: 1 } },
  { count: { __op: 'Increment', amount: 9_000_000_000_000_000 } },
  { newCount: { __op: 'Increment', amount: 1 } },
  { list: { __op: 'Add', objects: [2, 2, 'x', { k: 1 }, someone, date('2020-01-01T00:00:00.000Z'), [1]] } },
  { list: { __op: 'AddUnique', objects: [2, 3, { k: 1 }, someone, date('2020-01-01T00:00:00.000Z'), date('2021-01-01T00:00:00.000Z')] } },
  { list: { __op: 'Remove', objects: [2, { k: 1 }, date('2020-01-01T00:00:00.000Z')] } },
  { list: { __op: 'Remove', objects: ['not there'] } },
  { newList: { __op: 'AddUnique', objects: [1, 1, 2] } },
  { otherList: { __op: 'Add', objects: [[1], { a: null }] } },
  { 'thing.a': { __op: 'Increment', amount: 3 } },
  { 'thing.b': 'new' },
  { 'thing.b': { __op: 'Delete' }, 'thing.c': true },
  { 'thing.deep.er': [1] },
  { 'list.0': 'first' },
  { text: { __op: 'Delete' }, day: date('2021-02-03T04:05:06.007Z') },
  { friend: { ...someone, objectId: 'another' } },
  { friend: { __op: 'Delete' } },
  { friend: someone },
  { text: null, day: null, place: null, bytes: null, file: null },
  { place: point(3, 4), bytes: { __type: 'Bytes', base64: 'AQIDBA==' }, area: { __type: 'Polygon', coordinates: [[0, 0], [0, 1], [1, 1]] } },
  { ACL: { someone: { read: true } } },
  { ACL: { '*': { read: true, write: true } } },
  { list: [], thing: {} },
  {},
];

test('every operation does the same, made by one server, by the other, or by both in turn', async t => {
  const className = fresh('Changed');
  const beginning = {
    count: 1, text: 'text', list: [1], thing: { a: 1 }, friend: someone, day: date('2020-01-01T00:00:00.000Z'),
    place: point(1, 2), bytes: { __type: 'Bytes', base64: 'AQI=' }, file: { __type: 'File', name: 'a', url: 'http://x/a' },
  };
  const begin = async () => (await parse.create(className, beginning)).objectId;
  const [byParse, byTidings, inTurns] = [await begin(), await begin(), await begin()];
  await eventually(async () => assert.equal((await tidings.get(className, inTurns)).file.name, 'a'));

  const [timeless, servers] = [({ objectId, createdAt, updatedAt, ...fields }) => withoutAddress(fields), [parse, tidings]];
  for (const [number, update] of updates.entries()) {
    const what = `update ${number}: ${JSON.stringify(update)}`;
    const answers = [
      await parse.master.update(className, byParse, update),
      await tidings.master.update(className, byTidings, update),
      await servers[number % 2].master.update(className, inTurns, update),
    ];
    const [expected, ...others] = answers.map(timeless);
    for (const answer of others) assert.deepEqual(answer, expected, `the answer to ${what}`);

    const state = timeless(await parse.master.get(className, byParse));
    await eventually(async () => {
      for (const server of servers) {
        for (const id of [byParse, byTidings, inTurns]) {
          assert.deepEqual(timeless(await server.master.get(className, id)), state, `${server.name} after ${what}`);
        }
      }
    });
  }
  t.diagnostic(`${updates.length} updates, each made three times and read six times`);
});

test('operations in a create give the same object', async () => {
  const className = fresh('Created');
  const operations = {
    count: { __op: 'Increment', amount: 2 },
    list: { __op: 'AddUnique', objects: [1, 1] },
    less: { __op: 'Remove', objects: [1] },
    gone: { __op: 'Delete' },
  };
  for (const server of [parse, tidings]) {
    const { count, list, less, gone } = await server.create(className, operations);
    assert.deepEqual({ count, list, less, gone }, { count: 2, list: [1, 1], less: [], gone: undefined }, server.name);
  }
  for (const server of [parse, tidings]) {
    const found = await server.find(className);
    assert.deepEqual(found.map(({ count, list, less }) => ({ count, list, less })), Array(2).fill({ count: 2, list: [1, 1], less: [] }));
  }
});

test('nothing is lost when both write to one object at once', async () => {
  const className = fresh('Contended');
  const { objectId } = await parse.create(className, { count: 0, list: [], thing: {} });
  await eventually(() => tidings.get(className, objectId));
  const servers = [parse, tidings];
  await Promise.all(Array.from({ length: 80 }, (_, n) => servers[n % 2].update(className, objectId, {
    count: { __op: 'Increment', amount: 1 },
    list: { __op: 'AddUnique', objects: [n % 50] },
    [`thing.n${n}`]: n,
  })));
  for (const server of servers) {
    const { count, list, thing } = await server.get(className, objectId);
    assert.equal(count, 80, server.name);
    assert.deepEqual(list.toSorted((a, b) => a - b), Array.from({ length: 50 }, (_, n) => n), server.name);
    assert.deepEqual(Object.values(thing).toSorted((a, b) => a - b), Array.from({ length: 80 }, (_, n) => n), server.name);
  }
});

bothWays('what is deleted is gone', async (writer, reader) => {
  const className = fresh('Deleted');
  const { objectId } = await writer.create(className, { text: 'here' });
  await eventually(() => reader.get(className, objectId));
  await writer.destroy(className, objectId);
  await refused(reader.get(className, objectId), 101);
  await refused(reader.update(className, objectId, { text: 'there' }), 101);
  await refused(reader.destroy(className, objectId), 101);
});

bothWays('the SDK finds the file that the other server’s object names, and saves it again', async (writer, reader) => {
  const className = fresh('Illustrated');
  const { objectId } = await writer.create(className, { file: everyType.file, n: 1 });
  const bob = await device('bob', reader);
  await eventually(async () => {
    const url = await bob.run(async (Parse, name, id) => {
      const object = await new Parse.Query(name).get(id);
      object.set({ n: 2, file: object.get('file') });
      await object.save();
      return object.get('file').url();
    }, className, objectId);
    assert.ok(url.startsWith(`${reader.url}/files/`) && url.endsWith('/picture.png'), url);
  });
  await eventually(async () => {
    const { file, n } = await writer.get(className, objectId);
    assert.deepEqual([file.name, n], ['picture.png', 2]);
  });
  const same = await writer.find(className, { file: { __type: 'File', name: 'picture.png' } });
  assert.deepEqual(same.map(({ objectId }) => objectId), [objectId]);
});

bothWays('an included object comes along', async (writer, reader) => {
  const [author, book] = [fresh('Author'), fresh('Book')];
  const { objectId } = await writer.create(author, { name: 'Jane' });
  const jane = pointerTo({ className: author, objectId });
  const { objectId: emma } = await reader.create(book, { title: 'Emma', author: jane, more: [jane] });
  for (const server of [writer, reader]) {
    await eventually(async () => {
      const found = await server.get(book, emma, { include: 'author,more' });
      assert.equal(found.author.name, 'Jane', server.name);
      assert.equal(found.more[0].name, 'Jane', server.name);
    });
  }
});

// Its answers differ in one thing: Parse Server leaves the pointer out that it has set to null, Tidings shows the null.
bothWays('a pointer that is set to null is none', async (writer, reader) => {
  const className = fresh('Lonely');
  const { objectId } = await writer.create(className, { friend: someone });
  await writer.update(className, objectId, { friend: null });
  for (const server of [writer, reader]) {
    await eventually(async () => assert.equal((await server.get(className, objectId)).friend ?? null, null, server.name));
    assert.equal(await server.count(className, { friend: null }), 1, server.name);
    assert.equal(await server.count(className, { friend: someone }), 0, server.name);
    assert.equal(await server.count(className, { friend: { $ne: someone } }), 1, server.name);
  }
  await reader.update(className, objectId, { friend: someone });
  for (const server of [writer, reader]) assert.deepEqual((await server.get(className, objectId)).friend, someone);
});

bothWays('a column of relations is shown on every object', async (writer, reader) => {
  const className = fresh('Related');
  await writer.master.createClass(className, { fields: { friends: { type: 'Relation', targetClass: '_User' } } });
  const { objectId } = await writer.create(className, { text: 'mine' });
  for (const server of [writer, reader]) {
    await eventually(async () => {
      const { text, friends } = await server.get(className, objectId);
      assert.deepEqual([text, friends], ['mine', { __type: 'Relation', className: '_User' }], server.name);
    });
  }
});

bothWays('members that one server adds to a relation, the other finds, adds to and removes', async (writer, reader) => {
  const [posts, readers] = [fresh('Post'), fresh('Reader')];
  const ids = [];
  for (let n = 0; n < 4; n += 1) ids.push((await writer.create(readers, { n })).objectId);
  const members = (operation, ...of) => ({
    likes: { __op: operation, objects: of.map(n => ({ __type: 'Pointer', className: readers, objectId: ids[n] })) },
  });
  const { objectId: post } = await writer.create(posts, { title: 'Hello', ...members('AddRelation', 0, 1) });
  const related = { $relatedTo: { object: { __type: 'Pointer', className: posts, objectId: post }, key: 'likes' } };
  const likes = async (...expected) => {
    for (const server of [writer, reader]) {
      await eventually(async () => {
        const found = await server.find(readers, related, { order: 'n' });
        assert.deepEqual(found.map(({ n }) => n), expected, server.name);
        const liked = await server.find(posts, { likes: { __type: 'Pointer', className: readers, objectId: ids[1] } });
        assert.equal(liked.length, expected.includes(1) ? 1 : 0, server.name);
      });
    }
  };
  await likes(0, 1);
  await reader.update(posts, post, members('AddRelation', 1, 2));
  await writer.update(posts, post, members('AddRelation', 2, 3));
  await likes(0, 1, 2, 3);
  // What one has made, the other takes away.
  await reader.update(posts, post, members('RemoveRelation', 0, 3));
  await writer.update(posts, post, members('RemoveRelation', 1, 2));
  await likes();
  const rows = database.rows(`_Join:likes:${posts}`);
  assert.equal(await rows.countDocuments(), 0);
  await reader.update(posts, post, members('AddRelation', 0));
  const [{ _id, ...row }, ...more] = await rows.find().toArray();
  assert.deepEqual([row, more], [{ relatedId: ids[0], owningId: post }, []]);
});

bothWays('a batch is done by one and seen by the other', async (writer, reader) => {
  const className = fresh('Batched');
  const answers = await writer.ask('POST', '/batch', {
    requests: [
      { method: 'POST', path: `/parse/classes/${className}`, body: { n: 1 } },
      { method: 'POST', path: `/parse/classes/${className}`, body: { n: 2 } },
      { method: 'PUT', path: `/parse/classes/${className}/nobody`, body: { n: 3 } },
    ],
  });
  assert.equal(answers[2].error.code, 101);
  await eventually(async () => {
    const found = await reader.find(className, {}, { order: 'n' });
    assert.deepEqual(found.map(({ objectId }) => objectId), answers.slice(0, 2).map(({ success }) => success.objectId));
  });
});

bothWays('a transactional batch of one is seen whole by the other, or not at all', async (writer, reader) => {
  const className = fresh('Whole');
  const { objectId } = await writer.create(className, { n: 1 });
  const batch = (...requests) => {
    const path = rest => `/parse/classes/${className}${rest}`;
    const parts = requests.map(([method, rest, body]) => ({ method, path: path(rest), body }));
    return writer.ask('POST', '/batch', { requests: parts, transaction: true });
  };
  const numbers = async () => (await reader.find(className, {}, { order: 'n' })).map(({ n }) => n);
  const plus = { n: { __op: 'Increment', amount: 1 } };
  await assert.rejects(batch(['POST', '', { n: 5 }], ['PUT', `/${objectId}`, plus], ['PUT', '/nobody', { n: 3 }]));
  // Parse Server may still be busy with undoing what it refused, and answers 500 then, as if it were to be sent again.
  const answers = await eventually(() => batch(['POST', '', { n: 6 }], ['PUT', `/${objectId}`, plus]));
  assert.equal(answers[1].success.n, 2);
  await eventually(async () => assert.deepEqual(await numbers(), [2, 6]));
});

bothWays('the SDK reads what the SDK wrote at the other server', async (writer, reader) => {
  const className = fresh('FromSdk');
  const alice = await device('alice', writer);
  const bob = await device('bob', reader);
  const id = await alice.run(async (Parse, name) => {
    const object = new Parse.Object(name);
    object.set('day', new Date('2026-01-02T03:04:05.678Z'));
    object.set('place', new Parse.GeoPoint(10, 20));
    object.set('area', new Parse.Polygon([[0, 0], [0, 1], [1, 1]]));
    object.set('list', [new Date(0), { deep: new Parse.GeoPoint(1, 2) }]);
    object.increment('count', 3);
    object.setACL(new Parse.ACL({ '*': { read: true } }));
    return (await object.save()).id;
  }, className);
  await eventually(async () => {
    const seen = await bob.run(async (Parse, name, id) => {
      const object = await new Parse.Query(name).get(id);
      return [
        object.get('day').toISOString(), object.get('place').longitude, object.get('area').coordinates[2],
        object.get('list')[0].getTime(), object.get('list')[1].deep.latitude, object.get('count'),
        object.getACL().getPublicReadAccess(), object.getACL().getPublicWriteAccess(),
      ];
    }, className, id);
    assert.deepEqual(seen, ['2026-01-02T03:04:05.678Z', 20, [1, 1], 0, 1, 3, true, false]);
  });
});

bothWays('an ACL that is none changes none', async (writer, reader) => {
  const className = fresh('Private');
  const { objectId } = await writer.master.create(className, { ACL: { someone: { read: true } } });
  for (const ACL of [null, false, '', 0]) await writer.master.update(className, objectId, { ACL });
  await eventually(() => reader.master.get(className, objectId));
  await refused(reader.get(className, objectId), 101);
});
