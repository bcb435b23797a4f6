// Where the servers under test keep their objects: in their data directory, or in a MongoDB that
// TIDINGS_TEST_DATABASE_URL names, each in a database of its own.

import { once } from 'node:events';
import { connect } from 'node:net';

/** The URL of a database with this name; undefined where servers keep their objects in their data directory. */
export function databaseUrl(name) {
  const url = process.env.TIDINGS_TEST_DATABASE_URL;
  if (!url) return undefined;
  const [server, options = ''] = url.split('?');
  return `${server.replace(/\/$/, '')}/${name}?${options}`;
}

/** Says MongoDB's one command that is needed here; a driver would be a large dependency for that. */
export async function dropDatabase(url) {
  const { host, port, name } = /^mongodb:\/\/(?<host>[^:,/]+):(?<port>\d+).*\/(?<name>[^?]+)\?/.exec(url).groups;
  const socket = connect(Number(port), host);
  const fields = Buffer.concat([
    Buffer.from('\x10dropDatabase\0'), int32(1),
    Buffer.from('\x02$db\0'), int32(name.length + 1), Buffer.from(`${name}\0`),
    Buffer.from('\0'),
  ]);
  const body = Buffer.concat([int32(0), Buffer.from('\0'), int32(fields.length + 4), fields]);
  const opMsg = 2013;
  socket.write(Buffer.concat([int32(body.length + 16), int32(1), int32(0), int32(opMsg), body]));
  try {
    await once(socket, 'data', { signal: AbortSignal.timeout(10_000) });
  } finally {
    socket.destroy();
  }
}

function int32(number) {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(number);
  return bytes;
}
