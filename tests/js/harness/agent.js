// One user's device: a process with the unmodified SDK that does what the tests ask it to.

import Parse from 'parse/node';

let options = {};
const subscriptions = new Map();

const verbs = {
  connect({ url, appId, javascriptKey, masterKey }, { useMasterKey }) {
    if (useMasterKey) options = { useMasterKey };
    Parse.initialize(appId, javascriptKey, useMasterKey ? masterKey : undefined);
    Parse.serverURL = url;
    Parse.User.enableUnsafeCurrentUser();
  },

  signUp: async fields => account(await Parse.User.signUp(fields.username, fields.password, { email: fields.email })),
  logIn: async (name, password) => account(await Parse.User.logIn(name, password)),
  logOut: () => Parse.User.logOut(),

  create: (className, fields) => new Parse.Object(className).save(decode(fields), options),
  update: (className, id, fields) => existing(className, id).save(decode(fields), options),
  destroy: (className, id) => existing(className, id).destroy(options),
  get: (className, id, rest) => query(className, {}, rest).get(id, options),
  find: (className, where, rest) => query(className, where, rest).find(options),
  count: (className, where) => query(className, where).count(options),

  run: (story, details) => new Function(`return (${story})`)()(Parse, ...details),

  async subscribe(number, className, where, { sessionToken, ...rest }) {
    const subscription = await query(className, where, rest).subscribe(sessionToken);
    subscriptions.set(number, subscription);
    for (const event of ['create', 'enter', 'update', 'leave', 'delete']) {
      subscription.on(event, (object, original) => {
        const hasOriginal = original instanceof Parse.Object;
        tell(number, event, { object: plain(object), original: hasOriginal ? plain(original) : undefined });
      });
    }
    subscription.on('result', results => tell(number, 'result', { results: plain(results) }));
    for (const event of ['open', 'close', 'error']) subscription.on(event, () => tell(number, event));
  },

  /** The SDK has no call for the protocol's `update`, so the frame goes out on the SDK's own socket. */
  async changeQuery(number, where) {
    const subscription = subscriptions.get(number);
    subscription.query.withJSON({ where });
    const { socket } = await Parse.CoreManager.getLiveQueryController().getDefaultLiveQueryClient();
    const { className } = subscription.query;
    socket.send(JSON.stringify({ op: 'update', requestId: subscription.id, query: { className, where } }));
  },

  askForResult: number => subscriptions.get(number).find(),
  unsubscribe: number => subscriptions.get(number).unsubscribe(),
};

process.on('disconnect', () => process.exit());
process.on('message', async ({ number, verb, details }) => {
  try {
    process.send({ number, result: plain(await verbs[verb](...details)) });
  } catch (error) {
    process.send({ number, error: { code: error.code, message: error.message ?? String(error) } });
  }
});

function tell(subscription, event, details = {}) {
  process.send({ subscription, event, ...details });
}

function account(user) {
  return { id: user.id, sessionToken: user.getSessionToken() };
}

function existing(className, objectId) {
  return Parse.Object.fromJSON({ className, objectId });
}

function query(className, where, rest = {}) {
  return Parse.Query.fromJSON(className, { where, ...rest });
}

function decode({ ACL, ...fields }) {
  const decoded = Object.entries(fields).map(([key, value]) => [key, Parse._decode(key, value)]);
  return { ...Object.fromEntries(decoded), ...(ACL && { ACL: new Parse.ACL(ACL) }) };
}

/** Objects as JSON with their class name, wherever they stand in a result. */
function plain(value) {
  if (value instanceof Parse.Object) return { className: value.className, ...value.toJSON() };
  if (Array.isArray(value)) return value.map(plain);
  return value;
}
