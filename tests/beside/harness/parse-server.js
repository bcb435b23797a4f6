// Parse Server on the database, in a process of its own.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { keys } from '../../js/harness/server.js';

const program = fileURLToPath(new URL('./parse-server-process.js', import.meta.url));

export class ParseServer {
  /** The API's URL, known when it has started. A restart keeps it. */
  url;
  #settings;
  #process;

  constructor(databaseUrl, options = {}) {
    this.#settings = { ...keys, databaseUrl, options, port: 0 };
  }

  async start() {
    this.#process = fork(program, [], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    const ended = once(this.#process, 'exit').then(([code]) => {
      throw new Error(`Parse Server ended with ${code} before it was ready`);
    });
    // It ends later, too.
    ended.catch(() => {});
    this.#process.send(this.#settings);
    const [{ url }] = await Promise.race([once(this.#process, 'message'), ended]);
    this.url = url;
    this.#settings.port = Number(new URL(url).port);
  }

  async stop() {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, 'exit');
    child.kill('SIGKILL');
    await exit;
  }
}
