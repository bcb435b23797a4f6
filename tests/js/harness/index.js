// What a test file imports: the server, its users, and the few words the stories are told in.

import assert from 'node:assert/strict';

export { startServer } from './server.js';

/** The pointer to a saved object, as Parse writes it. */
export function pointerTo({ className, objectId }) {
  return { __type: 'Pointer', className, objectId };
}

/** `creator` starts a conversation with `others`, setting no ACL: that is the hooks' job. */
export function startConversation(creator, ...others) {
  const participants = [creator, ...others].map(user => user.pointer);
  return creator.create('Conversation', { participants });
}

/** `user` sends `text` to the conversation, as an app does: no sender, no ACL. */
export function say(user, conversation, text) {
  return user.create('Message', { conversation: pointerTo(conversation), text });
}

/** The filter for everything that belongs to one conversation. */
export function inside(conversation) {
  return { conversation: pointerTo(conversation) };
}

/** Waits for `promise` to be refused with one of these Parse codes; answers with the error. */
export async function refused(promise, ...codes) {
  const outcome = await promise.then(value => ({ value }), error => ({ error }));
  assert.ok(outcome.error, `expected a refusal with code ${codes.join(' or ')}, got ${JSON.stringify(outcome.value)}`);
  assert.ok(
    codes.includes(outcome.error.code),
    `expected code ${codes.join(' or ')}, got ${outcome.error.code}: ${outcome.error.message}`,
  );
  return outcome.error;
}

/** The object ids, for comparing sets of results. */
export function idsOf(objects) {
  return objects.map(object => object.objectId).sort();
}
