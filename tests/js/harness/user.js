// A user as the tests see it. The SDK itself runs in the user's own process (agent.js): it keeps one
// current user, one installation and one live-query connection per process, just as an app does.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Subscription } from './subscription.js';

const agent = fileURLToPath(new URL('./agent.js', import.meta.url));

export class User {
  /** Set by signUp and logIn. */
  id;
  sessionToken;
  #process;
  #requests = new Map();
  #asked = 0;
  #subscriptions = new Map();
  #useMasterKey;

  constructor(name, { useMasterKey = false } = {}) {
    this.name = name;
    this.password = `${name}'s password`;
    this.email = `${name}@example.com`;
    this.#useMasterKey = useMasterKey;
  }

  get pointer() {
    return { __type: 'Pointer', className: '_User', objectId: this.id };
  }

  // ---- accounts

  async signUp() {
    this.#become(await this.#ask('signUp', { username: this.name, password: this.password, email: this.email }));
  }

  /** Logs in on this device; another user's name and password may be borrowed for a second device. */
  async logIn({ name, password } = this) {
    this.#become(await this.#ask('logIn', name, password));
  }

  async logOut() {
    await this.#ask('logOut');
  }

  #become({ id, sessionToken }) {
    this.id = id;
    this.sessionToken = sessionToken;
  }

  // ---- objects, as plain JSON

  create(className, fields) {
    return this.#ask('create', className, fields);
  }

  update(className, id, fields) {
    return this.#ask('update', className, id, fields);
  }

  destroy(className, id) {
    return this.#ask('destroy', className, id);
  }

  /** `options` are the query's other parts, e.g. `{ include: 'sender', order: '-createdAt', limit: 30 }`. */
  get(className, id, options = {}) {
    return this.#ask('get', className, id, options);
  }

  find(className, where = {}, options = {}) {
    return this.#ask('find', className, where, options);
  }

  count(className, where = {}) {
    return this.#ask('count', className, where);
  }

  /** Anything else the SDK can do: runs in the user's process as `story(Parse, ...details)`; it sees nothing else. */
  run(story, ...details) {
    return this.#ask('run', story.toString(), details);
  }

  // ---- live queries

  /** `await query.subscribe()`, then handlers. `options` may name `keys`, `watch` and a `sessionToken`. */
  async subscribe(className, where = {}, options = {}) {
    const subscription = new Subscription(`${this.name}'s ${className}`, (verb, ...details) => this.#ask(verb, ...details));
    subscription.number = this.#subscriptions.size + 1;
    this.#subscriptions.set(subscription.number, subscription);
    await this.#ask('subscribe', subscription.number, className, where, options);
    return subscription;
  }

  // ---- the process

  async connect(server) {
    this.#process = fork(agent, [], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    this.#process.on('message', message => this.#hear(message));
    this.#process.once('exit', () => this.#abandon());
    await this.#ask('connect', server, { useMasterKey: this.#useMasterKey });
  }

  async end() {
    if (this.#process.exitCode !== null) return;
    const exit = once(this.#process, 'exit');
    this.#process.kill('SIGKILL');
    await exit;
  }

  #ask(verb, ...details) {
    const number = ++this.#asked;
    const answer = Promise.withResolvers?.() ?? withResolvers();
    this.#requests.set(number, answer);
    this.#process.send({ number, verb, details });
    return answer.promise;
  }

  #hear(message) {
    if (message.subscription) {
      this.#subscriptions.get(message.subscription).receive(message);
      return;
    }
    const { resolve, reject } = this.#requests.get(message.number);
    this.#requests.delete(message.number);
    if (message.error) {
      const { code, message: why } = message.error;
      reject(Object.assign(new Error(`${this.name}: ${why}`), { code }));
    } else {
      resolve(message.result);
    }
  }

  #abandon() {
    for (const { reject } of this.#requests.values()) reject(new Error(`${this.name}'s process has ended`));
  }
}

function withResolvers() {
  const answer = {};
  answer.promise = new Promise((resolve, reject) => Object.assign(answer, { resolve, reject }));
  return answer;
}
