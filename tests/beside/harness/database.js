// A MongoDB database that only this test file uses, on loopback: in a server of its own, or in the one that is named.

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as rest } from 'node:timers/promises';
import { MongoClient } from 'mongodb';

/** Far longer than a start takes. */
const patience = 60_000;

const { TIDINGS_TEST_MONGOD: program, TIDINGS_TEST_MONGODB_URL: server } = process.env;

/** For looking at what is stored: `rows` is the driver's collection of a class, `describe` tells how it was made. */
export async function openDatabase() {
  const mongod = server ? undefined : await startMongod();
  const name = `tidings_beside_${randomBytes(4).toString('hex')}`;
  const url = `${(server ?? mongod.url).replace(/\/+$/, '')}/${name}?replicaSet=rs0`;
  const client = await MongoClient.connect(url);
  return {
    url,
    rows: collection => client.db().collection(collection),
    describe: async collection => (await client.db().listCollections({ name: collection }).toArray())[0],
    async close() {
      if (!mongod) await client.db().dropDatabase();
      await client.close();
      await mongod?.stop();
    },
  };
}

/** Ends the server, and removes its folder, when we close its input, or are gone: whoever ends us may not end it. */
const guard = `
folder=$1; shift
trap '' INT TERM HUP
"$@" & server=$!
read -r _
kill -9 "$server"; wait "$server"; rm -rf -- "$folder"
`;

async function startMongod() {
  if (!program) throw new Error('no MongoDB: name its program in TIDINGS_TEST_MONGOD, or a server in TIDINGS_TEST_MONGODB_URL');
  const folder = await mkdtemp(path.join(tmpdir(), 'tidings-beside-'));
  const port = await freePort();
  const shell = spawn('sh', [
    '-c', guard, 'guard', folder,
    program, '--bind_ip', '127.0.0.1', '--port', String(port), '--dbpath', folder, '--replSet', 'rs0',
    '--oplogSize', '256', '--wiredTigerCacheSizeGB', '0.5', '--nounixsocket', '--quiet',
    '--setParameter', 'diagnosticDataCollectionEnabled=false',
  ], { stdio: ['pipe', 'pipe', 'ignore'] });
  const log = [];
  createInterface({ input: shell.stdout }).on('line', line => log.push(line) > 20 && log.shift());
  const host = `127.0.0.1:${port}`;
  const stop = async () => {
    const exit = once(shell, 'exit');
    shell.stdin.end();
    await exit;
  };
  try {
    await initiate(host);
  } catch (error) {
    await stop();
    throw new Error(`MongoDB did not start: ${error.message}\n${log.join('\n')}`);
  }
  return { url: `mongodb://${host}`, stop };
}

/** Makes it a replica set of one, and waits until it takes writes. */
async function initiate(host) {
  const client = await MongoClient.connect(`mongodb://${host}/?directConnection=true`, {
    serverSelectionTimeoutMS: patience, heartbeatFrequencyMS: 500, minHeartbeatFrequencyMS: 50,
  });
  const admin = client.db('admin');
  await admin.command({ replSetInitiate: { _id: 'rs0', members: [{ _id: 0, host }] } });
  while (!(await admin.command({ hello: 1 })).isWritablePrimary) await rest(20);
  await client.close();
}

async function freePort() {
  const listener = createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address();
  listener.close();
  await once(listener, 'close');
  return port;
}
