// The real binary on a free port and a data directory of its own, and the users who talk to it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, afterEach } from 'node:test';
import { fileURLToPath } from 'node:url';
import { databaseUrl, dropDatabase } from './database.js';
import { User } from './user.js';

const repository = fileURLToPath(new URL('../../..', import.meta.url));
export const keys = { appId: 'chat', javascriptKey: 'jskey', masterKey: 'masterkey' };

/** Far longer than a start or a drain takes, so that a slow machine is no failure. */
const patience = 30_000;

/**
 * Starts a server for this test file. Its users end after each test, it ends with the file.
 * `settings` are named as the flags are and replace the usual ones; `undefined` leaves the server's default.
 */
export async function startServer(settings = {}) {
  const server = new Server(await mkdtemp(path.join(tmpdir(), 'tidings-js-')), settings);
  afterEach(() => server.endUsers());
  after(() => server.close());
  await server.start();
  return server;
}

class Server {
  /** The API's URL, known from the `ready` line. */
  url;
  #settings;
  /** 0 until the first start; a restart asks for the same port, as a real one would. */
  #port = 0;
  #process;
  #isMeantToRun = false;
  #users = [];
  #names = new Map();
  /** The end of the server's log, shown when it does not start or does not stop. */
  #log = [];

  constructor(dataDir, settings) {
    this.dataDir = dataDir;
    this.#settings = settings;
    this.databaseUrl = databaseUrl(path.basename(dataDir));
  }

  async start() {
    const settings = {
      'port': this.#port,
      'data-dir': this.dataDir,
      'app-id': keys.appId,
      'javascript-key': keys.javascriptKey,
      'master-key': keys.masterKey,
      'cloud-code': path.join(repository, 'cloud-code'),
      ...this.#settings,
    };
    const given = Object.entries(settings).filter(([, value]) => value !== undefined);
    const flags = given.flatMap(([name, value]) => [`--${name}`, String(value)]);
    const child = spawn(binary(), ['serve', ...flags], {
      cwd: this.dataDir, env: environment(this.databaseUrl), stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#process = child;
    createInterface({ input: child.stderr }).on('line', line => this.#remember(line));

    this.url = await this.#readyLine(child);
    this.#port = Number(new URL(this.url).port);
    this.#isMeantToRun = true;
    child.once('exit', (code, signal) => {
      if (this.#isMeantToRun) console.error(`the server ended by itself: ${signal ?? code}\n${this.#log.join('\n')}`);
    });
  }

  /** SIGTERM drains and must end with 0; SIGKILL is the crash. */
  async stop(signal = 'SIGTERM') {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    this.#isMeantToRun = false;
    const exit = once(child, 'exit', { signal: AbortSignal.timeout(patience) })
      .catch(() => { throw new Error(`the server ignored ${signal}\n${this.#log.join('\n')}`); });
    child.kill(signal);
    const [code] = await exit;
    if (signal === 'SIGTERM') assert.equal(code, 0, `the server ended with ${code}\n${this.#log.join('\n')}`);
  }

  /** A signed-up user in a process of its own. */
  async user(name) {
    const user = await this.visitor(name);
    await user.signUp();
    return user;
  }

  /** Somebody who has not logged in. */
  visitor(name = 'visitor') {
    const count = (this.#names.get(name) ?? 0) + 1;
    this.#names.set(name, count);
    return this.#join(new User(count === 1 ? name : `${name}${count}`));
  }

  /** Whoever holds the master key. */
  admin() {
    return this.#join(new User('admin', { useMasterKey: true }));
  }

  async #join(user) {
    this.#users.push(user);
    await user.connect({ ...keys, url: this.url });
    return user;
  }

  async endUsers() {
    await Promise.all(this.#users.splice(0).map(user => user.end()));
  }

  async close() {
    await this.endUsers();
    try {
      await this.stop();
    } finally {
      this.#process?.kill('SIGKILL');
      await rm(this.dataDir, { recursive: true, force: true });
      if (this.databaseUrl) await dropDatabase(this.databaseUrl);
    }
  }

  #readyLine(child) {
    return new Promise((resolve, reject) => {
      const fail = why => {
        child.kill('SIGKILL');
        reject(new Error(`${why}\n${this.#log.join('\n')}`));
      };
      const timer = setTimeout(fail, patience, 'the server did not become ready');
      child.once('error', fail);
      const ended = code => fail(`the server ended with ${code} before it was ready`);
      child.once('exit', ended);
      createInterface({ input: child.stdout }).on('line', line => {
        if (!line.startsWith('ready ')) return;
        clearTimeout(timer);
        child.off('exit', ended);
        resolve(line.split(' ')[1]);
      });
    });
  }

  #remember(line) {
    this.#log.push(line);
    if (this.#log.length > 50) this.#log.shift();
    if (process.env.TEST_LOG) process.stderr.write(`${line}\n`);
  }
}

function binary() {
  const candidates = process.env.TIDINGS_BIN
    ? [path.resolve(process.env.TIDINGS_BIN)]
    : ['release', 'debug'].map(profile => path.join(repository, 'target', profile, 'tidings'));
  const found = candidates.find(existsSync);
  if (!found) throw new Error(`no server binary at ${candidates.join(' or ')}: run \`cargo build --release\` first`);
  return found;
}

/** Our own settings come as flags, and the place of the objects as a variable; none may slip in from the shell. */
function environment(databaseUrl) {
  const others = Object.entries(process.env).filter(([name]) => !name.startsWith('TIDINGS_'));
  return { ...Object.fromEntries(others), ...(databaseUrl && { TIDINGS_DATABASE_URL: databaseUrl }) };
}
