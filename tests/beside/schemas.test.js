// Classes: what one server declares, changes or forbids holds at the other, at once.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually, fresh, refused, startBoth } from './harness/index.js';

const { parse, tidings, database, bothWays } = await startBoth();

const open = { '*': true };
const everybody = { find: open, count: open, get: open, create: open, update: open, delete: open, addField: open };
const point = { __type: 'GeoPoint', latitude: 1, longitude: 2 };

const declared = {
  text: { type: 'String' }, number: { type: 'Number' }, flag: { type: 'Boolean' }, day: { type: 'Date' },
  list: { type: 'Array' }, thing: { type: 'Object' }, bytes: { type: 'Bytes' }, file: { type: 'File' },
  place: { type: 'GeoPoint' }, area: { type: 'Polygon' }, owner: { type: 'Pointer', targetClass: '_User' },
  fans: { type: 'Relation', targetClass: '_User' },
};
const always = {
  objectId: { type: 'String' }, createdAt: { type: 'Date' }, updatedAt: { type: 'Date' }, ACL: { type: 'ACL' },
};

/** Waits until the other server knows a class like this one, and answers with its schema. */
async function known(reader, writer, className) {
  const { fields, classLevelPermissions } = await writer.master.schema(className);
  return eventually(async () => {
    const schema = await reader.master.schema(className);
    assert.deepEqual(schema.fields, fields);
    // Parse Server leaves out the default ACL where it was not asked for.
    const { ACL: ours, ...permissions } = schema.classLevelPermissions;
    const { ACL: theirs, ...expected } = classLevelPermissions;
    assert.deepEqual(permissions, expected);
    return schema;
  });
}

bothWays('a class that one declares, the other knows', async (first, second) => {
  const className = fresh('Declared');
  await first.master.createClass(className, { fields: declared });
  const schema = await known(second, first, className);
  assert.deepEqual(schema.fields, { ...declared, ...always });
  await refused(second.master.createClass(className, {}), 103);
  await refused(second.create(className, { number: 'text' }), 111);
  await refused(second.create(className, { owner: { __type: 'Pointer', className: 'Other', objectId: 'x' } }), 111);
});

bothWays('what one requires of a field, and gives where it is missing, the other does too', async (first, second) => {
  const className = fresh('Options');
  const options = {
    title: { type: 'String', required: true },
    state: { type: 'String', required: true, defaultValue: 'new' },
    day: { type: 'Date', defaultValue: { __type: 'Date', iso: '2026-01-02T03:04:05.678Z' } },
    place: { type: 'GeoPoint', defaultValue: point },
    owner: { type: 'Pointer', targetClass: '_User', defaultValue: { __type: 'Pointer', className: '_User', objectId: 'x' } },
    list: { type: 'Array', defaultValue: [1, { a: 2 }] },
  };
  await first.master.createClass(className, { fields: options });
  await known(second, first, className);
  for (const server of [first, second]) {
    await refused(server.create(className, {}), 142);
    await refused(server.create(className, { title: '' }), 142);
    const { objectId } = await server.create(className, { title: 'x' });
    await refused(server.update(className, objectId, { title: null }), 142);
    for (const reader of [first, second]) {
      const { state, day, place, owner, list } = await reader.get(className, objectId);
      const expected = [options.day, options.place, options.owner, options.list].map(({ defaultValue }) => defaultValue);
      assert.deepEqual([state, day, place, owner, list], ['new', ...expected], `${server.name}, ${reader.name}`);
    }
  }
  // Another field is changed by the other server: the options stay what they are.
  await second.master.changeClass(className, { fields: { more: { type: 'Number', defaultValue: 3 } } });
  const { fields } = await known(first, second, className);
  assert.deepEqual(fields, { ...options, more: { type: 'Number', defaultValue: 3 }, ...always });
  await second.master.changeClass(className, { fields: { title: { type: 'String' } } });
  await eventually(() => first.create(className, {}));
});

bothWays('a class and its columns come with the first objects', async (first, second) => {
  const className = fresh('Grown');
  const { objectId } = await first.create(className, { text: 'x', place: point });
  await known(second, first, className);
  await refused(second.update(className, objectId, { text: 1 }), 111);
  await second.update(className, objectId, { day: { __type: 'Date', iso: '2026-01-01T00:00:00.000Z' } });
  await known(first, second, className);
  await refused(first.update(className, objectId, { day: 'tomorrow' }), 111);
});

bothWays('a column that one deletes is gone, and may come back with another type', async (first, second) => {
  const className = fresh('Pruned');
  const { objectId } = await first.create(className, { field: point, other: 1, owner: { __type: 'Pointer', className: '_User', objectId: 'x' } });
  await known(second, first, className);

  await first.master.changeClass(className, { fields: { field: { __op: 'Delete' }, owner: { __op: 'Delete' } } });
  const { fields } = await known(second, first, className);
  assert.deepEqual([fields.field, fields.owner], [undefined, undefined]);
  assert.deepEqual((await database.rows(className).findOne({}, { projection: { _id: 0, other: 1, field: 1, _p_owner: 1 } })), { other: 1 });

  await second.update(className, objectId, { field: 'a text', owner: 5 });
  await known(first, second, className);
  for (const server of [first, second]) {
    const { field, owner } = await server.get(className, objectId);
    assert.deepEqual([field, owner], ['a text', 5], server.name);
    await refused(server.update(className, objectId, { field: point }), 111);
  }
});

bothWays('a class that one deletes is gone, and may be made anew by either', async (first, second) => {
  const className = fresh('Dropped');
  const { objectId } = await second.create(className, { text: 'x' });
  await known(first, second, className);
  await refused(first.master.deleteClass(className), 255);
  await first.destroy(className, objectId);
  await first.master.deleteClass(className);
  await eventually(() => refused(second.master.schema(className), 103));

  await second.create(className, { text: 5 });
  await known(first, second, className);
  assert.deepEqual((await first.find(className)).map(({ text }) => text), [5]);
});

bothWays('the class of users is changed by one for the other', async (first, second) => {
  const [column, dropped] = [fresh('nickname'), fresh('dropped')];
  const user = await second.signUp({ username: fresh('user'), password: 'x' });
  await first.master.changeClass('_User', { fields: { [column]: { type: 'String' }, [dropped]: { type: 'Number' } } });
  await first.master.changeClass('_User', { fields: { [dropped]: { __op: 'Delete' } } });
  await eventually(async () => {
    const { fields } = await second.master.schema('_User');
    assert.deepEqual([fields[column], fields[dropped]], [{ type: 'String' }, undefined]);
  });
  await refused(second.as(user.sessionToken).update('_User', user.objectId, { [column]: 5 }), 111);
});

bothWays('what a class forbids at one, it forbids at the other', async (first, second) => {
  const className = fresh('Guarded');
  const { objectId } = await first.create(className, { text: 'x' });
  const alice = await second.signUp({ username: fresh('alice'), password: 'x' });
  const user = second.as(alice.sessionToken);
  const needsUser = { requiresAuthentication: true };
  const asks = {
    find: who => who.find(className),
    count: who => who.count(className),
    get: who => who.get(className, objectId),
    create: who => who.create(className, { text: 'y' }),
    update: who => who.update(className, objectId, { text: 'y' }),
    addField: who => who.update(className, objectId, { [fresh('column')]: 1 }),
    delete: async who => who.destroy(className, (await who.master.create(className, {})).objectId),
  };

  for (const [operation, ask] of Object.entries(asks)) {
    const allow = async granted => {
      await first.master.changeClass(className, { classLevelPermissions: { ...everybody, [operation]: granted } });
      await known(second, first, className);
    };
    await allow({});
    for (const who of [second, user]) await refused(ask(who), 119);
    await allow(needsUser);
    await refused(ask(second), 101);
    await ask(user);
    await allow({ [alice.objectId]: true });
    await refused(ask(second), 119);
    await ask(user);
    await allow(open);
    await ask(second);
  }
});

bothWays('what a class hides at one, it hides at the other', async (first, second) => {
  const className = fresh('Hiding');
  const { objectId } = await first.create(className, { name: 'x', phone: 'secret', note: 'for users' });
  const alice = await second.signUp({ username: fresh('alice'), password: 'x' });
  const protectedFields = { '*': ['phone', 'note'], authenticated: ['phone'], [alice.objectId]: [] };
  const bob = await second.signUp({ username: fresh('bob'), password: 'x' });
  await first.master.changeClass(className, { classLevelPermissions: { ...everybody, protectedFields } });
  await known(second, first, className);

  const seen = async who => {
    const { name, phone, note } = await who.get(className, objectId);
    return [name, phone, note];
  };
  assert.deepEqual(await seen(second), ['x', undefined, undefined]);
  assert.deepEqual(await seen(second.as(bob.sessionToken)), ['x', undefined, 'for users']);
  assert.deepEqual(await seen(second.as(alice.sessionToken)), ['x', 'secret', 'for users']);
  assert.deepEqual(await seen(second.master), ['x', 'secret', 'for users']);
  await refused(second.find(className, { phone: 'secret' }), 119);
  await refused(second.find(className, {}, { order: 'phone' }), 119);
});

test('permissions that Tidings does not know close a class, and never open it', async () => {
  const className = fresh('Strange');
  await parse.master.createClass(className, { fields: { owner: { type: 'Pointer', targetClass: '_User' } } });
  const { objectId } = await parse.create(className, {});
  for (const find of [{ pointerFields: ['owner'] }, { 'role:Admins': true }]) {
    await parse.master.changeClass(className, { classLevelPermissions: { ...everybody, find } });
    await eventually(() => refused(tidings.find(className), 119));
    await refused(tidings.update(className, objectId, { text: 'x' }), 119);
    assert.equal((await tidings.master.find(className)).length, 1);
    await parse.master.changeClass(className, { classLevelPermissions: everybody });
    await eventually(async () => assert.equal((await tidings.find(className)).length, 1));
  }
});

bothWays('an index that one declares is made, known to the other, and removed by it', async (first, second) => {
  const className = fresh('Indexed');
  await first.master.createClass(className, { fields: declared });
  await known(second, first, className);
  const names = async () => (await database.rows(className).indexes()).map(({ name }) => name);

  await first.master.changeClass(className, { indexes: { by_text: { text: 1, number: -1 } } });
  await eventually(async () => {
    for (const server of [first, second]) {
      assert.deepEqual((await server.master.schema(className)).indexes.by_text, { text: 1, number: -1 }, server.name);
    }
    assert.ok((await names()).includes('by_text'));
  });
  await refused(second.master.changeClass(className, { indexes: { by_text: { text: 1 } } }), 102);

  await second.master.changeClass(className, { indexes: { by_text: { __op: 'Delete' } } });
  await eventually(async () => {
    for (const server of [first, second]) {
      assert.equal((await server.master.schema(className)).indexes?.by_text, undefined, server.name);
    }
    assert.ok(!(await names()).includes('by_text'));
  });
});

bothWays('a class that one deletes leaves nothing behind', async (first, second) => {
  const className = fresh('Passing');
  const area = { __type: 'Polygon', coordinates: [[0, 0], [0, 1], [1, 0], [0, 0]] };
  const { objectId } = await first.create(className, { area });
  assert.ok(await eventually(async () => (await database.rows(className).indexes()).some(({ name }) => name === 'area_2dsphere')));
  await known(second, first, className);
  await second.master.destroy(className, objectId);
  await second.master.deleteClass(className);
  assert.equal(await database.describe(className), undefined);
  // No index of the class that was is in the way of the one that is.
  await eventually(async () => {
    for (const server of [first, second]) await server.create(className, { area: 'a text' });
  });
});

bothWays('a column that an index needs can be deleted', async (first, second) => {
  const className = fresh('Narrowed');
  await first.master.createClass(className, { fields: declared });
  await first.master.changeClass(className, { indexes: { by_text: { text: 1 } } });
  await known(second, first, className);
  await eventually(() => second.master.changeClass(className, { fields: { text: { __op: 'Delete' } } }));
  await eventually(async () => {
    for (const server of [first, second]) assert.equal((await server.master.schema(className)).fields.text, undefined);
  });
});

test('of two types for one new column, one is taken, and both keep to it', async () => {
  const className = fresh('Raced');
  await parse.create(className, {});
  await known(tidings, parse, className);
  for (let round = 0; round < 10; round += 1) {
    const column = `column${round}`;
    const answers = await Promise.allSettled([
      parse.create(className, { [column]: 'a text' }),
      tidings.create(className, { [column]: round }),
    ]);
    assert.ok(answers.some(({ status }) => status === 'fulfilled'), answers.map(({ reason }) => reason?.message).join('; '));
    const { fields } = await known(tidings, parse, className);
    const stored = (await parse.find(className, { [column]: { $exists: true } })).map(object => typeof object[column]);
    for (const type of stored) assert.equal(type, fields[column].type.toLowerCase(), `round ${round}`);
  }
});

bothWays('changes are heard within a second', async (first, second, context) => {
  const className = fresh('Heard');
  await first.master.createClass(className);
  await known(second, first, className);
  const delays = [];
  for (let round = 0; round < 5; round += 1) {
    const column = `column${round}`;
    await first.master.changeClass(className, { fields: { [column]: { type: 'Number' } } });
    const begin = performance.now();
    await eventually(async () => assert.ok((await second.master.schema(className)).fields[column]));
    delays.push(performance.now() - begin);
  }
  const [best, , median, , worst] = delays.toSorted((a, b) => a - b).map(Math.round);
  context.diagnostic(`${second.name} heard of five columns after ${best} to ${worst} ms, ${median} in the middle`);
  assert.ok(median < 1_000, `${median} ms`);
});
