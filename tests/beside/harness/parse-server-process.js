// The npm parse-server as it is; its settings come as the first message.

import { once } from 'node:events';
import { createServer } from 'node:http';
import express from 'express';
import { ParseServer } from 'parse-server';

process.on('disconnect', () => process.exit());

const [{ databaseUrl, appId, javascriptKey, masterKey, options, port }] = await once(process, 'message');
const app = express();
const listener = createServer(app).listen(port, '127.0.0.1');
await once(listener, 'listening');

const url = `http://127.0.0.1:${listener.address().port}/parse`;
const server = new ParseServer({
  appId,
  javascriptKey,
  masterKey,
  serverURL: url,
  publicServerURL: url,
  verifyServerUrl: false,
  databaseURI: databaseUrl,
  // It hears of the classes that others make or change.
  databaseOptions: { enableSchemaHooks: true },
  // As Tidings in development.
  allowClientClassCreation: true,
  logsFolder: null,
  silent: !process.env.TEST_LOG,
  ...options,
});
await server.start();
app.use('/parse', server.app);
process.send({ url });
