// My conversations, the most recently active one first.

import Parse from 'parse';
import { Collection } from './collection';
import { type Conversation, me, myId, reference, toConversation } from './model';

/** More than anybody scrolls through. */
const shown = 200;

export class Conversations {
  #collection: Collection<Conversation>;

  constructor(changed: () => void, failed: (error: unknown) => void) {
    const mine = () => new Parse.Query('Conversation').equalTo('participants', me());
    this.#collection = new Collection({
      live: mine(),
      stored: mine().descending('updatedAt'),
      limit: () => shown,
      read: toConversation,
      changed,
      failed,
      signal: new AbortController().signal, // followed until the page goes
    });
  }

  open(): Promise<void> {
    return this.#collection.open();
  }

  get sorted(): Conversation[] {
    return [...this.#collection.items.values()].sort((a, b) => b.activeAt.getTime() - a.activeAt.getTime());
  }

  get(id: string): Conversation | undefined {
    return this.#collection.items.get(id);
  }

  /** The conversation with these people: two people have one and reopen it, a group is always a new one. */
  async startWith(others: string[], title = ''): Promise<Conversation> {
    const [other] = others;
    const existing = others.length === 1 && other ? await this.#between(other) : undefined;
    const conversation = existing ?? (await this.#create(others, title));
    this.#collection.put(conversation);
    return conversation;
  }

  async #between(other: string): Promise<Conversation | undefined> {
    const query = new Parse.Query('Conversation')
      .containsAll('participants', [me(), reference('_User', other)])
      .ascending('createdAt')
      .limit(1000);
    const shared = (await query.find()).map(toConversation);
    return shared.find(conversation => conversation.participants.length === 2);
  }

  async #create(others: string[], title: string): Promise<Conversation> {
    const conversation = new Parse.Object('Conversation');
    conversation.set('participants', [myId(), ...others].map(id => reference('_User', id)));
    if (title) conversation.set('title', title);
    return toConversation(await conversation.save());
  }
}
