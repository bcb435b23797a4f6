// The web chat as its users see it: two windows, two people, one conversation and then another.

import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { startServer } from '../js/harness/server.js';
import { Window } from './window.js';

const screenshots = fileURLToPath(new URL('../../target/screenshots', import.meta.url));

const server = await startServer();
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: [
    '--no-sandbox', '--disable-background-networking', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-component-update', '--disable-sync',
  ],
});
after(() => browser.close());

await mkdir(screenshots, { recursive: true });

test('two windows chat', async t => {
  const address = new URL('/chat', server.url).href;
  const [alice, bob, carol] = await Promise.all(['alice', 'bob', 'carol'].map(name => Window.open(browser, address, name)));

  /** The story ends with the first step that fails; what the windows showed then is kept. */
  const step = async (name, act) => {
    let failure;
    await t.test(name, () => act().catch(error => {
      failure = error;
      throw error;
    }));
    if (!failure) return;
    for (const user of [alice, bob, carol]) await user.page.screenshot({ path: `${screenshots}/failed-${user.name}.png` });
    throw new Error(`failed at: ${name}`, { cause: [alice, bob, carol].flatMap(user => user.errors) });
  };

  await step('they sign up', async () => {
    for (const user of [alice, bob, carol]) await user.signUp(`${user.name}'s password`);
  });

  await step('Alice finds Bob in any case and starts a conversation, which Bob sees appear', async () => {
    await alice.startConversation(['BO', 'bob']);
    await alice.isIn('bob');
    await bob.lists('alice', 'No messages yet');
  });

  await step('what Alice writes Bob sees live, as it was typed', async () => {
    await bob.openConversation('alice');
    await alice.send('Hello Bob, I <3 fish & chips 🐟');
    for (const user of [alice, bob]) await user.sees('Hello Bob, I <3 fish & chips 🐟');
    await bob.lists('alice', 'Hello Bob, I <3 fish & chips 🐟');
  });

  await step('Bob sees Alice typing, until she has sent', async () => {
    await alice.type('Lunch at n');
    await bob.seesTyping('alice is typing…');
    await alice.send('Lunch at noon?');
    await bob.sees('Lunch at noon?');
    await bob.seesNobodyTyping();
  });

  await step('Bob answers, and nothing is there twice', async () => {
    await bob.send('Gladly! The new place at the harbour?');
    await alice.sees('Gladly! The new place at the harbour?');
    await alice.send('Perfect. See you there.');
    await bob.sees('Perfect. See you there.');
    for (const user of [alice, bob]) assert.equal(await user.messageCount(), 4);
  });

  await step('in a group with Carol the messages of the other room do not show', async () => {
    await bob.startConversation(['LIC', 'alice'], ['aro', 'carol']);
    await bob.isIn('alice and carol');
    await carol.lists('alice and bob', 'No messages yet');
    await alice.send('Bob, are you still there?');
    await bob.lists('alice', 'Bob, are you still there?', { unread: true });
    await bob.send('Hello to both of you');
    await bob.sees('Hello to both of you');
    assert.equal(await bob.messageCount(), 1);

    await carol.openConversation('alice and bob');
    await carol.type('Hm');
    await alice.openConversation('bob and carol');
    await alice.type('Well');
    await carol.type('m');
    await bob.seesTyping('alice');
    await bob.seesTyping('carol');
  });

  await step('back in the first room everything is there, and live again', async () => {
    await bob.openConversation('alice');
    await bob.sees('Bob, are you still there?');
    await alice.openConversation('bob');
    await bob.send('Just had a word with Carol.');
    await alice.sees('Just had a word with Carol.');
    assert.equal(await alice.messageCount(), 6);
  });

  await step('choosing the same person again reopens the same conversation', async () => {
    const conversations = await alice.conversationCount();
    await alice.startConversation(['bob', 'bob']);
    await alice.isIn('bob');
    await alice.sees('Lunch at noon?');
    assert.equal(await alice.conversationCount(), conversations);
  });

  await step('a message is there once, even when its live event overtakes the answer to its sender', async () => {
    const release = await alice.holdAnswers();
    await alice.send('Shall I book a table?');
    await bob.sees('Shall I book a table?');
    await bob.send('Yes, for two.');
    await alice.sees('Yes, for two.'); // so the event about her own has come, too
    assert.equal(await alice.countOf('Shall I book a table?'), 1);
    await release();
    await alice.hasSentEverything();
    assert.equal(await alice.countOf('Shall I book a table?'), 1);
  });

  await alice.type('I will take the');
  await bob.seesTyping('alice is typing…');
  await bob.page.screenshot({ path: `${screenshots}/chat.png` });

  await step('a reload keeps the session and the room', async () => {
    await alice.page.reload();
    await alice.isIn('bob');
    await alice.sees('Lunch at noon?');
    await alice.isOnline();
    await bob.send('Back already?');
    await alice.sees('Back already?');
  });

  await step('a refused message is explained, and not lost', async () => {
    for (let n = 1; n <= 10; n++) await carol.send(`Flood ${n}`);
    await carol.send('One too many');
    await carol.isToldThat('You are sending too fast. Wait a moment, then try again.');
    assert.match(await carol.page.getByTestId('text').inputValue(), /One too many|Flood/);
  });

  await step('after a restart of the server both are back, and what was missed is fetched', async () => {
    await server.stop('SIGKILL');
    await Promise.all([alice.isReconnecting(), bob.isReconnecting()]);
    await server.start();
    await bob.send('Did you lose the connection, too?');
    await alice.sees('Did you lose the connection, too?');
    await Promise.all([alice.isOnline(), bob.isOnline()]);
    assert.equal(await alice.countOf('Did you lose the connection, too?'), 1);
  });

  await step('older messages come page by page', async () => {
    await importMessages(35);
    await alice.page.reload();
    await alice.sees('Imported 35');
    assert.equal(await alice.messageCount(), 30);
    await alice.showOlder();
    await alice.sees('Lunch at noon?');
    await alice.hasReadEverything();
    assert.equal(await alice.messageCount(), 10 + 35);
  });

  await step('who logs out is out, and can log in again', async () => {
    await bob.logOut();
    await bob.page.reload();
    await bob.logIn(`bob's password`);
    await bob.lists('alice', 'Imported 35');
  });

  await step('who has been logged out elsewhere is asked to log in again', async () => {
    await endSessionsOf('carol');
    await carol.sendUnlessLoggedOut('Anybody?');
    await carol.isAskedToLogIn('Your session has ended. Please log in again.');
  });

  assert.deepEqual([alice, bob, carol].flatMap(user => user.errors), []);
});

/** Fills the first conversation with messages of Alice, past the rate limit. */
async function importMessages(count) {
  const { results: [{ conversation, sender }] } = await admin('GET', '/classes/Message', { where: { text: 'Lunch at noon?' } });
  for (let n = 1; n <= count; n++) {
    await admin('POST', '/classes/Message', { conversation, sender, text: `Imported ${n}` });
  }
}

async function endSessionsOf(username) {
  const { results: [user] } = await admin('GET', '/users', { where: { username } });
  const pointer = { __type: 'Pointer', className: '_User', objectId: user.objectId };
  const { results: sessions } = await admin('GET', '/sessions', { where: { user: pointer } });
  for (const { objectId } of sessions) await admin('DELETE', `/sessions/${objectId}`);
}

/** A request with the master key. */
async function admin(method, path, body) {
  const answer = await fetch(server.url + path, {
    method: 'POST',
    headers: { 'X-Parse-Application-Id': 'chat', 'X-Parse-Master-Key': 'masterkey', 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...body, ...(method !== 'POST' && { _method: method }) }),
  });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.json();
}
