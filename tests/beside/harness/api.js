// A server's REST API as somebody sees it: a visitor, a logged-in user, or the master. What it answers is Parse's JSON.

export class Api {
  /** Which server this is, for titles and messages. */
  name;
  url;
  #keys;
  #headers;

  constructor(name, url, keys, headers = {}) {
    this.name = name;
    this.url = url;
    this.#keys = keys;
    this.#headers = headers;
  }

  /** The same server, asked with the master key. */
  get master() {
    return this.#with({ 'X-Parse-Master-Key': this.#keys.masterKey });
  }

  /** The same server, asked by whoever holds this session token. */
  as(sessionToken) {
    return this.#with({ 'X-Parse-Session-Token': sessionToken });
  }

  /** The same server, asked from this installation. */
  from(installationId) {
    return this.#with({ 'X-Parse-Installation-Id': installationId });
  }

  #with(headers) {
    return new Api(this.name, this.url, this.#keys, { ...this.#headers, ...headers });
  }

  // ---- objects

  create(className, fields) {
    return this.ask('POST', `/classes/${className}`, fields);
  }

  update(className, id, fields) {
    return this.ask('PUT', `/classes/${className}/${id}`, fields);
  }

  destroy(className, id) {
    return this.ask('DELETE', `/classes/${className}/${id}`);
  }

  get(className, id, options) {
    return this.ask('GET', `/classes/${className}/${id}`, options);
  }

  async find(className, where = {}, options = {}) {
    return (await this.ask('GET', `/classes/${className}`, { where, ...options })).results;
  }

  async count(className, where = {}) {
    return (await this.ask('GET', `/classes/${className}`, { where, count: 1, limit: 0 })).count;
  }

  // ---- users

  signUp(fields) {
    return this.ask('POST', '/users', fields);
  }

  logIn(fields) {
    return this.ask('POST', '/login', fields);
  }

  logOut() {
    return this.ask('POST', '/logout', {});
  }

  me() {
    return this.ask('GET', '/users/me');
  }

  // ---- classes

  schema(className) {
    return this.ask('GET', `/schemas/${className}`);
  }

  createClass(className, definition = {}) {
    return this.ask('POST', `/schemas/${className}`, { className, ...definition });
  }

  changeClass(className, definition) {
    return this.ask('PUT', `/schemas/${className}`, definition);
  }

  deleteClass(className) {
    return this.ask('DELETE', `/schemas/${className}`);
  }

  // ---- anything

  /** The answer's body; a refusal throws with Parse's `code` and the HTTP `status`. */
  async ask(method, path, body) {
    const url = new URL(this.url + path);
    const inUrl = method === 'GET' && body;
    for (const [name, value] of Object.entries(inUrl ? body : {})) {
      url.searchParams.set(name, typeof value === 'string' ? value : JSON.stringify(value));
    }
    const answer = await fetch(url, {
      method,
      headers: {
        'Content-Type': 'application/json',
        'X-Parse-Application-Id': this.#keys.appId,
        'X-Parse-Javascript-Key': this.#keys.javascriptKey,
        ...this.#headers,
      },
      body: body && !inUrl ? JSON.stringify(body) : undefined,
    });
    const json = await answer.json();
    if (answer.ok) return json;
    const { code, error, message } = json;
    throw Object.assign(new Error(`${this.name}, ${method} ${path}: ${answer.status}, ${error ?? message}`), {
      code, status: answer.status,
    });
  }
}
